"""An exponential moving average of the weights.

Guarantees: evaluation, checkpoints and the finished model hold the average; training continues from the raw weights
as if there were none, and resumes bit for bit.

Limitations: weights that are split over processes cannot be averaged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

RAW_WEIGHTS = "raw_weights.safetensors"  # in a checkpoint, beside the model file with the average


def check_decay(decay: float) -> None:
    """Refuse a decay that would average nothing, or never forget the initial weights."""
    if not 0 < decay < 1:
        raise ValueError(f"ema_decay {decay} must lie between 0 and 1; 0.999 averages over about 1000 steps")


class WeightAverage(TrainerCallback):
    """Average of a model's trainable parameters: after step n, `average = d * average + (1 - d) * weights`.

    d is `min(decay, (1 + n) / (10 + n))`, so that a young average forgets the initial weights: the warm-up of
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage. Buffers are not averaged. Ranks hold
    equal weights, and therefore equal averages.

    Args:
        decay: Must pass [`check_decay`].

    Attributes:
        checkpoint: Folder to take the raw weights from when training starts, if a run is resumed.
    """

    def __init__(self, decay: float):
        check_decay(decay)
        self.decay = decay
        self.checkpoint: str | Path | None = None
        self.weights: dict[str, torch.Tensor] = {}  # the model's own parameters
        self.average: list[torch.Tensor] = []

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average in place; a second call restores both bit for bit."""
        for weight, average in zip(self.weights.values(), self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Have the average in the model for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def save_raw(self, folder: Path) -> None:
        """Write the raw weights into a checkpoint."""
        weights = {name: weight.detach().contiguous() for name, weight in self.weights.items()}
        save_file(weights, folder / RAW_WEIGHTS)

    @torch.no_grad()
    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        assert model is not None
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = [weight.detach().clone() for weight in self.weights.values()]
        if self.checkpoint is None:
            return
        path = Path(self.checkpoint, RAW_WEIGHTS)  # the model file, which is loaded already, holds the average
        raw = load_file(path)
        if differing := sorted(raw.keys() ^ self.weights.keys()):
            raise ValueError(f"{path}: only one of the two runs trains {differing[0]}; train the same parameters")
        for name, weight in self.weights.items():
            weight.copy_(raw[name])

    def on_step_end(self, args, state, control, **kwargs) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.average, list(self.weights.values()), state.global_step)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Leave the average in the model, if no checkpoint was loaded."""
        if not (args.load_best_model_at_end and os.path.isdir(state.best_model_checkpoint or "")):
            self.swap()
        self.weights, self.average = {}, []
