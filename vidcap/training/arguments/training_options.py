"""Options of a training on training itself, without importing torch."""

from dataclasses import dataclass

from .options import option


@dataclass
class TrainingOptions:
    """Options that replace or extend those of transformers.

    `warmup_steps` below 1 is a share of the run, as in transformers. Label smoothing is `label_smoothing` of the
    model's config: the Trainer's own would drop the contrastive loss.
    """

    _argument_group_name = "training, evaluation and Hub (most are those of transformers)"  # read by HfArgumentParser

    output_dir: str | None = option(None, "Folder for checkpoints, the finished model and its report [trainer_output]")
    resume_from_checkpoint: str | None = option(
        None,
        "Checkpoint to resume from: its folder, last, or no for a new run [the last of an interrupted run with the "
        "same options]",
    )
    max_train_minutes: float | None = option(
        None, "Wall-clock minutes of training, evaluations included but not preparation; replaces epochs and steps"
    )
    processor_time: bool = option(
        False,
        "Count --max_train_minutes in processor time of all threads, without preparation: for comparisons on a busy "
        "machine",
    )
    num_train_epochs: float = option(60.0, "Epochs to train for")
    max_steps: int = option(-1, "Optimizer steps to train for, in place of epochs; -1 for no limit")
    per_device_train_batch_size: int = option(64, "Clips per training batch and device")
    per_device_eval_batch_size: int = option(64, "Clips per evaluation batch and device")
    learning_rate: float = option(1e-3, "Highest learning rate")
    backbone_learning_rate: float | None = option(
        None, "Learning rate of the trained part of the backbone [--learning_rate]"
    )
    decoder_learning_rate: float | None = option(
        None, "Learning rate of a pretrained --decoder [5e-5; with --lora 5e-4]"
    )
    lr_scheduler_type: str = option(
        "cosine",
        "Learning-rate schedule of transformers; with --max_train_minutes one of cosine, linear, constant, "
        "constant_with_warmup",
    )
    warmup_steps: float = option(0.05, "Warm-up of the learning rate: a share of the run if below 1, otherwise steps")
    weight_decay: float = option(0.5, "Weight decay of matrices and kernels; other parameters do not decay")
    adam_beta2: float = option(0.98, "Second beta of AdamW")
    muon: bool | None = option(
        None,
        "Train the network's matrices by Muon and the rest by AdamW: about half as many steps for the same captions, "
        "each a little longer [if --optim is AdamW]",
    )
    max_grad_norm: float = option(1.0, "Norm that gradients are clipped to; 0 for no clipping")
    ema_decay: float = option(
        0.0, "Decay of an exponential moving average of the weights, which is evaluated and exported; 0 for none"
    )
    seed: int = option(42, "Random seed")
    bf16: bool = option(False, "Train in bf16 mixed precision [tried before training, and used if it is faster]")
    logging_steps: float = option(50, "Steps between two lines of the log")
    logging_first_step: bool = option(True, "Log the first step, so that the shortest run has a curve [True]")
    logging_nan_inf_filter: bool = option(
        False, "Replace a loss that is not finite by the mean before it; otherwise such a loss ends the run"
    )
    eval_strategy: str = option("epoch", "Evaluation interval: epoch, steps (see --eval_steps), or no")
    eval_steps: float | None = option(
        None, "Steps between evaluations with --eval_strategy steps; below 1 a share of the run [--logging_steps]"
    )
    evaluations: int = option(6, "Evaluations within --max_train_minutes, evenly spaced")
    predict_with_generate: bool = option(True, "Caption the validation clips at each evaluation; cannot be off [True]")
    generation_num_beams: int | None = option(
        1, "Beams at evaluations during training; the final scores use the model's own --num_beams"
    )
    metric_for_best_model: str | None = option(
        "cider", "Validation score that checkpoints are chosen by: cider, bleu4, rougeL, exact, distinct, or loss"
    )
    greater_is_better: bool | None = option(None, "Prefer higher values of that score [for every score but loss]")
    best_model_tolerance: float = option(
        1.0,
        "Standard errors of the best validation score within which a later checkpoint is kept; 0 keeps the best alone",
    )
    early_stopping_patience: int = option(
        10, "Evaluations without improvement before training stops; not with --max_train_minutes"
    )
    load_best_model_at_end: bool = option(True, "Export the kept checkpoint, not the last weights [True]")
    save_strategy: str = option("best", "Checkpoint interval: best (after an improvement), epoch, steps, or no")
    save_total_limit: int | None = option(2, "Checkpoints to keep; the newest and the best are never removed")
    save_minutes: float = option(10.0, "Minutes between checkpoints, at most; 0 for no limit")
    remove_unused_columns: bool = option(False, "Drop columns that the model does not take; cannot be on")
    disable_tqdm: bool | None = option(False, "Show no progress")
    self_critical_samples: int = option(
        0,
        "Captions to draw per clip and reward by CIDEr-D (self-critical training); 0 trains by cross-entropy alone. "
        "Start from a trained model (--model_name_or_path) and a small --learning_rate",
    )
    self_critical_anchor: float = option(0.2, "Weight of the usual loss beside the self-critical loss")
    text_warmup_steps: int = option(500, "Steps of training the decoder on the sentences of --text_corpus")
    word_dropout_warmup: float = option(0.5, "Share of the run over which --word_dropout grows from 0 to its value")
    loss_warmup: float = option(
        0.0,
        "Share of the run over which scheduled sampling and the weights of all losses but the caption loss grow "
        "from 0",
    )
    report_to: None | str | list[str] = option(
        "none", "Trackers to log to: tensorboard, trackio, wandb, ..., all, none"
    )
    push_to_hub: bool = option(False, "Upload the finished model to the Hub, once it has passed its checks")
    hub_model_id: str | None = option(None, "Hub repository to upload to, user/name [the name of --output_dir]")
    hub_private_repo: bool | None = option(None, "Make a new Hub repository private [your organisation's default]")
    hub_strategy: str = option(
        "end", "Time of uploads to the Hub; always end, since only finished models are uploaded"
    )
