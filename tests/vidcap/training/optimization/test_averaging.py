"""The average of the weights: its formula, where it is used, and that training goes on as if there were none."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from modeling_vidcap import VideoCaptionForConditionalGeneration
from tests.tiny import tiny_model, tiny_processor
from tests.trainers import Clips, make_trainer
from vidcap.training.optimization.averaging import RAW_WEIGHTS, WeightAverage
from vidcap.training.trainer import VideoCaptionTrainer


class Record(TrainerCallback):
    """The raw weights after each step."""

    def __init__(self, model):
        self.weights = [trainable(model)]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(trainable(model))


def trainable(model) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def clips(processor):
    return Clips(processor)


def trainer_of(output_dir, processor, clips, *, model=None, **options) -> VideoCaptionTrainer:
    model = tiny_model(initializer_range=0.05, freeze_backbone=True, **(model or {}))
    values = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "ema_decay": 0.5, "muon": False}
    return make_trainer(output_dir, processor, clips, model=model, **(values | options))


def averaged(history: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    average = {name: each.double() for name, each in history[0].items()}
    for step, weights in enumerate(history[1:], start=1):
        d = min(decay, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name].double() for name in average}
    return {name: each.float() for name, each in average.items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_the_average_is_used_and_the_raw_weights_are_trained(tmp_path, processor, clips):
    still = {"dropout": 0.0, "word_dropout": 0.0}  # evaluation draws random numbers too
    steps = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(tmp_path, processor, clips, model=still, ema_decay=0.3, **steps)
    record = Record(trainer.model)
    trainer.add_callback(record)
    trainer.train()
    for step in (2, 4):  # the decay is 1/4 at the second step, and bounded by 0.3 at the fourth
        expected = averaged(record.weights[: step + 1], 0.3)
        folder = tmp_path / f"checkpoint-{step}"
        saved = VideoCaptionForConditionalGeneration.from_pretrained(folder)
        torch.testing.assert_close(trainable(saved), expected)
        assert_equal(load_file(folder / RAW_WEIGHTS), record.weights[step])
        (loss,) = (e["eval_loss"] for e in trainer.state.log_history if e["step"] == step and "eval_loss" in e)
        again = make_trainer(tmp_path, processor, clips, model=saved)
        assert again.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)
        saved.load_state_dict(record.weights[step], strict=False)
        assert again.evaluate()["eval_loss"] != pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(trainable(trainer.model), expected)

    unaveraged = trainer_of(tmp_path, processor, clips, model=still, ema_decay=0.0, max_steps=4)
    unaveraged.train()
    assert_equal(trainable(unaveraged.model), record.weights[4])


def test_the_best_checkpoint_stays_in_the_model(tmp_path, processor, clips):
    strategy = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best", "load_best_model_at_end": True}
    # The first evaluation counts as the best, since the loss falls.
    best = {"metric_for_best_model": "eval_loss", "greater_is_better": True, "best_model_tolerance": 0}
    trainer = trainer_of(tmp_path, processor, clips, max_steps=6, **strategy, **best)
    trainer.train()
    assert trainer.state.best_global_step == 2
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert_equal(trainable(trainer.model), {name: saved[name] for name in trainable(trainer.model)})


def test_resumed_training_equals_uninterrupted(tmp_path, processor, clips):
    options = {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 10}
    whole = trainer_of(tmp_path / "whole", processor, clips, **options)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", processor, clips, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    assert resumed.state.global_step == 20
    assert_equal(trainable(resumed.model), trainable(whole.model))
    for name in ("model.safetensors", RAW_WEIGHTS):
        one, other = (load_file(tmp_path / run / "checkpoint-20" / name) for run in ("whole", "resumed"))
        assert_equal(one, other)


@pytest.mark.parametrize("decays", [(0.0, 0.5), (0.5, 0.0)])
def test_resuming_with_and_without_an_average_is_refused(tmp_path, processor, clips, decays):
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer_of(tmp_path, processor, clips, ema_decay=decays[0], **options).train()
    with pytest.raises(ValueError, match=f"checkpoint-1: .* ema_decay is {decays[1]}"):
        trainer_of(tmp_path, processor, clips, ema_decay=decays[1]).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_decay_outside_of_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema_decay {decay} must lie between 0 and 1"):
        WeightAverage(decay)
