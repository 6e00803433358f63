"""What a training run can be told about training itself."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from vidcap.training.optimization.time_budget import check_schedule

from ..optimization.averaging import check_decay
from .bounds import check_above_zero, check_least

UNLIMITED = -1  # what transformers takes for "no `max_steps`"
SCORES = ("cider", "bleu4", "rougeL", "exact", "distinct")  # of an evaluation inside a training


@dataclass
class VideoCaptionTrainingArguments(Seq2SeqTrainingArguments):
    """transformers' arguments with the defaults of a small captioner, and a budget of time.

    `warmup_steps` below 1 is a share of the run, as in transformers. Label smoothing is `label_smoothing` of the
    model's config: the Trainer's own would drop the contrastive loss.
    """

    per_device_train_batch_size: int = 64
    per_device_eval_batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.5
    adam_beta2: float = 0.98
    muon: bool | None = field(
        default=None,
        metadata={
            "help": "Train matrices inside the network by Muon and the rest by AdamW: half as many steps for the same "
            "captions, each a little longer [if --optim is AdamW]."
        },
    )
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Of what is trained of the backbone [--learning_rate]."}
    )
    decoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Of a pretrained --decoder [5e-5; with --lora 5e-4]."}
    )
    max_grad_norm: float = 1.0
    num_train_epochs: float = 60.0
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    logging_steps: float = 50
    logging_nan_inf_filter: bool = False  # a loss that is none ends the run, rather than to be logged as 0
    logging_first_step: bool = True  # so that the shortest run has a curve
    eval_strategy: str = "epoch"
    save_strategy: str = "best"
    save_total_limit: int | None = 2  # the best, and the one before it or behind it
    save_minutes: float = field(default=10, metadata={"help": "Most minutes between checkpoints; 0: as evaluated."})
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "cider"
    greater_is_better: bool | None = field(default=None, metadata={"help": "[of every score, not of loss]"})
    best_model_tolerance: float = field(
        default=1.0,
        metadata={
            "help": "Keep the last checkpoint that is within so many standard errors of the best validation score; 0 "
            "keeps the best itself."
        },
    )
    predict_with_generate: bool = True
    generation_num_beams: int | None = 1  # enough to compare checkpoints; scores at the end take the model's own
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = False
    max_train_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Fit the whole schedule, feature extraction included, into this wall-clock time; then neither "
            "epochs nor steps count."
        },
    )
    evaluations: int = field(
        default=6, metadata={"help": "With max_train_minutes: how often the validation split is captioned."}
    )
    processor_time: bool = field(
        default=False,
        metadata={
            "help": "Count max_train_minutes in processor time of all threads, without preparation: for comparisons "
            "on a machine that does other work, too."
        },
    )
    self_critical_samples: int = field(
        default=0,
        metadata={
            "help": "Captions drawn for each clip and rewarded by CIDEr-D; 0 trains by cross-entropy alone. Start "
            "from a trained model (--model_name_or_path) and a small --learning_rate."
        },
    )
    self_critical_anchor: float = field(
        default=0.2, metadata={"help": "Weight of the usual loss beside the self-critical one."}
    )
    text_warmup_steps: int = field(default=500, metadata={"help": "Steps on the sentences of --text_corpus."})
    word_dropout_warmup: float = field(
        default=0.5, metadata={"help": "Share of the run in which --word_dropout grows from 0 to what is set."}
    )
    loss_warmup: float = field(
        default=0.0,
        metadata={
            "help": "Share of the run in which scheduled sampling and the weights of the losses beside the caption's "
            "grow from 0."
        },
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "Evaluate and keep an exponential moving average of the weights; 0 does not."}
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Without max_train_minutes: evaluations without gain before training stops."}
    )

    def __post_init__(self):
        self._check_numbers()
        self._check_evaluation()
        if os.path.isfile(self.output_dir or ""):
            raise ValueError(f"--output_dir {self.output_dir} is a file; name a folder")
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor drops the contrastive loss; use --label_smoothing")
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns True would leave no clip to train on: leave it out")
        if self.train_sampling_strategy != "random":
            strategy = self.train_sampling_strategy
            raise ValueError(
                f"--train_sampling_strategy {strategy}: each epoch shows the clips once, at random; leave it out"
            )
        if self.max_train_minutes is not None:
            if self.max_steps == UNLIMITED:
                self.max_steps = 1_000_000_000  # the clock ends the run, be it on a stream
            check_schedule(self.lr_scheduler_type, self.lr_scheduler_kwargs)
            self.eval_strategy = "steps"
            self.eval_steps = 1_000_000_000
        if self.muon and not self._optimizes_by_adamw:
            raise ValueError(
                f"--muon is for matrices beside AdamW, and --optim is {self.optim}: leave one of them out"
            )
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        # Where there are no GPUs, accelerate would take the processes of a launcher for runs that know nothing of each
        # other, and they would write over each other's checkpoints.
        self.use_cpu = self.use_cpu or ("LOCAL_RANK" in os.environ and not torch.accelerator.is_available())
        super().__post_init__()
        wanted = {self.report_to} if isinstance(self.report_to, str) else {*self.report_to}
        if missing := sorted(wanted - {"none", "all", *get_available_reporting_integrations()}):
            raise ValueError(f"--report_to {missing[0]} needs a package that is missing: pip install {missing[0]}")

    def _check_numbers(self) -> None:
        """Raises a `ValueError` for a number that no run can use."""
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
            raise ValueError(f"--self_critical_samples {self.self_critical_samples}: 0, or at least 2 to compare")
        for name in ("loss_warmup", "word_dropout_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} {getattr(self, name)} is a share of the run, from 0 to 1")
        if self.ema_decay:
            check_decay(self.ema_decay)

    def _check_evaluation(self) -> None:
        """Raises a `ValueError` for an evaluation that is impossible, or gives nothing to choose a checkpoint by."""
        needs = {"predict_with_generate": True, "prediction_loss_only": False, "batch_eval_metrics": False}
        for name, needed in needs.items():
            if getattr(self, name) != needed:
                raise ValueError(f"--{name} {not needed}: checkpoints are chosen by their captions; leave it out")
        if str(self.eval_strategy) == "no" and self.load_best_model_at_end and self.max_train_minutes is None:
            raise ValueError(
                "--eval_strategy no leaves no score to choose a checkpoint by: add --load_best_model_at_end False, "
                "which keeps the last weights, or leave it out"
            )
        metric = (self.metric_for_best_model or "cider").removeprefix("eval_")
        if metric not in (*SCORES, "loss"):
            known = ", ".join((*SCORES, "loss"))
            raise ValueError(f"--metric_for_best_model {self.metric_for_best_model}: there are {known}")
        if self.greater_is_better is None:
            self.greater_is_better = metric != "loss"

    @property
    def draw_seed(self) -> int:
        """Of the order of training clips, and of what is drawn of each: frames, augmentation, the caption."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def repository(self) -> str:
        """Where on the Hub a push goes: `hub_model_id`, by default the name of the folder."""
        return self.hub_model_id or Path(str(self.output_dir)).resolve().name

    @property
    def uses_muon(self) -> bool:
        """Whether matrices are trained by Muon: as `muon` says, by default beside AdamW."""
        return self._optimizes_by_adamw if self.muon is None else self.muon

    @property
    def _optimizes_by_adamw(self) -> bool:
        return OptimizerNames(self.optim) in (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def changed_arguments(args: VideoCaptionTrainingArguments) -> dict[str, Any]:
    """The training arguments that differ from their defaults, for the report; no secrets, no paths of the machine."""
    return {
        each.name: value
        for each in fields(args)
        if isinstance(value := getattr(args, each.name), int | float | str | bool)
        and value != each.default
        and "token" not in each.name
        and not each.name.endswith("_dir")
        and each.name != "resume_from_checkpoint"
    }
