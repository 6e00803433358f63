"""Progress of a training, as a bar or as plain lines."""

from transformers import TrainerCallback

from processing.support.progress import Progress

from .optimization.time_budget import TimeBudget

SHOWN = {"loss": "{:.3g}", "clips_per_second": "{:.0f}", "waiting": "{:.0%}", "learning_rate": "{:.2g}"}
NAMES = {"clips_per_second": "clips/s", "waiting": "waiting for data", "learning_rate": "learning rate"}


class TrainingProgress(TrainerCallback):
    """A callback that shows steps, loss and throughput.

    Args:
        budget: Budget of a run that ends by the clock, which knows the number of steps after a tenth of the time.
    """

    def __init__(self, budget: TimeBudget | None = None):
        self.budget = budget
        self.training: Progress | None = None
        self.evaluation: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.training = Progress("training", None if self.budget else state.max_steps, unit="step")
            self.training.start_at(state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.training is None:
            return
        if self.budget is not None:
            self.training.seconds_left = self.budget.seconds_left
            if self.training.total != self.budget.steps:
                self.training.total = self.budget.steps
        self.training.update(state.global_step - self.training.count)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training is not None and logs:
            notes = {NAMES.get(name, name): SHOWN[name].format(logs[name]) for name in SHOWN if name in logs}
            self.training.update(0, **notes)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        if self.evaluation is None:
            self.evaluation = Progress("validation", len(eval_dataloader), unit="batch")
        self.evaluation.update()

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self._end_evaluation()

    def on_predict(self, args, state, control, metrics, **kwargs) -> None:
        self._end_evaluation()

    def _end_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.training is not None:
            self.training.close()
            self.training = None
