"""An exported folder loads anywhere: with the package and without it, and after being saved again."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, pipeline

import vidcap
from hub_card import ExportError, export_model, model_card, verify_export
from hub_card.exporter import _without_autocast, code_files
from hub_card.probe import measure, probe, synthetic_clip
from modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
from processing import VideoCaptionProcessor
from tests.tiny import tiny_model, tiny_processor
from vidcap.inference.loading import ModelError, load_captioner


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export_model(tiny_model(), tiny_processor(), tmp_path / "captioner")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow  # tests/vidcap/inference/test_loading.py asks the same of each class
def test_a_process_without_the_package_says_the_same(exported: Path) -> None:
    verify_export(exported)
    # What `verify_export` compares with is what the model in memory says, and differs from clip to clip.
    model, processor = tiny_model(), tiny_processor()
    inputs = processor(videos=[synthetic_clip(1), synthetic_clip(3)])
    found = probe(str(exported), trust_remote_code=False)
    assert found["captions"] == processor.post_process_generation(model.generate(**inputs))
    assert len(set(found["captions"])) == 2
    logits = model(**inputs, decoder_input_ids=torch.ones(2, 1, dtype=torch.long)).logits[:, 0]
    torch.testing.assert_close(torch.tensor(found["logits"]).view_as(logits), logits.detach())


def test_the_folder_holds_all_that_is_needed_and_no_pickle(exported: Path) -> None:
    names = set(contents(exported))
    code = {path.name for path in code_files()}
    assert {"modeling_vidcap.py", "processing_vidcap.py", "video_io_vidcap.py", "pipeline_vidcap.py"} < code
    assert "training_vidcap.py" not in code
    configurations = {"config.json", "generation_config.json", "processor_config.json"}
    assert names == code | configurations | {
        "model.safetensors",
        "SHA256SUMS",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    config = json.loads((exported / "config.json").read_text())
    references = [*config["auto_map"].values(), config["custom_pipelines"]["video-captioning"]["impl"]]
    for reference in references:
        module, name = reference.split(".")
        assert f"class {name}(" in (exported / f"{module}.py").read_text()


def test_with_the_package_no_remote_code_is_asked_for(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prompt: str = "") -> str:
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", refuse)
    for trust in (None, True):
        captioner = pipeline("video-captioning", model=str(exported), trust_remote_code=trust)
        assert type(captioner) is VideoCaptioningPipeline
        assert type(captioner.model) is VideoCaptionForConditionalGeneration
        assert type(captioner.processor) is VideoCaptionProcessor


def test_loading_and_exporting_again_changes_nothing(exported: Path, tmp_path: Path) -> None:
    model, processor = AutoModel.from_pretrained(exported), AutoProcessor.from_pretrained(exported)
    again = export_model(model, processor, tmp_path / "again")
    assert contents(again) == contents(exported)
    # A plain save is the same but for the card, part by part.
    model.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    assert contents(tmp_path / "plain") == {
        name: content for name, content in contents(exported).items() if name != "README.md"
    }


def test_a_pipeline_saves_its_processor_too(exported: Path, tmp_path: Path) -> None:
    captioner = pipeline("video-captioning", model=str(exported))
    captioner.save_pretrained(tmp_path / "saved")
    again = pipeline("video-captioning", model=str(tmp_path / "saved"))
    assert again(synthetic_clip(1), max_new_tokens=5) == captioner(synthetic_clip(1), max_new_tokens=5)


def test_a_folder_that_does_not_load_is_found_out(exported: Path) -> None:
    code = exported / "blocks_vidcap.py"
    source = code.read_text()
    code.unlink()
    with pytest.raises(ExportError, match="blocks_vidcap.py is not the code of this version"):
        verify_export(exported)
    code.write_text(source.replace("self.scaling = self.head_dim**-0.5", "self.scaling = 1.0"))
    assert code.read_text() != source
    with pytest.raises(ExportError, match="blocks_vidcap.py is not the code of this version"):
        verify_export(exported)  # which has not run it
    with pytest.raises(ExportError, match="(logits|captions) without this package .* in memory"):
        verify_export(exported, model=tiny_model(), processor=tiny_processor(), trust_remote_code=True)
    with pytest.raises(ExportError, match="has no .*model.safetensors"):
        verify_export(exported.parent)


def test_a_model_that_was_trained_in_16_bits_is_compared_without_them() -> None:
    model, processor = tiny_model(), tiny_processor()
    plain = measure(model, processor)["logits"]
    AcceleratorState._reset_state(reset_partial_state=True)
    trained = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    AcceleratorState._reset_state(reset_partial_state=True)
    rounded = measure(trained, processor)["logits"]
    assert max(abs(a - b) for a, b in zip(plain, rounded, strict=True)) > 1e-3
    with _without_autocast(trained):
        assert measure(trained, processor)["logits"] == plain
    assert measure(trained, processor)["logits"] == rounded


def test_an_export_over_an_older_one(exported: Path) -> None:
    (exported / "report.json").write_text("{}")
    (exported / "dropped_vidcap.py").write_text("")
    before = contents(exported)
    with pytest.raises(AttributeError):
        export_model(tiny_model(seed=2), None, exported)  # type: ignore[arg-type]
    assert contents(exported) == before  # a failure changes nothing and leaves nothing behind
    export_model(tiny_model(seed=2), tiny_processor(), exported)
    after = contents(exported)
    assert set(after) == set(before) - {"dropped_vidcap.py"}
    weights = load_file(exported / "model.safetensors")
    state = tiny_model(seed=2).state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert after["model.safetensors"] != before["model.safetensors"]


def test_a_card_tells_what_is_known(tmp_path: Path) -> None:
    scores = {"cider": 123.44, "exact": 0.5}
    card = model_card(
        {
            "scores": scores,
            "controls": {
                "other_clip": {"cider": 1.0, "exact": 0.0},
                "reversed": {"cider": 9.0, "exact_reversed": 0.93},
            },
            "repo_id": "me/shapes",
            "license": "mit",
            "arguments": {"dataset": str(tmp_path), "output_dir": "/home/me/secret"},
            "recipe": {"learning_rate": 1e-3, "seed": 0},
            "versions": {"torch": "2.14 | a\nb"},
            "train_seconds": 61.2,
        }
    )
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "mit"
    assert metadata["library_name"] == "transformers"
    assert "datasets" not in metadata  # a folder of somebody's is not on the Hub
    assert "| this model | 123.4 | 0.5 |" in card
    assert "| control: another clip's frames | 1.0 | 0 |" in card
    assert "0.93" in card
    assert "```yaml\nlearning_rate: 0.001\nseed: 0\n```\n" in card and "- training time: 61 s\n" in card
    assert "- made with: torch 2.14 &#124; a b\n" in card
    assert 'model="me/shapes"' in card
    assert "secret" not in card and str(tmp_path) not in card and tmp_path.name.replace("_", "\\_") in card
    assert yaml.safe_load(model_card({"dataset": "me/clips"}).split("---")[1])["datasets"] == ["me/clips"]


def test_a_card_makes_nothing_up() -> None:
    card = model_card({})
    assert re.findall("^## .*", card, flags=re.MULTILINE) == ["## Use", "## Limits"]
    assert "license" not in card and "None" not in card and "$" not in card


def test_large_weights_come_in_shards(tmp_path: Path) -> None:
    model, processor = tiny_model(), tiny_processor()
    folder = export_model(model, processor, tmp_path / "captioner", max_shard_size="50KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 60_000 for path in shards)
    assert not (folder / "model.safetensors").exists()
    assert measure(AutoModel.from_pretrained(folder), processor) == measure(model, processor)
    shards[0].rename(tmp_path / "lost")
    with pytest.raises(ExportError, match=f"has no {shards[0].name}"):
        verify_export(folder)
    export_model(model, processor, folder)  # in one file, beside which no shard is left to be taken for it
    assert not list(folder.glob("model-*")) and not (folder / "model.safetensors.index.json").exists()
    (folder / "model.safetensors").rename(tmp_path / "lost")
    export_model(model, processor, folder, max_shard_size="50KB")
    assert not (folder / "model.safetensors").exists()


def test_weights_of_an_earlier_save_are_not_loaded_in_place_of_the_last(tmp_path: Path) -> None:
    for seed, size in enumerate(["5GB", "50KB", "5GB", "50KB", "50KB"]):
        model = tiny_model(seed=seed)
        model.save_pretrained(tmp_path, max_shard_size=size)
        again = AutoModel.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
        assert (tmp_path / "model.safetensors").exists() == (size == "5GB")
        assert (tmp_path / "model.safetensors.index.json").exists() == (size != "5GB")


def test_sample_clips_come_along(tmp_path: Path) -> None:
    clip = tmp_path / "clip.gif"
    clip.write_bytes(b"GIF89a")
    folder = export_model(tiny_model(), tiny_processor(), tmp_path / "captioner", samples={"first.gif": clip})
    for name in ("mine.gif", "notes.txt"):
        (folder / "samples" / name).write_text("the user's own")
    export_model(tiny_model(), tiny_processor(), folder, samples={"second.gif": clip})
    assert sorted(path.name for path in (folder / "samples").glob("*.*")) == ["mine.gif", "notes.txt", "second.gif"]
    (folder / "samples" / "second.gif").write_bytes(b"redrawn by the user")
    export_model(tiny_model(), tiny_processor(), folder)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["mine.gif", "notes.txt", "second.gif"]


@pytest.mark.parametrize("options", [{}, {"color_bins": 5, "thumbnail_size": 5}, {"motion": False}])
def test_a_model_alone_is_compared_by_numbers(options: dict, tmp_path: Path) -> None:
    model = tiny_model(**options)
    assert all(math.isfinite(each) for each in measure(model)["logits"])
    model.save_pretrained(tmp_path)
    verify_export(tmp_path, model=model, complete=False)


def test_a_part_alone_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match="has no processor_config.json"):
        verify_export(tmp_path / "model", model=model)
    with pytest.raises(ExportError, match="logits without this package differ by up to .* from those in memory"):
        verify_export(tmp_path / "model", model=tiny_model(seed=2), complete=False)
    with pytest.raises(ExportError, match="has no config.json"):
        verify_export(tmp_path, complete=False)


def test_checkpoints_of_this_and_earlier_versions_load() -> None:
    recorded = sorted((Path(__file__).parents[1] / "fixtures").glob("checkpoint-*"))
    assert recorded
    for folder in recorded:
        model, processor = load_captioner(folder, device="cpu")
        found, expected = measure(model, processor), json.loads((folder / "expected.json").read_text())
        assert found["captions"] == expected["captions"]
        torch.testing.assert_close(torch.tensor(found["logits"]), torch.tensor(expected["logits"]), atol=1e-4, rtol=0)


def test_a_checkpoint_of_a_newer_version_is_refused(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["vidcap_version"] == vidcap.__version__
    for version, reason in (("99.1.0", "vidcap 99.1.0.*update vidcap"), ("new", "Invalid")):
        (exported / "config.json").write_text(json.dumps({**config, "vidcap_version": version}))
        with pytest.raises(ValueError, match=reason):
            AutoModel.from_pretrained(exported)
        with pytest.raises(ModelError, match=reason):
            load_captioner(exported)
    (exported / "config.json").write_text(json.dumps({**config, "vidcap_version": "0.0.1"}))
    AutoModel.from_pretrained(exported).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config  # written by this version
