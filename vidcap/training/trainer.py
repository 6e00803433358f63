"""`Seq2SeqTrainer` for captioners: evaluation by caption scores, a budget of time, loss parts in the log, and batches
and checkpoints with which an interrupted run goes on bit for bit."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Seq2SeqTrainer

from modeling_vidcap.losses_vidcap import MAX_LOGIT_SCALE
from processing.clips.streams import StreamedClips

from .arguments.training_arguments import VideoCaptionTrainingArguments
from .caption_evaluation import CaptionEvaluationMixin
from .checkpoints import SafeCheckpointsMixin, SaveEvery, read_manifest
from .loader import train_loader
from .loss_log import LossLogMixin
from .objectives.self_critical import SelfCriticalLoss
from .optimization.averaging import AveragedTrainerMixin
from .optimization.optimizers import MuonAdamW, muon_groups
from .optimization.parameter_groups import decayed_names, own_rates, set_own_rates
from .optimization.time_budget import TimeBudget, rate_over_time
from .progress import TrainingProgress
from .pushing import PushMixin

logger = logging.getLogger(__name__)


class VideoCaptionTrainer(
    CaptionEvaluationMixin, LossLogMixin, PushMixin, AveragedTrainerMixin, SafeCheckpointsMixin, Seq2SeqTrainer
):
    """Trains a captioner; evaluates and keeps the average of its weights, if `ema_decay` asks for one.

    A run that is killed goes on from its last checkpoint to the weights that it would have had: the clips of each
    batch and what is drawn for them follow from seed and step, and the rest is in the checkpoint.

    Args:
        self_critical: The loss of `self_critical_samples`.
        settings: What a run must have in common with a checkpoint to go on from it unasked.
        kwargs: As for [`CaptionEvaluationMixin`] and `Seq2SeqTrainer`.
    """

    args: VideoCaptionTrainingArguments

    def __init__(
        self,
        *args,
        self_critical: SelfCriticalLoss | None = None,
        settings: dict[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.self_critical = self_critical
        self.settings = settings or {}
        self.stream_position: Sequence[Sequence[int]] | None = None
        self._began = time.perf_counter()
        self.seconds_before = 0.0  # of earlier attempts at this run
        if isinstance(self.train_dataset, IterableDataset):
            self.args.ignore_data_skip = True  # the stream itself begins where a checkpoint says
        if self_critical is not None and self.args.world_size > 1:
            raise ValueError("self-critical training runs on one process for now; drop --self_critical_samples")
        if self.args.uses_muon and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("Muon needs whole matrices: add --muon False, or leave FSDP and DeepSpeed out")
        self.budget: TimeBudget | None = None
        if self.args.max_train_minutes is not None:
            clock = time.process_time if self.args.processor_time else time.perf_counter
            self.budget = TimeBudget(self.args.max_train_minutes, self.args.evaluations, clock)
            self.add_callback(self.budget)
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        if not self.args.disable_tqdm:
            self.add_callback(TrainingProgress(self.budget))
        if self.args.save_minutes:
            self.add_callback(SaveEvery(self.args.save_minutes))
        if self.budget is None and self.args.early_stopping_patience > 0 and self.args.load_best_model_at_end:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def get_train_dataloader(self) -> DataLoaderShard:
        """That of [`train_loader`], in place of the Trainer's sampler and accelerate's sharding, which shows some
        clips twice and draws from generators whose state no checkpoint holds."""
        return train_loader(self.train_dataset, self.data_collator, self.args, batch_size=self._train_batch_size)

    def manifest(self) -> dict[str, Any]:
        return {
            **super().manifest(),
            "budget": None if self.budget is None else self.budget.state(),
            "seconds": self.seconds,
            "model_alone": self.args.save_only_model,
            "bf16": self.args.bf16,
            "world_size": self.args.world_size,
        }

    @property
    def seconds(self) -> float:
        """What training has taken, before an interruption included."""
        return self.seconds_before + time.perf_counter() - self._began

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._began = time.perf_counter()
        return super().train(*args, **kwargs)

    def _get_learning_rate(self) -> float:
        """That of the run: parts of the model, and Muon's matrices, have rates of their own in proportion to it."""
        rate, first = super()._get_learning_rate(), self.optimizer.param_groups[0].get("initial_lr")
        return rate / first * self.args.learning_rate if first else rate

    def _save_rng_state(self, output_dir: str) -> None:  # what each rank has of its own
        super()._save_rng_state(output_dir)
        if self.stream_position is not None:
            path = Path(output_dir, f"stream_{self.args.process_index}.json")
            path.write_text(json.dumps(self.stream_position))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        manifest = read_manifest(resume_from_checkpoint)
        if manifest and manifest["world_size"] != self.args.world_size:
            raise ValueError(
                f"{resume_from_checkpoint} is of a run of {manifest['world_size']} processes: resume with as many, "
                f"not with {self.args.world_size}, so that each sees the clips that are left to it"
            )
        if isinstance(self.train_dataset, StreamedClips):
            path = Path(resume_from_checkpoint, f"stream_{self.args.process_index}.json")
            self.stream_position = self.train_dataset.position = json.loads(path.read_text())
        self.seconds_before = manifest.get("seconds", 0.0)
        if self.budget is not None and (budget := manifest.get("budget")):
            self.budget.resume(manifest["step"], **budget)

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps or self.progress >= 1:
            self.control.should_training_stop = True  # resumed at its end, where the Trainer would make one more step
        else:
            super()._run_epoch(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The Trainer's over steps or, with a budget, over time."""
        if self.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            factor = rate_over_time(self.args.lr_scheduler_type, self.args.warmup_steps, self.budget)
            chosen: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """As the Trainer's, with learning rates of their own for what is trained of the backbone and of a pretrained
        decoder, and with Muon for matrices where `muon` asks for it."""
        if self.optimizer is not None:
            return self.optimizer
        made = super().create_optimizer(*args, **kwargs)
        model = cast(Any, self.model)
        with_own = own_rates(model, self.args)
        set_own_rates(made, with_own)
        if self.args.uses_muon:
            decayed = set(decayed_names(model))
            others = {id(each) for name, each in model.named_parameters() if name not in decayed}
            # What was trained before goes on with what it was trained with.
            excluded = others | {id(each) for part in with_own for each in part.parameters}
            groups = muon_groups(made.param_groups, excluded=excluded)
            made = MuonAdamW(groups, betas=made.defaults["betas"], eps=made.defaults["eps"], fused=True)
        self._clamp_temperature()
        made.register_step_post_hook(self._clamp_temperature)
        self.optimizer = made
        return made

    @torch.no_grad()
    def _clamp_temperature(self, *_: Any) -> None:
        """Keeps the parameter where the loss takes it as it is: beyond, `generate` would rank by another one."""
        cast(Any, self.model).logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decayed_names(model)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        references = inputs.pop("references", None)
        if "stream_position" in inputs:
            self.stream_position = inputs.pop("stream_position")
        if model.training and (self.args.loss_warmup or self.args.word_dropout_warmup):
            cast(Any, self.model).set_ramps(
                losses=self._risen(self.args.loss_warmup), word_dropout=self._risen(self.args.word_dropout_warmup)
            )
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.self_critical is not None and references is not None:
            own = self.self_critical(self.model, inputs, references)
            loss = self.args.self_critical_anchor * loss + own / self.args.gradient_accumulation_steps
            self.note_part("reward", torch.tensor(self.self_critical.last_reward))
        if model.training:
            for name in ("caption_loss", "masked_word_loss", "contrastive_loss"):
                if outputs.get(name) is not None:
                    self.note_part(name, outputs[name])
        return (loss, outputs) if return_outputs else loss

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.budget.progress if self.budget else self.state.global_step / max(self.state.max_steps, 1)

    def _risen(self, warmup: float) -> float:
        """How much is there of what grows from 0 to 1 during this share of the run."""
        return min(1.0, self.progress / warmup) if warmup else 1.0
