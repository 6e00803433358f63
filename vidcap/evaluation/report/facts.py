"""What a caption score cannot be read without: tokens, references, document frequencies, stages."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..scores.metrics import DEFAULT_METRICS, DocumentFrequencies
from ..scores.pairs import TOKENIZER_NAMES, Tokenizer, check_tokenizer


def scoring_facts(
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer = "ptb",
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
) -> dict[str, Any]:
    """
    States how scores of [`score_captions`] with the same arguments came about, for a report.

    Returns:
        `dict[str, Any]`: `clips`, `tokenizer`, `references_per_clip` (`{"min", "median", "max"}`),
        `document_frequencies` (of CIDEr: what clips, and how many) and, with `"meteor"`, `meteor`: `stages`, `wordnet`
        (its version or `None`) and how it differs from METEOR 1.5, in words.

    Raises:
        `ValueError`: if there are no clips or the tokenizer is unknown.
        `ImportError`: if METEOR is asked for and its stemmer is not installed.
    """
    check_tokenizer(tokenizer)
    if not references:
        raise ValueError("There are no clips: references is empty.")
    counts = [len(alternatives) for alternatives in references]
    facts: dict[str, Any] = {
        "clips": len(counts),
        "tokenizer": TOKENIZER_NAMES[tokenizer],
        "references_per_clip": {"min": min(counts), "median": statistics.median(counts), "max": max(counts)},
        "document_frequencies": (
            f"the references scored ({len(counts)} clips)"
            if document_frequencies is None
            else f"{document_frequencies.source} ({document_frequencies.clips} clips)"
        ),
    }
    if "meteor" in metrics:
        from ..scores.meteor import installed_synonyms, meteor_facts

        facts["meteor"] = meteor_facts(installed_synonyms())
    return facts
