"""Diversity of captions as a module for `evaluate`.

    evaluate.load("PATH/TO/vidcap/evaluation/caption_diversity").compute(predictions=[...], train_captions=[...])

The module is copied to a cache before it is imported, so `vidcap` must be installed; `evaluate` finds its
requirements by reading the import lines, so there is one import per line.
"""

from typing import Literal

import datasets
import evaluate

from vidcap.evaluation import caption_diversity


class CaptionDiversity(evaluate.Measurement):
    """Distinct words, pairs of words and captions, vocabulary, length and, with train captions, novel captions."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=self.__doc__,
            citation="",
            inputs_description=caption_diversity.__doc__,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self,
        *,
        predictions: list[str],
        train_captions: list[str] | None = None,
        tokenizer: Literal["ptb", "whitespace"] = "ptb",
    ) -> dict[str, float]:
        return caption_diversity(predictions, train_captions=train_captions, tokenizer=tokenizer)
