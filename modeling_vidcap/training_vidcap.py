"""`Seq2SeqTrainer` for captioners: evaluation by caption scores, a budget of time, loss parts in the log, and batches
and checkpoints with which an interrupted run goes on bit for bit."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, ProgressCallback, Seq2SeqTrainer
from transformers.trainer_utils import has_length

from hub_card.sharing import push_captioner
from processing.datasets import ClipDataset
from processing.epochs import EpochBatches, SeededClips
from processing.mixtures import MixedEpochBatches
from processing.streams import StreamBatches, StreamedClips

from .averaging import AveragedTrainerMixin
from .caption_evaluation import CaptionEvaluationMixin
from .checkpoints import SafeCheckpointsMixin, SaveEvery, read_manifest
from .losses_vidcap import MAX_LOGIT_SCALE
from .optimizers import MuonAdamW, muon_groups
from .parameter_groups import decayed_names, own_rates, set_own_rates
from .schedules import rate_over_time
from .self_critical import SelfCriticalLoss
from .time_budget import BudgetBar, TimeBudget
from .training_arguments import VideoCaptionTrainingArguments

logger = logging.getLogger(__name__)


class Pace:
    """Counts clips and the time spent waiting for them, between two lines of the log."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0  # seconds
        self.clips = 0

    def line(self, ranks: int) -> dict[str, float]:
        """What is logged; then counting begins anew."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        line = {"clips_per_second": ranks * self.clips / elapsed, "waiting": self.waited / elapsed}
        self.__init__()  # type: ignore[misc]
        return line


class VideoCaptionTrainer(CaptionEvaluationMixin, AveragedTrainerMixin, SafeCheckpointsMixin, Seq2SeqTrainer):
    """Trains a captioner; evaluates and keeps the average of its weights, if `ema_decay` asks for one.

    A run that is killed goes on from its last checkpoint to the weights that it would have had: the clips of each
    batch and what is drawn for them follow from seed and step, and the rest is in the checkpoint.

    Args:
        started: `time.perf_counter()` at the start of the run, for `max_train_minutes`.
        self_critical: The loss of `self_critical_samples`.
        settings: What a run must have in common with a checkpoint to go on from it unasked.
        kwargs: As for [`CaptionEvaluationMixin`] and `Seq2SeqTrainer`.
    """

    args: VideoCaptionTrainingArguments

    def __init__(
        self,
        *args,
        started: float | None = None,
        self_critical: SelfCriticalLoss | None = None,
        settings: dict[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.self_critical = self_critical
        self.settings = settings or {}
        self.stream_position: Sequence[Sequence[int]] | None = None
        self._pace = Pace()
        if isinstance(self.train_dataset, IterableDataset):
            self.args.ignore_data_skip = True  # the stream itself begins where a checkpoint says
        if self_critical is not None and self.args.world_size > 1:
            raise ValueError("self-critical training runs on one process for now; drop --self_critical_samples")
        if self.args.uses_muon and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("Muon needs whole matrices: add --muon False, or leave FSDP and DeepSpeed out")
        self.budget: TimeBudget | None = None
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        if self.args.max_train_minutes is not None:
            clock = time.process_time if self.args.processor_time else time.perf_counter
            began = clock() if started is None or self.args.processor_time else started
            self.budget = TimeBudget(self.args.max_train_minutes, began, self.args.evaluations, clock)
            self.add_callback(self.budget)
            if not self.args.disable_tqdm:
                self.remove_callback(ProgressCallback)
                self.add_callback(BudgetBar(self.budget))
        if self.args.save_minutes:
            self.add_callback(SaveEvery(self.args.save_minutes))
        if self.budget is None and self.args.early_stopping_patience > 0 and self.args.load_best_model_at_end:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def get_train_dataloader(self) -> DataLoaderShard:
        """Batches by [`EpochBatches`], in place of the Trainer's sampler and accelerate's sharding, which shows some
        clips twice and draws from generators whose state no checkpoint holds."""
        args, clips = self.args, self.train_dataset
        common: dict[str, Any] = {
            "device": args.device,
            "pin_memory": args.dataloader_pin_memory,
            "generator": torch.Generator(),  # workers' seeds are to take nothing from the model's random numbers
        }
        if isinstance(clips, StreamedClips):
            clips.split(args.process_index, args.world_size)
            return DataLoaderShard(
                clips, batch_size=self._train_batch_size, collate_fn=StreamBatches(self.data_collator), **common
            )
        if not has_length(clips):
            raise ValueError(f"{type(clips).__name__} has no length: give a Dataset, or StreamedClips for a stream")
        options: dict[str, Any] = {
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "rank": args.process_index,
            "world_size": args.world_size,
            "drop_last": args.dataloader_drop_last,
        }
        weights = clips.mixture.weights if isinstance(clips, ClipDataset) and clips.mixture is not None else None
        if weights is not None:
            sizes = cast(ClipDataset, clips).source_sizes()
            batches: EpochBatches = MixedEpochBatches(sizes, weights, self._train_batch_size, **options)
        else:
            batches = EpochBatches(len(cast(Any, clips)), self._train_batch_size, **options)
        return DataLoaderShard(
            SeededClips(clips),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            **common,
        )

    def manifest(self) -> dict[str, Any]:
        budget = {"steps": self.budget.steps, "spent": self.budget.spent} if self.budget else None
        return {
            **super().manifest(),
            "budget": budget,
            "bf16": self.args.bf16,
            "world_size": self.args.world_size,
        }

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
        if self.budget is not None and (budget := manifest.get("budget")):
            self.budget.resume(budget["steps"], budget["spent"])

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
        logger.info(f"optimizer: {type(made).__name__}")
        self.optimizer = made
        return made

    @torch.no_grad()
    def _clamp_temperature(self, *_: Any) -> None:
        """Keeps the parameter where the loss takes it as it is: beyond, `generate` would rank by another one."""
        cast(Any, self.model).logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decayed_names(model)

    def get_batch_samples(self, *args, **kwargs):
        began = time.perf_counter()
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._pace.waited += time.perf_counter() - began
        self._pace.clips += sum(len(batch["labels"]) for batch in batches)
        return batches, items

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        references = inputs.pop("references", None)
        if "stream_position" in inputs:
            self.stream_position = inputs.pop("stream_position")
        if model.training and self.args.loss_warmup:
            cast(Any, self.model).loss_ramp = min(1.0, self.progress / self.args.loss_warmup)
        if model.training and self.args.word_dropout_warmup:
            cast(Any, self.model).model.word_dropout_ramp = min(1.0, self.progress / self.args.word_dropout_warmup)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.self_critical is not None and references is not None:
            own = self.self_critical(self.model, inputs, references)
            loss = self.args.self_critical_anchor * loss + own / self.args.gradient_accumulation_steps
            self._loss_parts["reward"].append(torch.tensor(self.self_critical.last_reward))
        if model.training:
            for name in ("caption_loss", "masked_word_loss", "contrastive_loss"):
                if outputs.get(name) is not None:
                    self._loss_parts[name].append(outputs[name].detach())
        return (loss, outputs) if return_outputs else loss

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.budget.progress if self.budget else self.state.global_step / max(self.state.max_steps, 1)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> str | None:
        """Uploads model and processor as one repository, once it has loaded in a process without this package and
        given what this model gives. It always waits for the end of the upload; `kwargs` are facts for the card.

        Returns:
            The repository's address, on the first process.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        return push_captioner(
            self.accelerator.unwrap_model(self.model),
            self.processing_class,
            repo_id=self.args.repository,
            facts=kwargs,
            private=self.args.hub_private_repo if private is None else private,
            token=self.args.hub_token if token is None else token,
            commit_message=commit_message,
            revision=revision or self.args.hub_revision,
        )

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self._loss_parts:
            # Each micro-batch of each rank holds its share of the caption loss.
            ranks = self.args.world_size if self.args.average_tokens_across_devices else 1
            scale = self.args.gradient_accumulation_steps * ranks
            for name, values in self._loss_parts.items():
                mean = torch.stack(values).float().mean().item()
                logs[name] = mean * scale if name in ("caption_loss", "masked_word_loss") else mean
            self._loss_parts.clear()
            logs |= self._pace.line(self.args.world_size)
        super().log(logs, *args, **kwargs)
