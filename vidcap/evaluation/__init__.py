"""From captions to scores, and the controls that tell what the scores are worth.

Here is what needs captions alone; `vidcap.evaluation.evaluate` runs a model and `vidcap.evaluation.report.report`
writes the page.
"""

from .controls.controls import evaluate_captions, most_frequent_caption, other_clip_indices
from .controls.copies import copy_shares, find_copies
from .controls.verdict import judge, verdict_text
from .report.facts import scoring_facts
from .scores.diversity import caption_diversity
from .scores.metrics import caption_document_frequencies, score_captions, score_each

__all__ = [
    "caption_diversity",
    "caption_document_frequencies",
    "copy_shares",
    "evaluate_captions",
    "find_copies",
    "judge",
    "most_frequent_caption",
    "other_clip_indices",
    "score_captions",
    "score_each",
    "scoring_facts",
    "verdict_text",
]
