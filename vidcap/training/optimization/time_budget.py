"""Training that fits into a given time, under a schedule whose shape does not depend on the machine's pace.

For the first tenth of the time the clock says how far the run is. Then the number of steps that fit into the rest is
fixed, and from there on each step takes the run forward by its share of what is left. If the pace changes by more than
`TOLERANCE`, the number of steps changes and with it that share; progress never goes back, so that after its warm-up
the learning rate never rises. A checkpoint holds steps and progress: a resumed run ends where it would have.

Evaluations and checkpoints count as training; what comes before the first step does not.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import torch
from transformers import SchedulerType, TrainerCallback

from vidcap.ranks import from_first_rank

logger = logging.getLogger(__name__)
CALIBRATION = 0.1  # share of the time after which the number of steps is fixed
TOLERANCE = 0.05  # share of the time by which the end may come early or late before the number of steps changes
LOOKS = 200  # how often in a run the pace is looked at
WINDOW = 20  # looks over which the pace is averaged: single steps vary by half
PAUSE = 100  # times the usual length of a step: the process was stopped, the machine asleep


class TimeBudget(TrainerCallback):
    """Ends training when its time is over, and evaluates at even shares of it.

    Args:
        minutes: Time for training.
        evaluations: How many times the validation split is captioned, the end included.
        clock: Tells seconds. It may jump: what lies behind it counts as no time, a step of more than `PAUSE` usual
            ones and a tenth of the budget as a pause.

    Attributes:
        spent: Seconds of training so far, those before an interruption included.
        steps: Of the whole run, as soon as they are known.
        progress: The share of the run that is over.
    """

    def __init__(self, minutes: float, evaluations: int, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.seconds = 60 * minutes
        self.evaluations = max(1, evaluations)
        self.evaluation_seconds = 0.0  # of the longest one
        self.spent = 0.0
        self.steps: int | None = None
        self.progress = 0.0
        self.evaluated = 0  # shares of the run at whose end the validation split was captioned
        self._step = 0  # the last one that `progress` includes

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint needs to hold for [`resume`]."""
        return {"steps": self.steps, "spent": self.spent, "progress": self.progress, "evaluated": self.evaluated}

    def resume(
        self, step: int, *, steps: int | None, spent: float, evaluated: int, progress: float | None = None
    ) -> None:
        """Goes on behind a step, from the `state` of an earlier run; before version 0.2 that held no progress."""
        if progress is None:
            progress = step / steps if steps else 0.0
        self.steps, self.spent, self.progress, self.evaluated = steps, spent, progress, evaluated

    @property
    def seconds_left(self) -> float:
        """Seconds until the end, evaluations included."""
        return max(0.0, self.seconds - self.spent)

    def progress_at(self, step: int) -> float:
        """The share of the run that is over after a step; before their number is known, what the clock said last."""
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
        self._started_at = self._looked_at = state.global_step
        self._looks: deque[tuple[int, float]] = deque([(state.global_step, 0.0)], maxlen=WINDOW + 1)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        took, made = self._tick(), state.global_step - 1 - self._started_at
        if made and took > max(PAUSE * self._stepping / made, CALIBRATION * self.seconds):
            logger.warning(f"training stood still for {took / 60:.1f} min, which do not count as its time")
            took = self._stepping / made
        self.spent += took
        self._stepping += took
        if self.steps is None:
            self.spent = from_first_rank(self.spent, args.device)
            self.progress = min(1.0, self.spent / self.seconds)
            self._step = state.global_step
            if CALIBRATION <= self.progress < 1:
                self._fix_steps(self._pace(args.device))
        else:
            self.progress = self.progress_at(state.global_step)
            self._step = state.global_step
            if self._step - self._looked_at >= max(1, self.steps // LOOKS) and self.progress < 1:
                self._correct_steps(args.device)
        control.should_training_stop |= self.progress >= 1
        if self.progress >= 1 or int(self.progress * self.evaluations) > self.evaluated:
            control.should_evaluate = True
            self.evaluated = int(self.progress * self.evaluations)
        self._evaluation = 0.0

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        took = self._tick()
        self.spent += took
        self._evaluation += took  # of several validation sets each tells its end
        self.evaluation_seconds = max(self.evaluation_seconds, self._evaluation)

    def on_save(self, args, state, control, **kwargs) -> None:
        self.spent += self._tick()

    def _tick(self) -> float:
        """Seconds since the last call."""
        before, self._last = self._last, self.clock()
        return max(0.0, self._last - before)

    def _pace(self, device: torch.device) -> float:
        """Seconds a step, over the last looks; the same on each rank."""
        step, stepping = self._looks[0]
        self._looks.append((self._step, self._stepping))
        self._looked_at = self._step
        return from_first_rank(max((self._stepping - stepping) / (self._step - step), 1e-9), device)

    def _steps_in_time(self, pace: float) -> int:
        """The steps of the whole run, at this pace from now on."""
        evaluations_left = self.evaluations - int(self.progress * self.evaluations)
        seconds = self.seconds_left - evaluations_left * self.evaluation_seconds
        return self._step + max(0, round(seconds / pace))

    def _fix_steps(self, pace: float) -> None:
        self.steps = self._steps_in_time(pace)
        logger.info(f"{self.steps} steps fit into {self.seconds / 60:g} minutes")
        self.progress = self.progress_at(self._step)  # 1 if that was the last one

    def _correct_steps(self, device: torch.device) -> None:
        """Changes the number of steps if the end would come too early or too late."""
        assert self.steps is not None
        pace = self._pace(device)
        self.spent = from_first_rank(self.spent, device)
        steps = self._steps_in_time(pace)
        settled = len(self._looks) > WINDOW
        over = self.spent > self.seconds * (1 + TOLERANCE / 2)
        if over or settled and abs(steps - self.steps) * pace > TOLERANCE * self.seconds:
            slower = steps < self.steps
            logger.info(
                f"{steps} steps fit into {self.seconds / 60:g} minutes, not {self.steps}: the machine became "
                f"{'slower' if slower else 'faster'}"
            )
            self.steps = steps
            self.progress = max(self.progress, self.progress_at(self._step))


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
