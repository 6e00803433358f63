"""Parts of the loss and throughput, for the log of a training."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

PER_STEP = ("caption_loss", "masked_word_loss")  # each micro-batch of each rank holds its share of these


class LossLog:
    """Loss parts, clips and waiting times since the last logged line."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin the next line."""
        self._started = time.perf_counter()
        self._waited = self._paused = 0.0
        self._clips = self._steps = 0
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add_part(self, name: str, value: torch.Tensor) -> None:
        """Take a micro-batch's value, a scalar, of a part of the loss."""
        self._parts[name].append(value.detach())

    def add_step(self, *, clips: int, waited: float) -> None:
        """Take a step's number of clips, and the seconds spent waiting for them."""
        self._clips += clips
        self._waited += waited
        self._steps += 1

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what runs inside, such as an evaluation, out of the throughput."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def line(self, accelerator: Accelerator, *, shared: bool) -> dict[str, float]:
        """Finish a line: means of the parts over steps and ranks, and the throughput.

        Args:
            shared: Whether each rank holds its share of the [`PER_STEP`] parts, as each micro-batch does.
        """
        elapsed = max(time.perf_counter() - self._started - self._paused, 1e-9)
        values = {}
        for name, parts in sorted(self._parts.items()):
            stacked = torch.stack(parts).float()
            local = stacked.sum() / self._steps if name in PER_STEP else stacked.mean()
            reduction = "sum" if name in PER_STEP and shared else "mean"
            values[name] = accelerator.reduce(local, reduction).item()
        values["clips_per_second"] = accelerator.num_processes * self._clips / elapsed
        values["waiting"] = self._waited / elapsed
        self.reset()
        return values
