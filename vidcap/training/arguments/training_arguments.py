"""transformers' training arguments with this package's options, checked before any clip is read."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from ..optimization.averaging import check_decay
from ..optimization.time_budget import check_schedule
from .options import check_above_zero, check_least
from .training_options import TrainingOptions

UNLIMITED = -1  # transformers' value for no `max_steps`
SCORES = ("cider", "bleu4", "rougeL", "exact", "distinct")  # of an evaluation inside a training


@dataclass
class VideoCaptionTrainingArguments(TrainingOptions, Seq2SeqTrainingArguments):
    """transformers' arguments with the defaults of a small captioner, and a budget of time.

    Raises:
        ValueError: If an option has a value that no run can use; it names option, value and remedy.
    """

    def __post_init__(self):
        self._check_numbers()
        self._check_evaluation()
        if os.path.isfile(self.output_dir or ""):
            raise ValueError(f"--output_dir {self.output_dir} is a file; name a folder")
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor drops the contrastive loss; use --label_smoothing")
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns True would leave no clip to train on; leave it out")
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy}: each epoch shows the clips once, in "
                "random order; leave it out"
            )
        if self.max_train_minutes is not None:
            if self.max_steps == UNLIMITED:
                self.max_steps = 1_000_000_000  # the clock ends the run, even on a stream
            check_schedule(self.lr_scheduler_type, self.lr_scheduler_kwargs)
            self.eval_strategy = "steps"
            self.eval_steps = 1_000_000_000
        if self.muon and not self._optimizes_by_adamw:
            raise ValueError(
                f"--muon trains matrices beside AdamW, but --optim is {self.optim}; leave one of them out"
            )
        self.hub_strategy = "end"  # the Trainer would upload checkpoints with their pickles
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        # Without GPUs, accelerate would take the processes of a launcher for runs that know nothing of each other, and
        # they would overwrite each other's checkpoints.
        self.use_cpu = self.use_cpu or ("LOCAL_RANK" in os.environ and not torch.accelerator.is_available())
        super().__post_init__()
        trackers = {self.report_to} if isinstance(self.report_to, str) else {*self.report_to}
        if missing := sorted(trackers - {"none", "all", *get_available_reporting_integrations()}):
            raise ValueError(f"--report_to {missing[0]} needs a missing package; run: pip install {missing[0]}")

    def _check_numbers(self) -> None:
        check_least(
            self,
            **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
            **dict.fromkeys(("gradient_accumulation_steps", "generation_num_beams", "evaluations"), 1),
            **dict.fromkeys(("generation_max_length", "text_warmup_steps"), 1),
            **dict.fromkeys(("learning_rate", "backbone_learning_rate", "decoder_learning_rate", "weight_decay"), 0),
            **dict.fromkeys(("self_critical_anchor", "save_minutes", "best_model_tolerance"), 0),
            **dict.fromkeys(("early_stopping_patience", "dataloader_num_workers"), 0),
        )
        check_above_zero(self, "num_train_epochs", "max_train_minutes")
        if self.max_steps != UNLIMITED:
            check_least(self, max_steps=1)
        if self.self_critical_samples == 1 or self.self_critical_samples < 0:
            raise ValueError(
                f"--self_critical_samples {self.self_critical_samples} must be 0, or at least 2 to compare"
            )
        for name in ("loss_warmup", "word_dropout_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} {getattr(self, name)} must be a share of the run, from 0 to 1")
        if self.ema_decay:
            check_decay(self.ema_decay)

    def _check_evaluation(self) -> None:
        """Refuse an evaluation that yields nothing to choose a checkpoint by."""
        required = {"predict_with_generate": True, "prediction_loss_only": False, "batch_eval_metrics": False}
        for name, value in required.items():
            if getattr(self, name) != value:
                raise ValueError(f"--{name} {not value}: checkpoints are chosen by their captions; leave it out")
        if str(self.eval_strategy) == "no" and self.load_best_model_at_end and self.max_train_minutes is None:
            raise ValueError(
                "--eval_strategy no yields no score to choose a checkpoint by; add --load_best_model_at_end False to "
                "keep the last weights, or leave it out"
            )
        metric = (self.metric_for_best_model or "cider").removeprefix("eval_")
        if metric not in (*SCORES, "loss"):
            raise ValueError(
                f"--metric_for_best_model {self.metric_for_best_model} must be one of {', '.join((*SCORES, 'loss'))}"
            )
        if self.greater_is_better is None:
            self.greater_is_better = metric != "loss"

    @property
    def draw_seed(self) -> int:
        """Seed of the order of training clips, and of draws per clip."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def repository(self) -> str:
        """Hub repository to push to: `hub_model_id`, by default the name of the output folder."""
        return self.hub_model_id or Path(str(self.output_dir)).resolve().name

    @property
    def uses_muon(self) -> bool:
        """Whether Muon trains matrices: as `muon` says, by default beside AdamW."""
        return self._optimizes_by_adamw if self.muon is None else self.muon

    @property
    def _optimizes_by_adamw(self) -> bool:
        return OptimizerNames(self.optim) in (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def changed_arguments(args: VideoCaptionTrainingArguments) -> dict[str, Any]:
    """Training arguments that differ from their defaults, without secrets and paths, for the report."""
    return {
        each.name: value
        for each in fields(args)
        if isinstance(value := getattr(args, each.name), int | float | str | bool)
        and value != each.default
        and "token" not in each.name
        and not each.name.endswith("_dir")
        and each.name != "resume_from_checkpoint"
    }
