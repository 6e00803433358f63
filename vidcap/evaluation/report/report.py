"""The result of a run: `report.json` for programs, `report.html` for people.

Guarantees: each file appears complete or not at all. [`add_details`] replaces nothing that the report already has, and
the mean of a score per clip is the report's score, up to rounding.

Limitations: no BLEU and no distinct captions per clip, since these scores depend on all clips together.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidcap.files import write_atomically

from ..scores.bootstrap import scores_per_clip
from ..scores.metrics import score_each, scoring_facts
from .clip_pictures import ReportExample
from .errors import analyse_errors
from .report_page import render_page

SCHEMA_VERSION = 1  # of report.json; raised when a key disappears or changes its meaning
_DIGITS = 3  # decimals of a score per clip; CIDEr times 100 has three digits before the point


def write_report(
    directory: str | os.PathLike[str],
    report: Mapping[str, Any],
    *,
    examples: Sequence[ReportExample],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `report.json` (`schema_version` and `report`) and the page `report.html`.

    Args:
        directory: Created if necessary; earlier reports in it are replaced.
        report: `scores`, `controls` and facts about the run. A missing score is shown as missing, a missing control
            not at all.
        examples: Clips to show.
        history: `trainer.state.log_history`, for the curves.

    Raises:
        ValueError: `report` contains NaN or infinity, or an example's frames are not uint8 (T, H, W, 3).
        TypeError: `report` contains a value that JSON cannot represent.
        ImportError: There is a history and matplotlib is not installed.
    """
    try:
        text = _json_text({"schema_version": SCHEMA_VERSION, **report})
    except ValueError as error:
        raise ValueError(
            f"report.json cannot hold NaN or infinite numbers ({error}); remove these scores from the report"
        ) from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.json", text)  # before the page, so that a bad picture costs no results
    write_atomically(directory / "report.html", render_page(report, examples, history))


def _json_text(report: Mapping[str, Any]) -> str:
    """Indented JSON, except for one line per column of the table of clips."""
    columns = {
        name: json.dumps(column, ensure_ascii=False, allow_nan=False)
        for name, column in report.get("per_clip", {}).items()
    }
    table = ",\n".join(f"    {json.dumps(name)}: {column}" for name, column in columns.items())
    others = {name: value for name, value in report.items() if name != "per_clip"}
    text = json.dumps(others, indent=2, ensure_ascii=False, allow_nan=False)
    if columns:
        text = text.removesuffix("\n}") + f',\n  "per_clip": {{\n{table}\n  }}\n}}'
    return text + "\n"


def add_details(
    report: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    *,
    columns: dict[str, Sequence[Any]] | None = None,
) -> None:
    """Add `scoring`, `per_clip` and `errors` to a report, and `cider` and `exact` to each prediction.

    Args:
        report: A report with `scores`.
        predictions: Rows with `file_name`, `hypothesis`, `references`, and the captions under controls: `backwards`,
            and the mapping `controls`.
        columns: Other facts about each clip by which the scores are grouped; see [`analyse_errors`].

    `per_clip` is a table by columns: `file_name`, `references` (the start of a hash of them, which tells whether two
    reports have the same), each score, and `controls`, with the scores of the captions under each control, computed
    with the document frequencies of the clips that have one.
    """
    hypotheses = [row["hypothesis"] for row in predictions]
    references = [row["references"] for row in predictions]
    # No `distinct`: its value for a clip depends on the other captions, so that a resample of it means nothing.
    clip_scores = score_each(hypotheses, references, metrics=("cider", "rougeL", "exact"))
    scores = {name: _rounded(values) for name, values in clip_scores.items()}
    for row, cider, exact in zip(predictions, scores["cider"], scores["exact"], strict=True):
        row |= {"cider": cider, "exact": bool(exact)}
    report.setdefault("scoring", scoring_facts(references))
    captions_by_control = [control_captions(row) for row in predictions]
    controls = {
        name: _control_scores([captions.get(name) for captions in captions_by_control], references)
        for name in dict.fromkeys(name for captions in captions_by_control for name in captions)
    }
    report["per_clip"] = {
        "file_name": [row["file_name"] for row in predictions],
        "references": [_fingerprint(alternatives) for alternatives in references],
        **scores,
        **({"controls": controls} if controls else {}),
    }
    report["errors"] = analyse_errors(hypotheses, references, scores, columns=columns or {})


def control_captions(prediction: Mapping[str, Any]) -> dict[str, str]:
    """The captions of one prediction under controls, by the control's name."""
    captions = {"reversed": prediction.get("backwards")} | (prediction.get("controls") or {})
    return {name: caption for name, caption in captions.items() if isinstance(caption, str)}


def _control_scores(
    captions: Sequence[str | None], references: Sequence[Sequence[str]]
) -> dict[str, list[float | None]]:
    """CIDEr and exactness under a control, among the clips that have a caption; `None` for the others."""
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


def _rounded(values: Iterable[float]) -> list[float]:
    return [int(value) if value == int(value) else round(float(value), _DIGITS) for value in values]
