"""Inference as people do it: padding on either side, half precision, encoded clips used twice, pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hub_card.cache_sharing import pull_cache
from processing import VideoDecodeError, decode_video
from processing.clips.rows import has_split, load_clips
from processing.clips.sources import DatasetError
from tests import media
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.files import write_atomically

TEXTS = ["a red circle", "a red circle spins and then jumps"]


@torch.no_grad()
def test_text_embeddings_do_not_care_on_which_side_texts_are_padded() -> None:
    model, processor = tiny_model(), tiny_processor()
    right, left = (
        model.get_text_features(**processor(text=TEXTS, padding=True, padding_side=side, return_tensors="pt"))
        for side in ("right", "left")
    )
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_model_in_half_precision_takes_what_the_processor_gives(dtype, tmp_path: Path, capsys) -> None:
    tiny_model().to(dtype).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    model = type(tiny_model()).from_pretrained(tmp_path)
    assert model.dtype == dtype
    inputs = dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)]))
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 2
    assert model.get_video_features(**inputs).dtype == dtype and model.get_novelty(**inputs) is None
    clip = str(media.write_video(tmp_path / "clip.mp4", media.texture(6)))
    assert main(["classify", clip, "--model", str(tmp_path), "--labels", "a", "b"]) == 0


def test_animations_in_a_folder_are_no_frames(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.gif", "b.gif"):
        media.write_animation(tmp_path / "clips" / name, media.shades(3), 100)
    with pytest.raises(VideoDecodeError, match=r"a\.gif.*an animation among single frames"):
        decode_video(tmp_path / "clips")


@torch.no_grad()
def test_encoded_clips_can_be_searched_several_times() -> None:
    model = tiny_model()
    encoded = model.get_encoder()(**dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)])))
    for beams in (3, 2, 1):
        assert len(model.generate(encoder_outputs=encoded, num_beams=beams, max_new_tokens=4)) == 2
    assert len(encoded.last_hidden_state) == 2


def test_options_that_would_do_nothing_or_fail_inside_are_refused() -> None:
    inputs = dict(tiny_processor()(videos=[tiny_clip(0)]))
    with pytest.raises(ValueError, match="`similarity_weight` 50.0 ranks beams: set `num_beams` above 1"):
        tiny_model().generate(**inputs, num_beams=1, similarity_weight=50.0)
    with pytest.raises(ValueError, match="`cache_implementation` 'static': with `fusion` 'joint'"):
        tiny_model(fusion="joint").generate(**inputs, cache_implementation="static")


def vidcap(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-m", "vidcap", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, timeout=200, **options)


def test_json_stays_json_where_the_terminal_knows_few_letters(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_processor().save_pretrained(tmp_path / "m")
    clip = media.write_animation(tmp_path / "ünï ★ 🙂.gif", media.shades(3), 100)
    options = ["--model", str(tmp_path / "m"), "--max_new_tokens", "3", "--format", "json"]
    done = vidcap("caption", str(clip), *options, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["file"] == str(clip)


def test_nobody_reading_on_is_no_error() -> None:
    command = [sys.executable, "-m", "vidcap", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `| true` does
        assert process.stderr.read() == b""
        assert process.wait(200) == 141


def test_a_pipe_by_its_name_is_written_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_atomically(f"/proc/self/fd/{writing}", "through a pipe")
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "through a pipe"


def test_a_hub_out_of_reach_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Exception):
        """As the Hub's client raises, of no class that is known elsewhere."""

    def fail(*_, **__):
        raise Unreachable("name or service not known")

    monkeypatch.setattr("processing.clips.rows.HfApi.file_exists", fail)
    for call in (lambda: has_split("nope", "train"), lambda: load_clips("nope", "train")):
        with pytest.raises(DatasetError, match=r"nope: neither a local folder nor a Hub data set in reach \(name or"):
            call()
    with pytest.raises(ValueError, match="nope/nope: the Hub cannot be reached"):
        pull_cache(tmp_path, "nope/nope")  # offline, as all tests are
