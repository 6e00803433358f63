"""Recipes and presets: what stands in a file, what is said beside it, and which of the two wins."""

import dataclasses

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from modeling_vidcap import VideoCaptionConfig
from vidcap.training.arguments.command_line import RECIPES, parse
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments


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
