"""Training that fits into a given time, whatever the machine's speed.

For the first tenth of the time, progress is read off the clock. Then the number of steps that fit into the rest is
fixed, and each further step advances progress by its share of the remaining steps. If the speed changes by more than
`TOLERANCE`, the number of steps changes and with it that share. Evaluations and checkpoints count as training time;
preparation before the first step does not.

Guarantees: progress never decreases, so the learning rate never rises after its warm-up. A checkpoint holds steps and
progress, so a resumed run ends where it would have ended.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import torch
from transformers import SchedulerType, TrainerCallback

from ...ranks import from_first_rank

logger = logging.getLogger(__name__)
CALIBRATION = 0.1  # share of the time after which the number of steps is fixed
TOLERANCE = 0.05  # share of the time by which the end may be early or late before the number of steps changes
MEASUREMENTS = 200  # of the speed, per run
WINDOW = 20  # measurements over which the speed is averaged: single steps vary by half
PAUSE = 100  # usual durations of a step: the process was stopped, or the machine asleep


class TimeBudget(TrainerCallback):
    """A callback that stops and evaluates a training by the clock.

    Args:
        minutes: Time for training.
        evaluations: Evaluations per run, the one at its end included.
        clock: Returns seconds. It may jump: backwards counts as no time, and a step longer than `PAUSE` usual steps
            and a tenth of the budget as a pause.

    Attributes:
        spent: Seconds of training so far, including those before an interruption.
        steps: Steps of the whole run, once they are known.
        progress: Completed share of the run.
    """

    def __init__(self, minutes: float, evaluations: int, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.seconds = 60 * minutes
        self.evaluations = max(1, evaluations)
        self.evaluation_seconds = 0.0  # duration of the longest evaluation
        self.spent = 0.0
        self.steps: int | None = None
        self.progress = 0.0
        self.evaluated = 0  # evaluations so far
        self._step = 0  # the last step that `progress` includes

    def state(self) -> dict[str, float | int | None]:
        """State for [`resume`], to be stored in a checkpoint."""
        return {"steps": self.steps, "spent": self.spent, "progress": self.progress, "evaluated": self.evaluated}

    def resume(
        self, step: int, *, steps: int | None, spent: float, evaluated: int, progress: float | None = None
    ) -> None:
        """Continue after a step (`progress` is missing before version 0.2)."""
        if progress is None:
            progress = step / steps if steps else 0.0
        self.steps, self.spent, self.progress, self.evaluated = steps, spent, progress, evaluated

    @property
    def seconds_left(self) -> float:
        """Seconds until the end, evaluations included."""
        return max(0.0, self.seconds - self.spent)

    def progress_at(self, step: int) -> float:
        """Completed share of the run after a step."""
        if self.steps is None:
            return self.progress
        left = self.steps - self._step
        if step >= self.steps or left <= 0:
            return 1.0
        return self.progress + (1 - self.progress) * (step - self._step) / left

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._step = state.global_step
        self._last = self.clock()
        self._stepping = 0.0  # seconds of steps alone, in this process
        self._started_at = self._measured_at = state.global_step
        self._measured: deque[tuple[int, float]] = deque([(state.global_step, 0.0)], maxlen=WINDOW + 1)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        elapsed, steps = self._tick(), state.global_step - 1 - self._started_at
        if steps and elapsed > max(PAUSE * self._stepping / steps, CALIBRATION * self.seconds):
            logger.warning(f"training paused for {elapsed / 60:.1f} minutes, which do not count as training time")
            elapsed = self._stepping / steps
        self.spent += elapsed
        self._stepping += elapsed
        if self.steps is None:
            self.spent = from_first_rank(self.spent, args.device)
            self.progress = min(1.0, self.spent / self.seconds)
            self._step = state.global_step
            if CALIBRATION <= self.progress < 1:
                self._fix_steps(self._seconds_per_step(args.device))
        else:
            self.progress = self.progress_at(state.global_step)
            self._step = state.global_step
            if self._step - self._measured_at >= max(1, self.steps // MEASUREMENTS) and self.progress < 1:
                self._correct_steps(args.device)
        control.should_training_stop |= self.progress >= 1
        if self.progress >= 1 or int(self.progress * self.evaluations) > self.evaluated:
            control.should_evaluate = True
            self.evaluated = int(self.progress * self.evaluations)
        self._evaluation = 0.0

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        elapsed = self._tick()
        self.spent += elapsed
        self._evaluation += elapsed  # called once per validation set
        self.evaluation_seconds = max(self.evaluation_seconds, self._evaluation)

    def on_save(self, args, state, control, **kwargs) -> None:
        self.spent += self._tick()

    def _tick(self) -> float:
        """Seconds since the previous call."""
        before, self._last = self._last, self.clock()
        return max(0.0, self._last - before)

    def _seconds_per_step(self, device: torch.device) -> float:
        """Mean over the last measurements, equal on all ranks."""
        step, stepping = self._measured[0]
        self._measured.append((self._step, self._stepping))
        self._measured_at = self._step
        return from_first_rank(max((self._stepping - stepping) / (self._step - step), 1e-9), device)

    def _steps_in_time(self, seconds_per_step: float) -> int:
        """Steps of the whole run, at this speed from now on."""
        evaluations_left = self.evaluations - int(self.progress * self.evaluations)
        seconds = self.seconds_left - evaluations_left * self.evaluation_seconds
        return self._step + max(0, round(seconds / seconds_per_step))

    def _fix_steps(self, seconds_per_step: float) -> None:
        self.steps = self._steps_in_time(seconds_per_step)
        logger.info(f"{self.steps} steps fit into {self.seconds / 60:g} minutes")
        self.progress = self.progress_at(self._step)  # 1 if this was the last step

    def _correct_steps(self, device: torch.device) -> None:
        """Change the number of steps if the end would be mistimed."""
        assert self.steps is not None
        seconds_per_step = self._seconds_per_step(device)
        self.spent = from_first_rank(self.spent, device)
        steps = self._steps_in_time(seconds_per_step)
        settled = len(self._measured) > WINDOW
        over = self.spent > self.seconds * (1 + TOLERANCE / 2)
        if over or settled and abs(steps - self.steps) * seconds_per_step > TOLERANCE * self.seconds:
            change = "slower" if steps < self.steps else "faster"
            logger.info(
                f"{steps} steps fit into {self.seconds / 60:g} minutes, not {self.steps}: the machine became {change}"
            )
            self.steps = steps
            self.progress = max(self.progress, self.progress_at(self._step))


# Share of the learning rate by completed share of the run.
DECAYS: dict[str, Callable[[float], float]] = {
    SchedulerType.COSINE: lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    SchedulerType.LINEAR: lambda progress: 1 - progress,
    SchedulerType.CONSTANT: lambda progress: 1.0,
    SchedulerType.CONSTANT_WITH_WARMUP: lambda progress: 1.0,
}


def check_schedule(kind: str, options: object) -> None:
    """Refuse a schedule that cannot be computed without the number of steps."""
    if kind not in DECAYS:
        names = ", ".join(SchedulerType(name).value for name in DECAYS)
        raise ValueError(
            f"--lr_scheduler_type {SchedulerType(kind).value} needs the number of steps, which --max_train_minutes "
            f"leaves open; take one of {names}, or give --max_steps"
        )
    if options:
        raise ValueError(f"--lr_scheduler_kwargs {options} has no effect with --max_train_minutes; leave it out")


def rate_over_time(kind: str, warmup_steps: float, budget: TimeBudget) -> Callable[[int], float]:
    """Factor of the learning rate per step, for `LambdaLR`.

    Args:
        kind: One of [`DECAYS`].
        warmup_steps: A share of the run if below 1, otherwise a number of steps, as in transformers.
        budget: Source of the progress.
    """
    decay = DECAYS[kind]
    warmup = 0.0 if kind == SchedulerType.CONSTANT else warmup_steps

    def factor(step: int) -> float:
        # No time has passed before the end of the first step, which a rate of zero would waste.
        progress = max(budget.progress_at(step), 1e-3)
        risen = (step + 1) / int(warmup) if warmup >= 1 else progress / max(warmup, 1e-9)
        return min(1.0, risen) * decay(progress)

    return factor
