"""From captions to scores, and the controls that tell what the scores are worth.

Here is what needs captions alone; `vidcap.evaluation.evaluate` runs a model and `vidcap.evaluation.report` writes the
page.
"""

from .controls import evaluate_captions, most_frequent_caption, other_clip_indices
from .metrics import score_captions

__all__ = ["evaluate_captions", "most_frequent_caption", "other_clip_indices", "score_captions"]
