"""From captions to scores, and the controls that tell what the scores are worth.

Here is what needs captions alone; `vidcap.evaluation.evaluate` runs a model and `vidcap.evaluation.report` writes the
page.
"""

from .controls import evaluate_captions, most_frequent_caption, other_clip_indices
from .copies import copy_shares, find_copies
from .metrics import score_captions
from .verdict import judge, verdict_text

__all__ = [
    "copy_shares",
    "evaluate_captions",
    "find_copies",
    "judge",
    "most_frequent_caption",
    "other_clip_indices",
    "score_captions",
    "verdict_text",
]
