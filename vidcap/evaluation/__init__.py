"""From captions to scores, and the controls that tell what the scores are worth.

Here is what needs captions alone; `vidcap.evaluation.evaluate` runs a model and `vidcap.evaluation.report` writes the
page.
"""

from .controls import evaluate_captions, most_frequent_caption, other_clip_indices
from .diversity import caption_diversity
from .facts import scoring_facts
from .metrics import caption_document_frequencies, score_captions, score_each

__all__ = [
    "caption_diversity",
    "caption_document_frequencies",
    "evaluate_captions",
    "most_frequent_caption",
    "other_clip_indices",
    "score_captions",
    "score_each",
    "scoring_facts",
]
