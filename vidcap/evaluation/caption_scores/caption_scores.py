"""The package's caption scores as a module for `evaluate`.

    evaluate.load("PATH/TO/vidcap/evaluation/caption_scores").compute(predictions=[...], references=[[...], ...])

The module is copied to a cache before it is imported, so `vidcap` must be installed; `evaluate` finds what a module
needs by reading its import lines, which therefore stand one to a line.
"""

from collections.abc import Sequence
from typing import Literal

import datasets
import evaluate

from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.metrics import DEFAULT_METRICS


class CaptionScores(evaluate.Metric):
    """CIDEr-D, BLEU-1 to BLEU-4, ROUGE-L (all times 100), exact matches and distinct captions (shares).

    `metrics` adds `"cider_plain"` and `"meteor"`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=score_captions.__doc__,
            features=[  # several references a caption, or one
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
        truths = [[each] if isinstance(each, str) else each for each in references]
        return score_captions(predictions, truths, tokenizer=tokenizer, metrics=metrics)
