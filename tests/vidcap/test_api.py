"""What `vidcap` gives to people: its names, and functions that do what the commands do."""

import json
from pathlib import Path

import pytest

import hub_card
import vidcap
from tests.media import texture, write_video
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data

NAMES = (
    *("load_captioner", "caption", "evaluate", "score_captions", "train", "push", "decode_video", "VideoDecodeError"),
    *("VideoCaptionConfig", "VideoCaptionForConditionalGeneration", "VideoCaptionProcessor", "CaptionAdapter"),
    "__version__",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made = tiny_model()
    made.generation_config.max_new_tokens = 6
    made.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(folder, train=8, validation=2, test=2, size=32)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_names_are_offered(name: str) -> None:
    assert name in dir(vidcap) and getattr(vidcap, name) is not None


def test_captions_are_those_of_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_video(tmp_path / "clip.mp4", texture(8), rate=8)
    assert main(["caption", str(clip), "--model", model, "--num_beams", "2"]) == 0
    (result,) = vidcap.caption(clip, model=model, num_beams=2)
    assert capsys.readouterr().out == f"{clip}: {result.text}\n" and result.seconds == pytest.approx(1.0)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    frames, unreadable = vidcap.caption([tiny_clip(0), str(broken)], model=model, captions=2, num_beams=2)
    assert len(frames.captions) == 2 and frames.file == "clip 0"
    assert unreadable.text is None and unreadable.error and unreadable.file == str(broken)


def test_wrong_options_are_refused_by_name(model: str, dataset: Path) -> None:
    with pytest.raises(ValueError, match="captions 3"):
        vidcap.caption("clip.mp4", model=model, captions=3, num_beams=2)
    with pytest.raises(ValueError, match="nonsense"):
        vidcap.caption("clip.mp4", model=model, nonsense=1)
    with pytest.raises(ValueError, match="report.txt"):
        vidcap.evaluate(model, dataset, output="report.txt")
    with pytest.raises(ValueError, match="nonsense"):
        vidcap.train(dataset, "never-written", nonsense=1)


def test_a_model_is_trained_evaluated_and_pushed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"image_size": 32, "num_frames": 4, "hidden_size": 32, "num_attention_heads": 2, "encoder_layers": 1}
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "multimodal_layers": 1, "decoding_workers": 1}
    cache = tmp_path / "cache"
    folder = vidcap.train(dataset, tmp_path / "model", backbone="cnn", feature_cache=cache, **sizes, **steps)
    assert (folder / "model.safetensors").is_file()
    options = {"controls": "none", "feature_cache": cache}
    report = vidcap.evaluate(folder, dataset, output=tmp_path / "report.json", **options)
    written = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == written["clips"] == 2 and report["scores"] == written["scores"]
    assert (tmp_path / "report.html").is_file()
    calls = []
    monkeypatch.setattr(hub_card, "push_to_hub", lambda *args, **kwargs: calls.append((args, kwargs)) or "address")
    assert vidcap.push(folder, "me/captioner", token="t") == "address"
    assert calls == [((folder, "me/captioner"), {"private": None, "force": False, "token": "t"})]
