"""Evaluation inside a training, by scores of generated captions."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, Seq2SeqTrainer
from transformers.trainer_utils import EvalLoopOutput, has_length

from processing import VideoCaptionProcessor
from processing.clips.clip_dataset import ClipDataset

from .arguments.training_arguments import SCORES, VideoCaptionTrainingArguments

logger = logging.getLogger(__name__)
DIGITS = {"exact": 3, "distinct": 3}  # of shares in the log; the other scores are times 100


class CaptionScores:
    """`compute_metrics` of the Trainer: decodes generated tokens and scores them against all references.

    Args:
        processor: Decodes tokens.
        score: `(hypotheses, references) -> dict`, such as `vidcap.evaluation.score_captions`.
        score_clips: The same per clip, as arrays, such as `vidcap.evaluation.scores.bootstrap.scores_per_clip`.

    Attributes:
        references: All captions of each evaluated clip, in order.
        standard_errors: Standard errors of the latest scores that are means over the clips.
    """

    def __init__(
        self,
        processor: VideoCaptionProcessor,
        score: Callable[..., dict[str, float]],
        score_clips: Callable[..., dict[str, Any]],
    ):
        self.processor = processor
        self.score = score
        self.score_clips = score_clips
        self.references: Sequence[Sequence[str]] = []
        self.standard_errors: dict[str, float] = {}
        self._captions: tuple[object, list[list[str]]] = (None, [])  # of the data set that was evaluated last

    def start(self, clips: object) -> None:
        """Score against the captions of these clips from now on."""
        if self._captions[0] is not clips:
            self._captions = (clips, captions_of(clips))
        self.references, self.standard_errors = self._captions[1], {}

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        pad = self.processor.tokenizer.pad_token_id
        tokens = torch.as_tensor(prediction.predictions)
        captions = self.processor.post_process_generation(tokens.masked_fill(tokens < 0, pad))
        scores = self.score(captions, self.references)
        self.standard_errors = {
            name: float(torch.as_tensor(values).std(correction=0)) / len(captions) ** 0.5
            for name, values in self.score_clips(captions, self.references).items()
        }
        shown = (f"{name} {value:.{DIGITS.get(name, 1)}f}" for name, value in scores.items())
        logger.info(f"validation: {', '.join(shown)}")
        for caption, references in list(zip(captions, self.references, strict=True))[:3]:
            logger.info(f"  {caption!r}  (reference: {references[0]!r})")
        return {name: scores[name] for name in SCORES}


class CaptionEvaluationTrainer(Seq2SeqTrainer):
    """A Trainer that evaluates by scores of generated captions.

    Args:
        score, score_clips: See [`CaptionScores`].
        eval_collator: Collator for evaluation, which draws no caption at random; by default the training collator.
        kwargs: Arguments of `Seq2SeqTrainer`.

    Attributes:
        standard_errors: Standard errors of the latest scores, by the names of the scores.
    """

    args: VideoCaptionTrainingArguments
    model: Any  # transformers' annotation lacks the methods of a captioner

    def __init__(
        self,
        *args,
        score: Callable[..., dict[str, float]],
        score_clips: Callable[..., dict[str, Any]],
        eval_collator: Callable[..., dict[str, Any]] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.caption_scores = CaptionScores(cast(Any, self.processing_class), score, score_clips)
        self.compute_metrics = self.caption_scores
        self.eval_collator = eval_collator or self.data_collator
        self.standard_errors: dict[str, float] = {}

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            # With persistent workers the Trainer would return the loader of `self.eval_dataset` instead.
            return self.get_test_dataloader(eval_dataset)
        clips: Any = self.eval_dataset
        with self._for_evaluation(clips if eval_dataset is None else clips[eval_dataset]):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        with self._for_evaluation(test_dataset):
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _for_evaluation(self, clips: object) -> Iterator[None]:
        """Have loaders made inside use the evaluation collator, and every clip.

        Accelerate fills the last batches of several ranks up with repeated clips, which are captioned in vain and
        enter the contrastive loss. Smaller batches leave hardly any places to fill.
        """
        collator, drop_last = self.data_collator, self.args.dataloader_drop_last
        size, ranks = self.args.per_device_eval_batch_size, self.args.world_size
        count = len(clips) if has_length(clips) else 0
        self.data_collator, self.args.dataloader_drop_last = cast(Any, self.eval_collator), False
        if ranks > 1 and count:
            rounds = math.ceil(count / (ranks * size))
            self.args.per_device_eval_batch_size = math.ceil(count / (ranks * rounds))
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last
            self.args.per_device_eval_batch_size = size

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs) -> EvalLoopOutput:
        self.gather_function = self.accelerator.gather_for_metrics  # Seq2SeqTrainer would include repeated clips
        self.caption_scores.start(dataloader.dataset)
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        prefix, errors = kwargs.get("metric_key_prefix", "eval"), self.caption_scores.standard_errors
        self.standard_errors |= {f"{prefix}_{name}": error for name, error in errors.items()}
        return output

    def prediction_step(self, *args, **kwargs) -> tuple[Any, Any, Any]:
        # The Trainer writes defaults such as max_length=20 into the model's generation config while it evaluates.
        config = copy.deepcopy(self.model.generation_config)
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            self.model.generation_config = config

    def _determine_best_metric(self, metrics: dict[str, float], trial: dict[str, Any] | None) -> bool:
        """Keep the last checkpoint that validation cannot distinguish from the best.

        Scores of a few dozen clips vary by chance, and the learning rate only reaches zero at the end: the best of
        many such scores often belongs to a worse model. A later checkpoint is therefore kept as well if it is within
        `best_model_tolerance` standard errors of the best score (the rule of Breiman et al. 1984, Classification and
        Regression Trees, 3.4.3). `state.best_metric` remains the best score, from which early stopping counts.
        """
        if super()._determine_best_metric(metrics, trial):
            return True
        if self.args.metric_for_best_model is None or not self.args.best_model_tolerance:
            return False
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        gap = abs(cast(float, self.state.best_metric) - metrics[name])
        if gap > self.args.best_model_tolerance * self.standard_errors.get(name, 0.0):
            return False
        self.state.best_global_step = self.state.global_step
        return True


def captions_of(clips: object) -> list[list[str]]:
    """All captions of each clip of a data set, in order.

    Raises:
        ValueError: If it has no length, or clips without captions.
    """
    if isinstance(clips, ClipDataset):
        return list(clips.rows["captions"])
    if not has_length(clips):
        raise ValueError(f"{type(clips).__name__} has no length: evaluate a finite data set, such as a ClipDataset")
    items: Any = clips
    try:
        return [items[index]["captions"] for index in range(len(items))]
    except KeyError as error:
        raise ValueError(
            f"{type(clips).__name__}: a clip has no {error}, which its caption is scored against; add a list of them"
        ) from error
