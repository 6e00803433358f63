"""An exponential moving average of the weights: the raw weights are trained, their average is used.

What it promises: evaluation, checkpoints and the finished model hold the average; training goes on from the raw
weights as if there were none, and resumes bit for bit. What it gives up: weights that are split over processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback

RAW_WEIGHTS = "raw_weights.safetensors"  # in a checkpoint, beside the model file with the average


def check_decay(decay: float) -> None:
    """Raises a `ValueError` if `decay` would average nothing, or never forget the initial weights."""
    if not 0 < decay < 1:
        raise ValueError(f"ema_decay {decay} must lie between 0 and 1; 0.999 averages over some 1000 steps")


class WeightAverage(TrainerCallback):
    """Follows the trainable parameters of a model: after step n, `average = d * average + (1 - d) * weights`.

    d is `min(decay, (1 + n) / (10 + n))`, so that a young average forgets the initial weights: the warm-up of
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage. Buffers are not averaged. Ranks hold
    equal weights, and so equal averages. `decay` must pass [`check_decay`].
    """

    def __init__(self, decay: float):
        check_decay(decay)
        self.decay = decay
        self.weights: dict[str, torch.Tensor] = {}  # the model's own, of all that is followed
        self.average: list[torch.Tensor] = []

    def start(self, model: torch.nn.Module) -> None:
        """Begins with the model's weights as they are."""
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = [weight.detach().clone() for weight in self.weights.values()]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges weights and average in place; a second call restores both bit for bit."""
        for weight, average in zip(self.weights.values(), self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def finish(self) -> None:
        """Leaves the average in the model and follows it no longer."""
        self.swap()
        self.weights, self.average = {}, []

    def save_raw(self, path: str) -> None:
        """Writes the raw weights to a safetensors file."""
        save_file({name: weight.detach().contiguous() for name, weight in self.weights.items()}, path)

    @torch.no_grad()
    def resume(self, model: torch.nn.Module, path: str) -> None:
        """Begins with a model that holds an average; its raw weights come from the file of [`save_raw`]."""
        self.start(model)
        raw = load_file(path)
        if differing := sorted(raw.keys() ^ self.weights.keys()):
            raise ValueError(f"{path}: only one of the two runs trains {differing[0]}; train the same parameters")
        for name, weight in self.weights.items():
            weight.copy_(raw[name])

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 0:  # otherwise it came with the checkpoint
            self.start(model)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.average, list(self.weights.values()), state.global_step)


class AveragedTrainerMixin(Trainer):
    """Uses a [`WeightAverage`] where `args.ema_decay` is neither 0 nor None; to be named ahead of a `Trainer`."""

    average: WeightAverage | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.ema_decay:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(f"ema_decay {self.args.ema_decay} needs whole weights: drop it, or FSDP or DeepSpeed")
            self.average = WeightAverage(self.args.ema_decay)
            self.add_callback(self.average)

    @contextmanager
    def _average_in_use(self) -> Iterator[None]:
        swap = self.average.swap if self.average else lambda: None
        swap()
        try:
            yield
        finally:
            swap()

    def evaluation_loop(self, *args, **kwargs):
        with self._average_in_use():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, *args, **kwargs):
        with self._average_in_use():
            super()._save(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average and self.args.should_save:
            self.average.save_raw(os.path.join(output_dir, RAW_WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        path = os.path.join(resume_from_checkpoint, RAW_WEIGHTS)
        if os.path.isfile(path) == (self.average is None):
            raise ValueError(
                f"{resume_from_checkpoint} holds {'no' if self.average else 'an'} average of weights, but ema_decay "
                f"is {self.args.ema_decay}: resume with the arguments of the interrupted run"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average:
            self.average.resume(self.model, path)

    def _finalize_training(self, *args, **kwargs):
        if self.average:  # ahead of the Trainer, which may load the best checkpoint
            self.average.finish()
        return super()._finalize_training(*args, **kwargs)
