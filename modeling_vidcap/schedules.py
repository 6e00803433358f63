"""Learning rates over a run whose end is a time: what transformers' schedules are over steps."""

import math
from collections.abc import Callable

from transformers import SchedulerType

from .time_budget import TimeBudget

# The share of the learning rate that is left when a share of the run is over.
DECAYS: dict[str, Callable[[float], float]] = {
    SchedulerType.COSINE: lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    SchedulerType.LINEAR: lambda progress: 1 - progress,
    SchedulerType.CONSTANT: lambda progress: 1.0,
    SchedulerType.CONSTANT_WITH_WARMUP: lambda progress: 1.0,
}


def check_schedule(kind: str, options: object) -> None:
    """Raises a `ValueError` if a schedule cannot be told without the number of steps."""
    if kind not in DECAYS:
        names = ", ".join(SchedulerType(each).value for each in DECAYS)
        raise ValueError(
            f"--lr_scheduler_type {SchedulerType(kind).value} needs the number of steps, which --max_train_minutes "
            f"leaves open: take one of {names}, or --max_steps"
        )
    if options:
        raise ValueError(f"--lr_scheduler_kwargs {options} are not heeded with --max_train_minutes: leave them out")


def rate_over_time(kind: str, warmup_steps: float, budget: TimeBudget) -> Callable[[int], float]:
    """The factor of the learning rate at each step, for `LambdaLR`.

    Args:
        kind: One of [`DECAYS`].
        warmup_steps: Below 1 a share of the run, else a number of steps, as transformers reads it.
        budget: Tells how far the run is.
    """
    decay = DECAYS[kind]
    warmup = 0.0 if kind == SchedulerType.CONSTANT else warmup_steps

    def factor(step: int) -> float:
        # Before the first step ends no time has passed; a rate of zero would waste that step.
        progress = max(budget.progress_at(step), 1e-3)
        risen = (step + 1) / int(warmup) if warmup >= 1 else progress / max(warmup, 1e-9)
        return min(1.0, risen) * decay(progress)

    return factor
