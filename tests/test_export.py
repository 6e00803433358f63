"""An exported folder loads anywhere: with the package and without it, and after being saved again."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, pipeline

from hub_card import ExportError, export_model, model_card, verify_export
from hub_card.exporter import code_files
from hub_card.probe import probe, synthetic_clip
from modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
from processing import VideoCaptionProcessor
from tests.tiny import tiny_model, tiny_processor


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export_model(tiny_model(), tiny_processor(), tmp_path / "captioner")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    code = exported / "layers_vidcap.py"
    source = code.read_text()
    code.unlink()
    with pytest.raises(ExportError, match="layers_vidcap.py is not the code of this version"):
        verify_export(exported)
    code.write_text(source.replace("self.scaling = self.head_dim**-0.5", "self.scaling = 1.0"))
    assert code.read_text() != source
    with pytest.raises(ExportError, match="layers_vidcap.py is not the code of this version"):
        verify_export(exported)  # which has not run it
    with pytest.raises(ExportError, match="(logits|captions) without this package .* in memory"):
        verify_export(exported, model=tiny_model(), processor=tiny_processor(), trust_remote_code=True)
    with pytest.raises(ExportError, match="has no .*model.safetensors"):
        verify_export(exported.parent)


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
            "arguments": {
                "dataset": str(tmp_path),
                "learning_rate": 1e-3,
                "output_dir": "/home/me/secret",
                "seed": 0,
            },
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
    assert "- learning_rate: 0.001\n" in card and "- seed: 0\n" in card and "- training time: 61 s\n" in card
    assert "- torch: 2.14 \\| a b\n" in card
    assert 'model="me/shapes"' in card
    assert "secret" not in card and str(tmp_path) not in card and f"- data: {tmp_path.name}\n" in card
    assert yaml.safe_load(model_card({"dataset": "me/clips"}).split("---")[1])["datasets"] == ["me/clips"]


def test_a_card_makes_nothing_up() -> None:
    card = model_card({})
    assert re.findall("^## .*", card, flags=re.MULTILINE) == ["## Use", "## Limits"]
    assert "license" not in card and "None" not in card and "$" not in card
