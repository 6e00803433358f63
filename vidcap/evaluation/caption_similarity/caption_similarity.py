"""Similarity of captions and references in a text model's space, as a module for `evaluate`.

    evaluate.load("PATH/TO/vidcap/evaluation/caption_similarity").compute(
        predictions=[...], references=[[...], ...], encoder="FOLDER_OR_HUB_ID"
    )

The module is copied to a cache before it is imported, so `vidcap` must be installed; `evaluate` finds its
requirements by reading the import lines, so there is one import per line.
"""

import datasets
import evaluate

from vidcap.evaluation.similarity import SentenceEncoder, embedding_similarity


class CaptionSimilarity(evaluate.Metric):
    """Mean cosine of each caption with the nearest of its references, by a text model of the caller's choice."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=embedding_similarity.__doc__,
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
        encoder: str,
        batch_size: int = 64,
    ) -> dict[str, float]:
        truths = [[captions] if isinstance(captions, str) else captions for captions in references]
        encode = SentenceEncoder(encoder, batch_size=batch_size)
        return {"similarity": embedding_similarity(predictions, truths, encode)[0]}
