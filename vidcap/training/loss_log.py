"""What the log of a training tells beside the loss: its parts, and the pace."""

import math
import time
from collections import defaultdict
from typing import Any

import torch
from transformers import Trainer

PER_STEP = ("caption_loss", "masked_word_loss")  # of which each micro-batch of each rank holds its share


class Pace:
    """Counts clips and the time spent waiting for them, between two lines of the log.

    Attributes:
        waited: Seconds.
        away: Seconds of evaluating and saving, which say nothing about the pace of training.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = self.away = 0.0
        self.clips = self.steps = 0

    def line(self, ranks: int) -> dict[str, float]:
        """What is logged."""
        elapsed = max(time.perf_counter() - self.started - self.away, 1e-9)
        return {"clips_per_second": ranks * self.clips / elapsed, "waiting": self.waited / elapsed}


class LossLogMixin(Trainer):
    """Logs the means of what [`note_part`] was told since the line before; to be named ahead of a `Trainer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = Pace()
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)

    def note_part(self, name: str, value: torch.Tensor) -> None:
        """Takes one micro-batch's value of a part of the loss, a scalar."""
        self._loss_parts[name].append(value.detach())

    def get_batch_samples(self, *args, **kwargs):
        """The micro-batches of a step."""
        began = time.perf_counter()
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._pace.waited += time.perf_counter() - began
        self._pace.clips += sum(len(batch["labels"]) for batch in batches)
        self._pace.steps += 1
        return batches, items

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        """What comes behind a step; its lines of the log are written first, so that the rest is of the next one."""
        pace, began = self._pace, time.perf_counter()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._pace is pace:
            self._pace.away += time.perf_counter() - began
        else:
            self._pace.started = time.perf_counter()

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Raises a `ValueError` where the loss is no finite number, since nothing will come of that run."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise ValueError(
                f"the loss is {logs['loss']} at step {self.state.global_step}: lower --learning_rate "
                f"({self.args.learning_rate:g}), and add --resume_from_checkpoint no"
            )
        if "loss" in logs and self._loss_parts:
            logs |= self._means() | self._pace.line(self.args.world_size)
            self._loss_parts.clear()
            self._pace = Pace()
        super().log(logs, *args, **kwargs)

    def _means(self) -> dict[str, float]:
        """Of each part, over steps and ranks."""
        shared = self.args.average_tokens_across_devices  # between the ranks, as between micro-batches
        means = {}
        for name, values in sorted(self._loss_parts.items()):
            own = torch.stack(values).float()
            own = own.sum() / self._pace.steps if name in PER_STEP else own.mean()
            how = "sum" if name in PER_STEP and shared else "mean"
            means[name] = self.accelerator.reduce(own, how).item()
        return means
