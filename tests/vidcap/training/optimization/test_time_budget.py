"""A run that fits into its time, with the shape of its schedule, whatever becomes of the pace and the clock."""

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny_processor
from tests.trainers import Clips, make_trainer
from vidcap.training.optimization import passes
from vidcap.training.optimization.passes import check_passes
from vidcap.training.optimization.time_budget import TimeBudget, rate_over_time

ARGS = SimpleNamespace(device=torch.device("cpu"))
WARMUP = 0.05


class Run:
    """A budget, its learning rate, and steps that take as long as a test says, by a clock of their own."""

    def __init__(self, *, minutes: float = 1.0, evaluations: int = 3):
        self.now = 100.0
        self.budget = TimeBudget(minutes, evaluations, clock=lambda: self.now)
        self.state = SimpleNamespace(global_step=0)
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, rate_over_time("cosine", WARMUP, self.budget)
        )
        self.rates: list[tuple[float, float]] = []  # progress and learning rate of each step
        self.evaluated: list[int] = []
        self.stopped = False

    def begin(self) -> None:
        self.budget.on_train_begin(ARGS, self.state, None)

    def step(self, seconds: float, *, evaluation: float = 0.0) -> None:
        control = SimpleNamespace(should_evaluate=False, should_training_stop=False)
        self.rates.append((self.budget.progress, self.scheduler.get_last_lr()[0]))
        self.now += seconds
        self.optimizer.step()
        self.scheduler.step()
        self.state.global_step += 1
        self.budget.on_step_end(ARGS, self.state, control)
        if control.should_evaluate:
            self.evaluated.append(self.state.global_step)
            for _ in range(2):  # as of two validation sets
                self.now += evaluation / 2
                self.budget.on_evaluate(ARGS, self.state, control)
        self.stopped = control.should_training_stop

    def to_the_end(self, seconds: Callable[[float], float], *, evaluation: float = 0.0) -> float:
        """Steps of `seconds(time since the beginning)` each; returns the time that all took."""
        began = self.now
        self.begin()
        while not self.stopped:
            self.step(seconds(self.now - began), evaluation=evaluation)
        return self.now - began


def test_the_steps_are_fixed_and_fill_the_time_evaluations_included():
    run = Run()
    assert run.to_the_end(lambda _: 0.5, evaluation=2) == pytest.approx(60, abs=2)
    assert run.evaluated == [pytest.approx(36, abs=5), pytest.approx(72, abs=5), run.state.global_step]
    assert run.state.global_step == run.budget.steps == pytest.approx(108, abs=4)  # 60 s - 3 evaluations of 2 s


@pytest.mark.parametrize("factor", [0.1, 0.5, 2, 10])
@pytest.mark.parametrize("when", [0.05, 0.3, 0.5, 0.9, 0.98])
def test_a_machine_of_another_pace_keeps_the_time_and_the_shape_of_the_schedule(factor, when):
    run = Run(evaluations=2)
    took = run.to_the_end(lambda now: 0.02 * (factor if now > 60 * when else 1), evaluation=0.5)
    assert took == pytest.approx(60, rel=0.1)
    rates = [rate for progress, rate in run.rates if progress > WARMUP]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    if when <= 0.5:
        assert rates[-1] < 0.05  # the schedule came to its end
    assert len(run.evaluated) == 2 and run.evaluated[-1] == run.state.global_step


def test_noise_changes_the_number_of_steps_alone(caplog):
    caplog.set_level("INFO")
    generator = torch.Generator().manual_seed(0)
    run = Run(evaluations=1)
    took = run.to_the_end(lambda _: 0.05 * (0.5 + float(torch.rand(1, generator=generator))))
    assert took == pytest.approx(60, rel=0.1)
    assert caplog.text.count("steps fit") == 1  # the first estimate stood


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_costs_no_steps(jump, caplog):
    usual, jumping = Run(evaluations=1), Run(evaluations=1)
    usual.to_the_end(lambda _: 0.1)
    jumping.begin()
    while not jumping.stopped:
        jumping.step(0.1 + jump * (jumping.state.global_step == 300))
    assert jumping.state.global_step == pytest.approx(usual.state.global_step, abs=2)
    assert ("training paused for 60.0 minutes" in caplog.text) == (jump > 0)


def test_a_budget_of_seconds_makes_a_step_and_evaluates():
    run = Run(minutes=0.01)
    run.to_the_end(lambda _: 7)
    assert run.state.global_step == 1 and run.evaluated == [1]


@pytest.mark.parametrize("stop", [3, 90])
def test_a_resumed_run_ends_where_it_would_have(stop):
    whole = Run(evaluations=4)
    whole.begin()
    while not whole.stopped:
        whole.step(0.25)
        if whole.state.global_step == stop:
            kept = whole.budget.state()
    resumed = Run(evaluations=4)
    resumed.now += 1e6
    resumed.state.global_step = stop
    resumed.budget.resume(stop, **kept)
    assert resumed.budget.progress == whole.rates[stop][0]
    resumed.to_the_end(lambda _: 0.25)
    assert resumed.state.global_step == whole.state.global_step
    assert resumed.evaluated == [step for step in whole.evaluated if step > stop]


def test_a_run_of_an_earlier_version_goes_on_at_its_share():
    budget = TimeBudget(1.0, 4)
    budget.resume(90, steps=120, spent=45.0, evaluated=3)
    assert (budget.progress, budget.evaluated, budget.seconds_left) == (0.75, 3, 15.0)


def test_the_trainer_keeps_to_the_time_and_never_raises_the_rate(tmp_path):
    processor = tiny_processor()
    trainer = make_trainer(tmp_path, processor, Clips(processor), max_train_minutes=1, logging_steps=1, evaluations=2)
    seconds = itertools.chain(itertools.repeat(0.25, 120), itertools.repeat(2.5))  # between two looks at the clock
    trainer.budget.clock = itertools.accumulate(seconds).__next__
    trainer.train()
    logged = [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each]
    highest = logged.index(max(logged))
    assert highest < len(logged) / 4
    assert all(later <= earlier for earlier, later in itertools.pairwise(logged[highest:]))
    assert trainer.budget.spent == pytest.approx(60, rel=0.1)


def test_too_few_passes_are_told_before_training_with_what_would_be_enough(monkeypatch, caplog):
    monkeypatch.setattr(passes, "seconds_per_batch", lambda *_: 1 / passes.OVERHEAD)
    args = SimpleNamespace(max_train_minutes=2, processor_time=False, world_size=1, self_critical_samples=0)
    args.per_device_train_batch_size = 10
    model, trained = SimpleNamespace(name_or_path=""), SimpleNamespace(name_or_path="my-captioner")
    check_passes(args, model, None, range(60), None)  # 20 passes
    check_passes(args, trained, None, range(600), None)
    assert caplog.text == ""
    check_passes(args, model, None, range(600), None)
    assert "--max_train_minutes 2 allows about 2 passes over 600 clips" in caplog.text
    assert "give --max_train_minutes 20" in caplog.text


def test_processor_time_does_not_run_while_nothing_is_computed():
    budget = TimeBudget(0.1, evaluations=1, clock=time.process_time)
    state = SimpleNamespace(global_step=1)
    budget.on_train_begin(ARGS, state, None)
    time.sleep(0.5)
    budget.on_step_end(ARGS, state, SimpleNamespace(should_evaluate=False, should_training_stop=False))
    assert budget.progress < 0.05  # of 6 seconds
