"""What the log of a training tells beside the loss: its parts, and the pace."""

import time
from collections import defaultdict
from typing import Any

import torch
from transformers import Trainer

PER_STEP = ("caption_loss", "masked_word_loss")  # of which each micro-batch of each rank holds its share


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
        began = time.perf_counter()
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._pace.waited += time.perf_counter() - began
        self._pace.clips += sum(len(batch["labels"]) for batch in batches)
        return batches, items

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self._loss_parts:
            ranks = self.args.world_size if self.args.average_tokens_across_devices else 1
            scale = self.args.gradient_accumulation_steps * ranks
            for name, values in self._loss_parts.items():
                mean = torch.stack(values).float().mean().item()
                logs[name] = mean * scale if name in PER_STEP else mean
            self._loss_parts.clear()
            logs |= self._pace.line(self.args.world_size)
        super().log(logs, *args, **kwargs)
