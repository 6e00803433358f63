"""Caption scores as a module for `evaluate`.

    evaluate.load("PATH/TO/vidcap/evaluation/caption_scores").compute(predictions=[...], references=[[...], ...])

The module is copied to a cache before it is imported, so `vidcap` must be installed; `evaluate` finds its
requirements by reading the import lines, so there is one import per line.
"""

from collections.abc import Sequence
from typing import Literal

import datasets
import evaluate

from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.metrics import DEFAULT_METRICS


class CaptionScores(evaluate.Metric):
    """CIDEr-D, BLEU-1 to BLEU-4, ROUGE-L (all times 100), exact matches and distinct captions (shares).

    `metrics` can add `"cider_plain"` and `"meteor"`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=score_captions.__doc__,
            features=[  # several references per caption, or one
                datasets.Features({"predictions": datasets.Value("string"), "references": references})
                for references in (datasets.Sequence(datasets.Value("string")), datasets.Value("string"))
            ],
        )

    def _compute(
        self,
        *,
        predictions: list[str],
        references: list[list[str]] | list[str],
        tokenizer: Literal["ptb", "whitespace"] = "ptb",
        metrics: Sequence[str] = DEFAULT_METRICS,
    ) -> dict[str, float]:
        truths = [[captions] if isinstance(captions, str) else captions for captions in references]
        return score_captions(predictions, truths, tokenizer=tokenizer, metrics=metrics)
