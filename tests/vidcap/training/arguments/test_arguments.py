"""Recipes and presets: what stands in a file, what is said beside it, and which of the two wins."""

import dataclasses

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from modeling_vidcap import VideoCaptionConfig
from vidcap.training.arguments.command_line import _ELSEWHERE, RECIPES, parse
from vidcap.training.arguments.data_arguments import DataArguments
from vidcap.training.arguments.model_arguments import ModelArguments
from vidcap.training.arguments.short_help import ALL_OPTIONS, GROUPS
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.arguments.training_options import TrainingOptions
from vidcap.training.main import main


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_understood(recipe):
    data, model_args, args, given = parse([str(recipe)])
    assert {"dataset", "output_dir"} <= given and str(args.output_dir).startswith("outputs/")
    assert parse(["--recipe", recipe.stem])[0].dataset == data.dataset
    own = {each.name for each in dataclasses.fields(VideoCaptionConfig)} & set(vars(model_args))
    sizes = {name: getattr(model_args, name) for name in own if "backbone" not in name}
    VideoCaptionConfig(**sizes, feature_size=128)  # what cannot work together is refused


def test_a_preset_gives_way_to_what_is_said_beside_it():
    arguments = ["--dataset", "clips", "--output_dir", "model", "--hidden_size", "96", "--preset", "1m"]
    model_args = parse(arguments)[1]
    assert (model_args.hidden_size, model_args.intermediate_size, model_args.multimodal_layers) == (96, 320, 1)


def test_a_preset_on_the_command_line_goes_before_that_of_a_recipe(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("dataset: clips\noutput_dir: model\npreset: 1m\nencoder_layers: 0\n")
    own = parse([str(recipe)])[1]
    assert (own.hidden_size, own.encoder_layers) == (80, 0)
    larger = parse([str(recipe), "--preset=25m", "--text_layers", "1"])
    assert (larger[1].hidden_size, larger[1].encoder_layers, larger[1].text_layers) == (384, 3, 1)
    assert {"dataset", "preset", "hidden_size", "text_layers"} <= larger[3] and "num_beams" not in larger[3]
    with pytest.raises(SystemExit):
        parse([str(recipe), "--pre", "25m"])


@pytest.mark.parametrize(("launched", "accelerator", "on_cpu"), [(1, 0, True), (1, 1, False), (0, 0, False)])
def test_processes_of_a_launcher_find_each_other_without_gpus(monkeypatch, launched, accelerator, on_cpu):
    monkeypatch.setattr(
        Seq2SeqTrainingArguments, "__post_init__", lambda self: None
    )  # which would wait for the others
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(accelerator))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")
    assert VideoCaptionTrainingArguments(output_dir="x").use_cpu == on_cpu


def test_a_push_goes_to_the_name_of_the_folder_unless_it_is_told_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (".", "../" + tmp_path.name, str(tmp_path) + "/"):
        assert VideoCaptionTrainingArguments(output_dir=output).repository == tmp_path.name
    assert VideoCaptionTrainingArguments(output_dir=".", hub_model_id="user/name").repository == "user/name"


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--epochs", "num_train_epochs"),
        ("--batch-size=4", "per_device_train_batch_size"),
        ("--lr", "learning_rate"),
        ("--data_dir", "dataset"),
        ("--learning_rat", "learning_rate"),
        ("--num_train_epoch", "num_train_epochs"),
        ("--quixotic", None),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_is_meant(capsys, option, meant):
    with pytest.raises(SystemExit):
        parse(["--dataset", "clips", "--output_dir", "model", option, "2"])
    error = capsys.readouterr().err
    assert f"unknown option: {option} 2" in error
    assert f"did you mean --{meant}?" in error if meant else "did you mean" not in error


def test_names_in_other_trainers_stand_for_options_and_are_none():
    kinds = (DataArguments, ModelArguments, VideoCaptionTrainingArguments)
    options = {option.name for kind in kinds for option in dataclasses.fields(kind)}
    assert set(_ELSEWHERE) <= options
    assert not {name.replace("_", "") for name in options} & {name for names in _ELSEWHERE.values() for name in names}


def test_help_shows_the_options_people_use_and_help_all_the_rest(capsys):
    assert main(["--help"], "vidcap train") == 0
    short = capsys.readouterr().out
    assert short.startswith("usage: vidcap train ") and ALL_OPTIONS in short
    shown = [name for options in GROUPS.values() for name in options]
    assert len(shown) == len(set(shown)) < 31
    assert all(f"\n{title}:\n" in short for title in GROUPS) and all(f"  --{name} " in short for name in shown)
    assert "--adam_beta2" not in short and "%" not in short.replace("5 %", "")
    for words in (["--help", "all"], ["--help=all"], ["--dataset", "x", "-h", "all"]):
        with pytest.raises(SystemExit) as end:
            main(words, "vidcap train")
        assert end.value.code == 0
        everything = capsys.readouterr().out
        assert all(f"--{each.name}" in everything for each in dataclasses.fields(VideoCaptionTrainingArguments))
        assert all(f"--{name}" in everything for name in (*shown, "hidden_size", "frame_pool"))


def test_help_texts_are_phrases_that_stand_alone():
    for options in (DataArguments, ModelArguments, TrainingOptions):
        for each in dataclasses.fields(options):
            text = each.metadata["help"]
            assert text[0].isupper() and not text.startswith(("Of ", "In ", "Its ", "They ", "With ")), each.name
            assert " (default" not in text and text % {"default": 1}, each.name
