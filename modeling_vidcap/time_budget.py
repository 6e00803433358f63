"""Training that fits into a given time: how many steps it takes is measured, and then fixed.

Until a tenth of the time is over, the clock says how far the run is; then the number of steps that fits into the rest
is fixed, and the step alone says so. A checkpoint holds that number, so that a resumed run ends where it would have.
It is changed only if the machine turns out to be faster or slower than that (`TOLERANCE`), which the log tells.
"""

import logging
import time
from collections.abc import Callable

import torch
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_utils import has_length

from .ranks import from_first_rank

logger = logging.getLogger(__name__)
FEW_PASSES = 20  # over the clips; after 10 to 13 of them most captions of emoji clips were wrong (docs/log.md)
CALIBRATION = 0.1  # of the time
TOLERANCE = 0.03  # of the time, by which the end may come earlier or later before the number of steps is changed


class TimeBudget(TrainerCallback):
    """Ends training when the time is over, and evaluates at even shares of it.

    Args:
        minutes: The budget.
        started: What the clock showed when the run began; what was spent since, on features for one, counts.
        evaluations: How many times the validation split is captioned, the end included.
        clock: Tells seconds.

    Attributes:
        steps: Of the whole run, as soon as they are known.
        progress: The share of the run that is over.
    """

    def __init__(
        self, minutes: float, started: float, evaluations: int, clock: Callable[[], float] = time.perf_counter
    ):
        self.clock = clock
        self.seconds = 60 * minutes
        self.started = started
        self.evaluations = max(1, evaluations)
        self.evaluation_seconds = 0.0
        self.steps: int | None = None
        self.pace: float | None = None  # seconds a step
        self.progress = 0.0
        self.evaluated = 0  # shares of the run at whose end the validation split was captioned

    @property
    def spent(self) -> float:
        """Seconds since the run began, those before an interruption included."""
        return self.clock() - self.started

    def resume(self, steps: int | None, spent: float, evaluated: int = 0) -> None:
        """Goes on as a run of so many steps that has taken so many seconds and was evaluated so often."""
        self.steps = steps
        self.evaluated = evaluated
        self.started = self.clock() - spent

    def progress_at(self, step: int) -> float:
        """The share of the run that is over after a step; before their number is known, what the clock said last."""
        return self.progress if self.steps is None else min(1.0, step / self.steps)

    def _by_clock(self) -> float:
        end = self.started + self.seconds
        return min(1.0, (self.clock() - self.training_started) / max(end - self.training_started, 1e-9))

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.training_started = self.pace_started = self.clock()
        self.pace_step = state.global_step
        self.paused = 0.0  # seconds of evaluations, which say nothing about the pace of steps
        self.progress = self.progress_at(state.global_step)
        self.evaluated = max(self.evaluated, int(self.progress * self.evaluations))
        # A stream's length is not known, a trained model needs fewer passes, a resumed run was told already.
        self.watch_pace = has_length(kwargs["train_dataloader"]) and not kwargs["model"].name_or_path
        self.watch_pace &= state.global_step == 0
        if self.spent >= self.seconds and not self.steps:
            raise ValueError(
                f"--max_train_minutes {self.seconds / 60:g} was used up by preparation "
                f"({self.spent / 60:.1f} min); decoded clips are kept, so that a second run starts at once"
            )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        before = self.progress
        if self.steps is None:
            self.progress = from_first_rank(self._by_clock(), args.device)
        else:
            self.progress = self.progress_at(state.global_step)
        if int(before * 10) < int(self.progress * 10) < 10:
            self._fit(state.global_step, args.device)
        if self.watch_pace and self.progress >= CALIBRATION:
            self.watch_pace = False
            if (passes := state.epoch / self.progress) < FEW_PASSES and state.is_world_process_zero:
                logger.warning(
                    f"at this pace training sees each clip {passes:.0f} times, and fewer than {FEW_PASSES} are seldom "
                    "enough: give more --max_train_minutes, or take a smaller model (--preset 1m is the smallest)"
                )
        control.should_training_stop |= self.progress >= 1
        # Where the number of steps is raised, the run goes back a little, and comes to the same share twice.
        if self.progress >= 1 or int(self.progress * self.evaluations) > self.evaluated:
            control.should_evaluate = True
            self.evaluated = int(self.progress * self.evaluations)
        self.evaluation_started = self.clock()  # if one follows, be it that the Trainer asks for it
        self.evaluation_took = 0.0

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        took = self.clock() - self.evaluation_started
        self.paused += took - self.evaluation_took  # of several validation sets each tells its end
        self.evaluation_took = took
        self.evaluation_seconds = max(self.evaluation_seconds, took)

    def _fit(self, step: int, device: torch.device) -> None:
        """Fixes the number of steps, or changes it if the end would come too early or too late."""
        pace = (self.clock() - self.pace_started - self.paused) / (step - self.pace_step)
        # Halfway between old and new: the pace of a tenth of the run goes up and down by some percent.
        self.pace = pace = pace if self.pace is None else (self.pace + pace) / 2
        self.pace_started, self.pace_step, self.paused = self.clock(), step, 0.0
        left = self.evaluations - int(self.progress * self.evaluations)
        time_left = self.seconds - self.spent - left * self.evaluation_seconds
        steps = step + max(0, round(time_left / pace))
        steps = max(step, round(from_first_rank(float(steps), device)))
        if self.steps is None:
            self.steps = steps
            self.progress = step / steps
            logger.info(f"{steps} steps fit into {self.seconds / 60:g} minutes")
        elif abs(steps - self.steps) * pace > TOLERANCE * self.seconds:
            logger.info(f"{steps} steps fit into {self.seconds / 60:g} minutes, not {self.steps}")
            self.steps = steps
            self.progress = step / steps


class BudgetBar(ProgressCallback):
    """The Trainer's progress bar, counting seconds of the budget where the number of steps is not known."""

    def __init__(self, budget: TimeBudget):
        super().__init__()
        self.budget = budget

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = tqdm(total=round(self.budget.seconds), unit="s", desc="training", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.training_bar is not None:
            elapsed = min(round(self.budget.spent), self.training_bar.total)
            self.training_bar.update(elapsed - self.training_bar.n)
            self.training_bar.set_postfix(step=state.global_step, refresh=False)
