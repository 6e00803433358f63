"""The Trainer of captioners, with exact resuming.

Guarantees: an interrupted run resumes from its last checkpoint to the weights that it would have had. The clips of
each batch and everything drawn for them follow from seed and step; the rest is in the checkpoint.
"""

import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hub_card.sharing import push_captioner
from modeling_vidcap.losses_vidcap import MAX_LOGIT_SCALE
from processing import VideoCaptionProcessor
from processing.clips.streams import StreamedClips

from .caption_evaluation import CaptionEvaluationTrainer
from .checkpoints import SaveEvery, check_fits, explain_refused_pickle, find_last, prune, read_manifest, write_whole
from .loader import train_loader
from .loss_log import LossLog
from .objectives.self_critical import SelfCriticalLoss
from .optimization.averaging import RAW_WEIGHTS, WeightAverage
from .optimization.optimizers import MuonAdamW, muon_groups
from .optimization.parameter_groups import decayed_names, pretrained_groups, split_pretrained_groups
from .optimization.time_budget import TimeBudget, rate_over_time
from .progress import TrainingProgress
from .sharded_weights import assemble_model, check_splitting, prepare_to_split

# Private methods of transformers' Trainer that are overridden, since no callback and no public method serves.
PRIVATE_OVERRIDES = {
    "_save_checkpoint": "a checkpoint is written aside, hashed and renamed; callbacks run only after it has its name",
    "_determine_best_metric": "the last checkpoint within an error of the best is kept; callbacks run too early",
    "_run_epoch": "a run that is resumed at its end makes no further step; callbacks can stop it only after one",
}


class VideoCaptionTrainer(CaptionEvaluationTrainer):
    """A Trainer of captioners, or of their average if `ema_decay` is set.

    Args:
        self_critical: The loss of `self_critical_samples`.
        settings: What a run must share with a checkpoint to resume from it unasked.
        kwargs: Arguments of [`CaptionEvaluationTrainer`].

    Attributes:
        seconds_before: Seconds of training before an interruption.
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self, *args, self_critical: SelfCriticalLoss | None = None, settings: dict[str, Any] | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._refuse_unsupported(self_critical)
        self.self_critical = self_critical
        self.settings = settings or {}
        self.loss_log = LossLog()
        self.stream_position: Sequence[Sequence[int]] | None = None
        self._model_class = type(self.model)  # FSDP changes it
        self._began = time.perf_counter()
        self.seconds_before = 0.0
        if isinstance(self.train_dataset, IterableDataset):
            self.args.ignore_data_skip = True  # the stream itself begins where a checkpoint says
        self.average = WeightAverage(self.args.ema_decay) if self.args.ema_decay else None
        self.budget: TimeBudget | None = None
        if self.args.max_train_minutes is not None:
            clock = time.process_time if self.args.processor_time else time.perf_counter
            self.budget = TimeBudget(self.args.max_train_minutes, self.args.evaluations, clock)
        self._replace_callbacks()

    def _refuse_unsupported(self, self_critical: SelfCriticalLoss | None) -> None:
        if self.is_deepspeed_enabled:
            raise ValueError("DeepSpeed is not supported; use FSDP, as in recipes/accelerate/fsdp.yaml")
        if self_critical is not None and self.args.world_size > 1:
            raise ValueError("--self_critical_samples needs a single process; leave it out, or start one process")
        if self.args.uses_muon and self.is_fsdp_enabled:
            raise ValueError("Muon needs whole matrices, which FSDP splits; add --muon False")
        if self.args.ema_decay and self.is_fsdp_enabled:
            raise ValueError(f"--ema_decay {self.args.ema_decay} needs whole weights, which FSDP splits; leave it out")
        if self.args.save_only_model and self.args.load_best_model_at_end and self.is_fsdp_enabled:
            raise ValueError("--save_only_model with FSDP needs --load_best_model_at_end False")

    def _replace_callbacks(self) -> None:
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        for addition in (self.average, self.budget):
            if addition is not None:
                self.add_callback(addition)
        if not self.args.disable_tqdm:
            self.add_callback(TrainingProgress(self.budget))
        if self.args.save_minutes:
            self.add_callback(SaveEvery(self.args.save_minutes))
        if self.budget is None and self.args.early_stopping_patience > 0 and self.args.load_best_model_at_end:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    # ---- the course of a training ----

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before an interruption."""
        return self.seconds_before + time.perf_counter() - self._began

    @property
    def progress(self) -> float:
        """Completed share of the run."""
        return self.budget.progress if self.budget else self.state.global_step / max(self.state.max_steps, 1)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """Train, anew or from a checkpoint (`True`: the newest intact one).

        Raises:
            ValueError: If the checkpoint belongs to a run that cannot be resumed by this one.
        """
        self._began = time.perf_counter()
        self.loss_log.reset()
        newest = resume_from_checkpoint is True
        checkpoint = str(find_last(str(self.args.output_dir)) if newest else resume_from_checkpoint or "") or None
        if checkpoint:
            self._prepare_to_resume(checkpoint)
        if self.is_fsdp_enabled:
            prepare_to_split(self.model, self.accelerator.state.fsdp_plugin)
        with explain_refused_pickle(checkpoint):
            return super().train(checkpoint, *args, **kwargs)

    def _prepare_to_resume(self, checkpoint: str) -> None:
        """Check a checkpoint, and take from it what transformers does not know of."""
        manifest = read_manifest(checkpoint)
        if manifest and manifest["world_size"] != self.args.world_size:
            raise ValueError(
                f"cannot resume from {checkpoint} with {self.args.world_size} processes: it was trained with "
                f"{manifest['world_size']}; start as many, so that each sees its remaining clips"
            )
        check_splitting(checkpoint, splits=self.is_fsdp_enabled)
        if Path(checkpoint, RAW_WEIGHTS).is_file() == (self.average is None):
            raise ValueError(
                f"cannot resume from {checkpoint}: it holds {'no' if self.average else 'an'} average of weights, but "
                f"ema_decay is {self.args.ema_decay}; resume with the options of the interrupted run"
            )
        check_fits(self.model, checkpoint)
        if self.average:
            self.average.checkpoint = checkpoint
        if isinstance(self.train_dataset, StreamedClips):
            position = json.loads(Path(checkpoint, self._stream_file).read_text())
            self.stream_position = self.train_dataset.position = position
        self.seconds_before = manifest.get("seconds", 0.0)
        if self.budget is not None and (budget := manifest.get("budget")):
            self.budget.resume(manifest["step"], **budget)

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps or self.progress >= 1:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---- batches and loss ----

    def get_train_dataloader(self) -> DataLoaderShard:
        """The loader of [`train_loader`]; accelerate's shows some clips twice and draws from unsaved generators."""
        clips = cast(Dataset, self.train_dataset)
        return train_loader(clips, self.data_collator, self.args, batch_size=self.args.train_batch_size)

    def get_batch_samples(self, *args, **kwargs) -> tuple[list[dict[str, Any]], Any]:
        """The micro-batches of a step."""
        started = time.perf_counter()
        batches, items = super().get_batch_samples(*args, **kwargs)
        clips = sum(len(batch["labels"]) for batch in batches)
        self.loss_log.add_step(clips=clips, waited=time.perf_counter() - started)
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's loss with warm-ups, and the self-critical loss."""
        references = inputs.pop("references", None)
        if "stream_position" in inputs:
            self.stream_position = inputs.pop("stream_position")
        if model.training and (self.args.loss_warmup or self.args.word_dropout_warmup):
            self.model.set_ramps(
                losses=self._ramp(self.args.loss_warmup), word_dropout=self._ramp(self.args.word_dropout_warmup)
            )
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.self_critical is not None and references is not None:
            reward_loss = self.self_critical(self.model, inputs, references)
            loss = self.args.self_critical_anchor * loss + reward_loss / self.args.gradient_accumulation_steps
            self.loss_log.add_part("reward", torch.tensor(self.self_critical.last_reward))
        if model.training:
            for name in ("caption_loss", "masked_word_loss", "contrastive_loss"):
                if outputs.get(name) is not None:
                    self.loss_log.add_part(name, outputs[name])
        return (loss, outputs) if return_outputs else loss

    def _ramp(self, warmup: float) -> float:
        """Factor that grows from 0 to 1 over this share of the run."""
        return min(1.0, self.progress / warmup) if warmup else 1.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a line with loss parts; a `ValueError` unless it is finite."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise ValueError(
                f"the loss is {logs['loss']} at step {self.state.global_step}; lower --learning_rate "
                f"({self.args.learning_rate:g}), and add --resume_from_checkpoint no"
            )
        if "learning_rate" in logs and (first := self.optimizer.param_groups[0].get("initial_lr")):
            # The first group's rate may be Muon's or a part's own, which are in proportion to that of the run.
            logs["learning_rate"] = logs["learning_rate"] / first * self.args.learning_rate
        if "loss" in logs and self.loss_log:
            logs |= self.loss_log.line(self.accelerator, shared=self.args.average_tokens_across_devices)
        super().log(logs, start_time)

    # ---- optimizer and schedule ----

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with rates of pretrained parts, and with Muon."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(*args, **kwargs)
        pretrained = pretrained_groups(self.model, self.args)
        split_pretrained_groups(optimizer, pretrained)
        if self.args.uses_muon:
            decayed = set(decayed_names(self.model))
            excluded = {id(parameter) for name, parameter in self.model.named_parameters() if name not in decayed}
            # Pretrained parts stay with the kind of optimizer that they were pretrained with.
            excluded |= {id(parameter) for part in pretrained for parameter in part.parameters}
            groups = muon_groups(optimizer.param_groups, excluded=excluded)
            defaults = optimizer.defaults
            optimizer = MuonAdamW(groups, betas=defaults["betas"], eps=defaults["eps"], fused=True)
        self._clamp_temperature()
        optimizer.register_step_post_hook(self._clamp_temperature)
        self.optimizer = optimizer
        return optimizer

    @torch.no_grad()
    def _clamp_temperature(self, *_: object) -> None:
        """Keep the parameter where the loss uses it unclamped, as `generate` does."""
        self.model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The Trainer's schedule over steps, or with a budget over time."""
        if self.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            factor = rate_over_time(self.args.lr_scheduler_type, self.args.warmup_steps, self.budget)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True  # a second training begins with a new one
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decayed_names(model)

    # ---- evaluation ----

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        with self.loss_log.pause(), self._average_in_use():
            return super().evaluation_loop(*args, **kwargs)

    def _average_in_use(self) -> AbstractContextManager[None]:
        return self.average.in_use() if self.average else nullcontext()

    # ---- saving ----

    def whole_model(self) -> PreTrainedModel:
        """The trained model; every process has to call this.

        With FSDP the first process gets it assembled anew on its device; the others, which have no use for it, get
        one with initial weights.
        """
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        weights = self.accelerator.get_state_dict(self.model)
        whole: Any = assemble_model(self._model_class, self.model, weights)
        return whole.to(self.args.device)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processor as `from_pretrained` takes them, without pickled arguments."""
        weights = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            if weights is None:
                model = self.accelerator.unwrap_model(self.model)
            else:
                model = assemble_model(self._model_class, self.model, weights)
            with self._average_in_use():
                # Some backbones' weights had other names in their first release, which the Trainer cannot resume from.
                model.save_pretrained(folder, save_original_format=False)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def manifest(self) -> dict[str, Any]:
        """Facts of a checkpoint that decide whether and how a run resumes from it."""
        return {
            "settings": self.settings,
            "step": self.state.global_step,
            "written": time.time(),
            "budget": None if self.budget is None else self.budget.state(),
            "seconds": self.seconds,
            "model_alone": self.args.save_only_model,
            "bf16": self.args.bf16,
            "world_size": self.args.world_size,
        }

    def _save_checkpoint(self, model: nn.Module, trial: dict[str, Any] | None) -> None:
        output_dir, wait = self.args.output_dir, self.accelerator.wait_for_everyone
        final = Path(str(output_dir), f"checkpoint-{self.state.global_step}")
        with (
            self.loss_log.pause(),
            write_whole(final, self.manifest, writes=self.args.should_save, barrier=wait) as staged,
        ):
            self.args.output_dir = str(staged.parent)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = output_dir
            best = self.state.best_model_checkpoint
            if best is not None and Path(best) == staged:  # as strings "./x" and "x" would differ
                self.state.best_model_checkpoint = str(final)
            if self.stream_position is not None and not self.args.save_only_model:
                (staged / self._stream_file).write_text(json.dumps(self.stream_position))
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))  # again, now that best is a final name
                if self.average and not self.args.save_only_model:
                    self.average.save_raw(staged)
        if self.args.should_save:
            prune(final.parent, self.args.save_total_limit, self.state.best_model_checkpoint)

    @property
    def _stream_file(self) -> str:
        return f"stream_{self.args.process_index}.json"

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> str | None:
        """Upload the finished captioner, checked as by [`push_captioner`], and nothing else of the run.

        Args:
            blocking: Ignored; this always waits for the end of the upload.
            kwargs: Facts for the model card.

        Returns:
            The repository's address, on the first process.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        return push_captioner(
            self.accelerator.unwrap_model(self.model),
            cast(VideoCaptionProcessor, self.processing_class),
            repo_id=self.args.repository,
            facts=kwargs,
            private=self.args.hub_private_repo if private is None else private,
            token=self.args.hub_token if token is None else token,
            commit_message=commit_message,
            revision=revision or self.args.hub_revision,
        )
