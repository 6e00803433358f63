"""From captions to scores, and the controls that show what the scores are worth.

The names here need captions alone and load on first use: scores need no torch. `vidcap.evaluation.evaluate` runs a
model, and `vidcap.evaluation.report.report` writes the page.
"""

from typing import TYPE_CHECKING

from processing.support.lazy_names import lazy_names

if TYPE_CHECKING:
    from .controls.controls import evaluate_captions as evaluate_captions
    from .controls.controls import most_frequent_caption as most_frequent_caption
    from .controls.controls import other_clip_indices as other_clip_indices
    from .controls.copies import copy_shares as copy_shares
    from .controls.copies import find_copies as find_copies
    from .controls.verdict import judge as judge
    from .controls.verdict import verdict_text as verdict_text
    from .scores.diversity import caption_diversity as caption_diversity
    from .scores.metrics import caption_document_frequencies as caption_document_frequencies
    from .scores.metrics import score_captions as score_captions
    from .scores.metrics import score_each as score_each
    from .scores.metrics import scoring_facts as scoring_facts
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            ".controls.controls": ("evaluate_captions", "most_frequent_caption", "other_clip_indices"),
            ".controls.copies": ("copy_shares", "find_copies"),
            ".controls.verdict": ("judge", "verdict_text"),
            ".scores.diversity": ("caption_diversity",),
            ".scores.metrics": ("caption_document_frequencies", "score_captions", "score_each", "scoring_facts"),
        },
    )
