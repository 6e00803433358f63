"""Evaluation inside a `Seq2SeqTrainer`: clips are captioned, scored against their own captions, and the scores say
which checkpoint is kept."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import EvalPrediction, Seq2SeqTrainer
from transformers.trainer_utils import has_length

from processing.clips.clip_dataset import ClipDataset

from .arguments.training_arguments import SCORES

logger = logging.getLogger(__name__)


class CaptionScores:
    """`compute_metrics` of the Trainer: decodes what was generated and scores it against all references.

    Args:
        processor: Decodes tokens.
        score: `(hypotheses, references) -> dict`, such as `vidcap.evaluation.score_captions`.
        score_clips: The same for each clip, as arrays, such as `vidcap.evaluation.scores.bootstrap.scores_per_clip`.

    Attributes:
        references: All captions of each clip that is being evaluated, in order.
        standard_errors: Of the scores returned last, those that are means over the clips.
    """

    def __init__(
        self, processor: Any, score: Callable[..., dict[str, float]], score_clips: Callable[..., dict[str, Any]]
    ):
        self.processor = processor
        self.score = score
        self.score_clips = score_clips
        self.references: Sequence[Sequence[str]] = []
        self.standard_errors: dict[str, float] = {}

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        pad = self.processor.tokenizer.pad_token_id
        tokens = torch.as_tensor(prediction.predictions)
        captions = self.processor.post_process_generation(tokens.masked_fill(tokens < 0, pad))
        scores = self.score(captions, self.references)
        self.standard_errors = {
            name: float(torch.as_tensor(values).std(correction=0)) / len(captions) ** 0.5
            for name, values in self.score_clips(captions, self.references).items()
        }
        digits = {"exact": 3, "distinct": 3}  # shares; the others are times 100
        shown = (f"{name} {value:.{digits.get(name, 1)}f}" for name, value in scores.items())
        logger.info(f"validation: {', '.join(shown)}")
        for caption, references in list(zip(captions, self.references, strict=True))[:3]:
            logger.info(f"  {caption!r}  (true: {references[0]!r})")
        return {name: scores[name] for name in SCORES}


class CaptionEvaluationMixin(Seq2SeqTrainer):
    """Scores whatever data set is evaluated or predicted against its own captions; to be named ahead of a
    `Seq2SeqTrainer`.

    Args:
        score, score_clips: Of [`CaptionScores`].
        eval_collator: Collator for evaluation, where no caption is drawn at random; by default the training one.
    """

    args: Any

    def __init__(
        self,
        *args,
        score: Callable[..., dict[str, float]],
        score_clips: Callable[..., dict[str, Any]],
        eval_collator: Callable | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.caption_scores = CaptionScores(self.processing_class, score, score_clips)
        self.compute_metrics = self.caption_scores
        self.eval_collator = eval_collator or self.data_collator
        self.standard_errors: dict[str, float] = {}  # of the scores last returned, by the names of these
        self._captions: tuple[Any, list[list[str]]] = (None, [])  # a data set and its captions

    def get_eval_dataloader(self, eval_dataset: Any = None):
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            # With persistent workers the Trainer's own would give the loader of `self.eval_dataset` in its place.
            return self.get_test_dataloader(eval_dataset)
        clips: Any = self.eval_dataset
        clips = clips[eval_dataset] if isinstance(eval_dataset, str) else clips
        with self._for_evaluation(clips):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any):
        with self._for_evaluation(test_dataset):
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _for_evaluation(self, clips: Any) -> Iterator[None]:
        """Loaders of these clips that are made inside use the collator of evaluation, and leave no clip out.

        Accelerate fills the last batches of several ranks up with other clips once more, which are captioned in vain
        and stand in the contrastive loss: batches are made smaller, so that hardly any are missing.
        """
        collator, drop_last = self.data_collator, self.args.dataloader_drop_last
        size, ranks = self.args.per_device_eval_batch_size, self.args.world_size
        self.data_collator, self.args.dataloader_drop_last = cast(Any, self.eval_collator), False
        if ranks > 1 and has_length(clips) and len(clips):
            rounds = math.ceil(len(clips) / (ranks * size))
            self.args.per_device_eval_batch_size = math.ceil(len(clips) / (ranks * rounds))
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last
            self.args.per_device_eval_batch_size = size

    def evaluation_loop(self, dataloader, *args, **kwargs):
        # Seq2SeqTrainer gathers the clips that fill up the last batch of the ranks, too, which are others once more.
        self.gather_function = self.accelerator.gather_for_metrics
        if self._captions[0] is not dataloader.dataset:
            self._captions = (dataloader.dataset, captions_of(dataloader.dataset))
        self.caption_scores.references, self.caption_scores.standard_errors = self._captions[1], {}
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        prefix, errors = kwargs.get("metric_key_prefix", "eval"), self.caption_scores.standard_errors
        self.standard_errors |= {f"{prefix}_{name}": error for name, error in errors.items()}
        return output

    def prediction_step(self, model, *args, **kwargs):
        # The Trainer writes defaults such as max_length=20 into the model's generation config while it evaluates.
        config = copy.deepcopy(self.model.generation_config)
        try:
            return super().prediction_step(model, *args, **kwargs)
        finally:
            self.model.generation_config = config

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Keeps the last checkpoint that validation cannot tell from the best one.

        Scores of a few dozen clips go up and down by chance, and the rate only reaches zero at the end: the best of
        many such scores often belongs to a worse model. So a later checkpoint is kept as well if it is within
        `best_model_tolerance` standard errors of the best score (the rule of Breiman et al. 1984, Classification and
        Regression Trees, 3.4.3). `state.best_metric` stays the best score, from which early stopping counts.
        """
        if super()._determine_best_metric(metrics, trial):
            return True
        if self.args.metric_for_best_model is None or not self.args.best_model_tolerance:
            return False
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        behind = abs(cast(float, self.state.best_metric) - metrics[name])
        if behind > self.args.best_model_tolerance * self.standard_errors.get(name, 0.0):
            return False
        self.state.best_global_step = self.state.global_step
        return True


def captions_of(clips: Any) -> list[list[str]]:
    """All captions of each clip of a data set, in order.

    Raises:
        ValueError: If it has no length, or clips without captions.
    """
    if isinstance(clips, ClipDataset):
        return list(clips.rows["captions"])
    if not has_length(clips):
        raise ValueError(f"{type(clips).__name__} has no length: evaluate a data set that ends, such as a ClipDataset")
    items: Any = clips
    try:
        return [items[index]["captions"] for index in range(len(items))]
    except KeyError as error:
        raise ValueError(
            f"{type(clips).__name__}: a clip has no {error}, which captions are scored against; give it a list of them"
        ) from error
