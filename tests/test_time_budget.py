"""A run that fits into its time: how far it is, how many steps it takes, when it evaluates, and where it goes on."""

import time
from types import SimpleNamespace

import pytest
import torch

from modeling_vidcap.time_budget import TimeBudget

ARGS = SimpleNamespace(device=torch.device("cpu"))


class Run:
    """Steps that take so long by a clock of their own, and evaluations."""

    def __init__(self, *, minutes: float = 1.0, evaluations: int = 3, preparation: float = 0.0, **model):
        self.now = 100.0
        self.budget = TimeBudget(minutes, self.now, evaluations, clock=lambda: self.now)
        self.now += preparation
        self.state = SimpleNamespace(global_step=0, epoch=0.0, is_world_process_zero=True)
        self.model = SimpleNamespace(name_or_path="", **model)
        self.evaluated: list[int] = []
        self.stopped = False

    def begin(self) -> None:
        self.budget.on_train_begin(ARGS, self.state, None, train_dataloader=[1], model=self.model)

    def step(self, seconds: float, *, evaluation: float = 0.0) -> None:
        control = SimpleNamespace(should_evaluate=False, should_training_stop=False)
        self.now += seconds
        self.state.global_step += 1
        self.budget.on_step_end(ARGS, self.state, control)
        if control.should_evaluate:
            self.evaluated.append(self.state.global_step)
            for _ in range(2):  # as of two validation sets
                self.now += evaluation / 2
                self.budget.on_evaluate(ARGS, self.state, control)
        self.stopped = control.should_training_stop


def test_the_steps_are_fixed_and_fill_the_time_evaluations_included():
    run = Run(preparation=6)
    run.begin()
    while not run.stopped:
        run.step(0.5, evaluation=2)
    assert run.evaluated == [pytest.approx(32, abs=5), pytest.approx(64, abs=5), run.state.global_step]
    assert run.now - 100 == pytest.approx(60, abs=2)
    assert run.state.global_step == run.budget.steps == pytest.approx(96, abs=4)  # 54 s - 3 evaluations of 2 s


def test_a_machine_that_slows_down_makes_fewer_steps_and_keeps_the_time(caplog):
    caplog.set_level("INFO")
    run = Run(evaluations=1)
    run.begin()
    while not run.stopped:
        run.step(0.2 if run.state.global_step < 100 else 0.4)
    assert run.now - 100 == pytest.approx(60, abs=3)
    assert "300 steps fit into 1 minutes" in caplog.text and "not 300" in caplog.text


def test_a_resumed_run_ends_where_it_would_have():
    whole = Run(evaluations=4)
    whole.begin()
    while not whole.stopped:
        whole.step(0.25)
        if whole.state.global_step == 90:
            kept = {"steps": whole.budget.steps, "spent": whole.budget.spent}
    resumed = Run(evaluations=4)
    resumed.now += 1e6
    resumed.state.global_step = 90
    resumed.budget.resume(**kept)
    resumed.begin()
    assert resumed.budget.progress == pytest.approx(90 / kept["steps"])
    while not resumed.stopped:
        resumed.step(0.25)
    assert resumed.state.global_step == whole.state.global_step
    assert resumed.evaluated == whole.evaluated[1:]


def test_time_that_is_used_up_before_the_first_step_is_told():
    run = Run(preparation=61)
    with pytest.raises(ValueError, match="--max_train_minutes 1 was used up by preparation .1.0 min"):
        run.begin()


@pytest.mark.parametrize(
    ("epoch", "name", "warned"), [(0.5, "", True), (50.0, "", False), (0.5, "my-captioner", False)]
)
def test_too_few_passes_are_told_early(caplog, epoch, name, warned):
    run = Run()
    run.model.name_or_path, run.state.epoch = name, epoch
    run.begin()
    for _ in range(2):
        run.step(7)
    assert caplog.text.count("give more --max_train_minutes") == warned


def test_processor_time_does_not_run_while_nothing_is_computed():
    budget = TimeBudget(0.1, time.process_time(), evaluations=1, clock=time.process_time)
    state, model = SimpleNamespace(global_step=1), SimpleNamespace(name_or_path="")
    budget.on_train_begin(ARGS, state, None, train_dataloader=[1], model=model)
    time.sleep(0.5)
    budget.on_step_end(ARGS, state, SimpleNamespace(should_evaluate=False, should_training_stop=False))
    assert budget.progress < 0.05  # of 6 seconds
