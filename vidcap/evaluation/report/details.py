"""What a report says beside its scores: each clip's own, how they were computed, and which words are confused.

Promises: nothing that stands in the report already is replaced; the means of the scores a clip are those of the report
to the rounding. Gives up: BLEU and distinct captions a clip, since these scores are of all clips together.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..scores.bootstrap import scores_per_clip
from ..scores.metrics import score_each
from .errors import analyse_errors
from .facts import scoring_facts

_DIGITS = 3  # CIDEr times 100 has three before the point


def add_details(
    report: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    *,
    columns: dict[str, Sequence[Any]] | None = None,
) -> None:
    """Adds `scoring`, `per_clip` and `errors` to a report, and `cider` and `exact` to each line of predictions.

    Args:
        report: With `scores`.
        predictions: `file_name`, `hypothesis`, `references`, and the captions under controls: `backwards`, and those
            of the mapping `controls`.
        columns: What else is known of each clip, by which the scores are grouped; see [`analyse_errors`].

    `per_clip` is a table by columns: `file_name`, `references` (the start of a hash of them, to tell whether two
    reports mean the same), each score, and `controls`, for each control the scores of the captions under it, with
    the document frequencies of the clips that have one.
    """
    hypotheses = [each["hypothesis"] for each in predictions]
    references = [each["references"] for each in predictions]
    # Not `distinct`, whose value of a clip depends on the other clips' captions: drawn anew, any change seems certain.
    of_each = score_each(hypotheses, references, metrics=("cider", "rougeL", "exact"))
    scores = {name: _rounded(values) for name, values in of_each.items()}
    for line, cider, exact in zip(predictions, scores["cider"], scores["exact"], strict=True):
        line |= {"cider": cider, "exact": bool(exact)}
    report.setdefault("scoring", scoring_facts(references))
    under = [control_captions(each) for each in predictions]
    controls = {
        name: _control_scores([captions.get(name) for captions in under], references)
        for name in dict.fromkeys(name for captions in under for name in captions)
    }
    report["per_clip"] = {
        "file_name": [each["file_name"] for each in predictions],
        "references": [_fingerprint(alternatives) for alternatives in references],
        **scores,
        **({"controls": controls} if controls else {}),
    }
    report["errors"] = analyse_errors(hypotheses, references, scores, columns=columns or {})


def control_captions(line: dict[str, Any]) -> dict[str, str]:
    """The captions of one line of predictions under controls, by the control's name."""
    found = {"reversed": line["backwards"]} if isinstance(line.get("backwards"), str) else {}
    found |= line.get("controls") or {}
    return {name: caption for name, caption in found.items() if isinstance(caption, str)}


def _control_scores(
    captions: Sequence[str | None], references: Sequence[Sequence[str]]
) -> dict[str, list[float | None]]:
    """CIDEr and exactness of the captions under a control, among the clips that have one; `None` for the others."""
    clips = [index for index, caption in enumerate(captions) if caption is not None]
    scores = scores_per_clip([str(captions[index]) for index in clips], [references[index] for index in clips])
    table: dict[str, list[float | None]] = {}
    for key in ("cider", "exact"):
        table[key] = [None] * len(captions)
        for index, value in zip(clips, _rounded(scores[key]), strict=True):
            table[key][index] = value
    return table


def _fingerprint(references: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(references)).encode()).hexdigest()[:12]


def _rounded(values: Any) -> list[float]:
    return [int(value) if value == int(value) else round(float(value), _DIGITS) for value in values]
