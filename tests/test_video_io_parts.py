"""A video decoded in several threads, each from one key frame to the next: the same frames from every source."""

import io
import time
from pathlib import Path

import pytest
import torch

from processing import VideoDecodeError, decode_video
from processing import video_files_vidcap as video_files
from tests.media import texture, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten key frames, and frames in between that refer to later ones."""
    return write_video(tmp_path_factory.mktemp("parts") / "clip.mp4", texture(60), gop=6, b_frames=2)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("num_frames", [1, 7, 16, None])
def test_the_frames_are_those_of_one_thread(tmp_path: Path, ending: str, num_frames: int | None) -> None:
    options = {"codec": "mpeg4"} if ending == "avi" else {}
    path = write_video(
        tmp_path / f"clip.{ending}", texture(60), gop=6, b_frames=0 if ending == "avi" else 2, **options
    )
    one = decode_video(path, num_frames=num_frames, threads=1)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        several = decode_video(source, num_frames=num_frames, threads=4)
        assert torch.equal(several.frames, one.frames) and torch.equal(several.times, one.times)


def test_each_part_begins_at_its_key_frame(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[list[int]] = []
    read_fast = video_files._read_fast

    def record(file, source, index, wanted, options, lock=None):
        parts.append(wanted)
        return read_fast(file, source, index, wanted, options, lock)

    monkeypatch.setattr(video_files, "_read_fast", record)
    monkeypatch.setattr(video_files, "_read_plainly", None)  # nothing needs it
    decode_video(clip, num_frames=16, threads=3)
    assert len(parts) == 10 and sum(map(len, parts)) == 16
    parts.clear()
    decode_video(clip, num_frames=16, threads=1)
    assert len(parts) == 1


def test_threads_do_not_move_the_file_under_one_another(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.BytesIO):
        def seek(self, *where: int) -> int:
            position = super().seek(*where)
            time.sleep(0.001)  # time enough for others to seek before this one reads
            return position

    one = decode_video(clip, num_frames=16, threads=1)
    monkeypatch.setattr(video_files, "_read_plainly", None)  # which would mend it
    several = decode_video(Slow(clip.read_bytes()), num_frames=16, threads=4)
    assert torch.equal(several.frames, one.frames)


def test_a_damaged_part_is_an_error_as_ever(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    errors = []
    for threads in (1, 4):
        with pytest.raises(VideoDecodeError) as error:
            decode_video(bytes(data), num_frames=None, threads=threads)
        errors.append(error.value.reason)
    assert "damaged" in errors[0] and errors[0] == errors[1]
