"""What a run does where numbers go wrong or are few: it says so, and writes nothing over an earlier model."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import train_hf
from tests.conftest import SMALL
from tests.modeling_vidcap.test_backbones import captioner, save_backbone
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training.arguments import training_arguments
from vidcap.training.optimization.parameter_groups import decayed_names

STEPWISE = ["--logging_steps", "1", "--eval_steps", "4", "--eval_strategy", "steps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=16, validation=4, test=2, size=32)
    return path


def run(folder: Path, output: Path, *options: str) -> int:
    cache = output.parent / "cache"
    return train_hf.main(
        ["--dataset", str(folder), "--output_dir", str(output), "--feature_cache", str(cache), *SMALL, *options]
    )


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]


def test_a_run_that_diverges_ends_at_once_and_keeps_the_earlier_model(folder, tmp_path, capsys) -> None:
    output = tmp_path / "m"
    assert run(folder, output, "--max_steps", "2", *STEPWISE) == 0
    before = {path: path.read_bytes() for path in output.glob("*.*") if path.is_file()}
    capsys.readouterr()
    wild = ["--learning_rate", "1e6", "--muon", "False", "--weight_decay", "0", "--max_grad_norm", "0"]
    assert run(folder, output, "--max_steps", "40", *STEPWISE, *wild) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss is " in error and "lower --learning_rate (1e+06)" in error
    assert {path: path.read_bytes() for path in before} == before
    # Where no line of the log comes in time, the weights are looked at.
    assert (
        run(folder, output, "--max_steps", "40", "--logging_steps", "1000", "--logging_first_step", "False", *wild)
        == 1
    )
    assert "training diverged: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_parts_of_the_loss_add_up_whatever_is_accumulated(folder, tmp_path) -> None:
    """Four batches an epoch, three of them a step: the second step of each epoch is a short one."""
    plain = "--contrastive_weight 0 --label_smoothing 0 --word_dropout 0 --learning_rate 1e-9 --num_train_epochs 2"
    steps = "--gradient_accumulation_steps 3 --logging_steps 2 --logging_first_step False"
    assert run(folder, tmp_path / "m", *plain.split(), *steps.split()) == 0
    lines = [line for line in log_of(tmp_path / "m") if "caption_loss" in line]
    assert lines and all(line["caption_loss"] == pytest.approx(line["loss"], rel=1e-3) for line in lines)
    assert all(line["learning_rate"] <= 1e-9 for line in lines)  # also with Muon, whose own rate is another


def test_the_loss_of_an_evaluation_does_not_rise_with_the_warm_up_of_its_parts(folder, tmp_path) -> None:
    still = "--learning_rate 0 --num_train_epochs 3 --loss_warmup 1.0 --muon False --metric_for_best_model loss"
    assert run(folder, tmp_path / "m", *still.split()) == 0
    losses = [line["eval_loss"] for line in log_of(tmp_path / "m") if "eval_loss" in line]
    assert len(losses) == 3 and losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_checkpoints_of_the_model_alone_are_not_gone_on_from(folder, tmp_path, caplog) -> None:
    options = [
        "--max_steps",
        "4",
        *STEPWISE,
        "--save_strategy",
        "steps",
        "--save_steps",
        "4",
        "--save_only_model",
        "True",
    ]
    output = tmp_path / "m"
    assert run(folder, output, *options) == 0
    manifest = output / "checkpoint-4" / "checkpoint.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"finished": False}))
    with caplog.at_level(logging.WARNING):
        assert run(folder, output, *options) == 0
    assert "it holds the model alone (--save_only_model)" in caplog.text
    assert run(folder, output, *options, "--resume_from_checkpoint", str(output / "checkpoint-4")) == 1


def test_too_few_clips_for_novelty_cost_no_model(tmp_path, caplog) -> None:
    generate_demo_data(tmp_path / "clips", train=2, validation=0, test=0, size=32)
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path / "clips", tmp_path / "m", "--max_steps", "2", *STEPWISE) == 0
    assert "at least 2 training clips" in caplog.text
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_missing_trackers_are_named_before_any_clip_is_read(folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(training_arguments, "get_available_reporting_integrations", lambda: [])
    with pytest.raises(SystemExit):
        run(folder, tmp_path / "m", "--report_to", "trackio")
    assert "--report_to trackio needs a missing package; run: pip install trackio" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "timesformer"])
def test_only_matrices_and_kernels_of_a_backbone_decay(family: str, tmp_path) -> None:
    model = captioner(save_backbone(family, tmp_path), frozen=False)
    decayed = set(decayed_names(model))
    of = {
        id(each.weight): type(each)
        for each in model.modules()
        if isinstance(getattr(each, "weight", None), nn.Parameter)
    }
    kinds = {of.get(id(each)) for name, each in model.named_parameters() if name in decayed}
    assert kinds == {nn.Linear, nn.Conv2d} and len(decayed) > 10
    assert not [name for name in decayed if "token" in name or "position" in name or "bias" in name]


@torch.no_grad()
def test_beams_are_ranked_by_the_probabilities_that_they_were_searched_by() -> None:
    changed = 0
    for seed in range(4):
        model = tiny_model(seed=seed, video_dropout=0.1, initializer_range=0.3)
        inputs = dict(tiny_processor()(videos=[tiny_clip(each) for each in range(4)]))
        options = {"num_beams": 4, "max_new_tokens": 8, "guidance_scale": 3.0}
        plain = model.generate(**inputs, **options, similarity_weight=0.0)
        assert torch.equal(model.generate(**inputs, **options, similarity_weight=1e-9), plain)
        changed += not torch.equal(model.generate(**inputs, **(options | {"guidance_scale": 1.0})), plain)
    assert changed


def test_masked_words_do_not_depend_on_padding(monkeypatch) -> None:
    model = tiny_model(masked_word_weight=1.0, dropout=0.0, word_dropout=0.0).train()
    inputs = dict(tiny_processor()(videos=[tiny_clip(0)]))
    labels = torch.tensor([[4, 7, 10, 2]])
    monkeypatch.setattr(  # every second word is hidden, however long the caption
        "modeling_vidcap.modeling_vidcap.drop_words",
        lambda ids, config, rate: ids.masked_fill(
            (torch.arange(ids.shape[1]) % 2 == 1) & (ids > 2), config.unk_token_id
        ),
    )
    losses = []
    for padding in (0, 3):
        padded = nn.functional.pad(labels, (0, padding), value=-100)
        losses.append(model(**inputs, labels=padded).masked_word_loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
