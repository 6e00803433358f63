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


def test_each_thread_decodes_whole_parts_one_behind_the_other(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[list[int]] = []
    decode_fast = video_files._decode_fast

    def record(file, source, index, stamps, options, lock=None):
        parts.append(stamps)
        return decode_fast(file, source, index, stamps, options, lock)

    monkeypatch.setattr(video_files, "_decode_fast", record)
    monkeypatch.setattr(video_files, "_decode_plainly", None)  # nothing needs it
    decode_video(clip, num_frames=16, threads=3)
    assert len(parts) == 3 and sum(map(len, parts)) == 16
    keys = [{time // (6 * 512) for time in part} for part in sorted(parts)]  # 512 ticks a frame, 6 frames a key frame
    assert keys == [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
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
    monkeypatch.setattr(video_files, "_decode_plainly", None)  # which would mend it
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


@pytest.mark.parametrize(
    "wanted, keys, count, shares",
    [
        ([79, 158, 238, 317, 475, 1188], [0, 250, 500, 750, 1000], 2, [[79, 158, 238], [317, 475, 1188]]),
        ([5, 90], [0, 10], 4, [[5], [90]]),  # 6 and 81 frames to decode: two shares stay empty
        ([5, 6, 7], [0], 3, [[5, 6, 7]]),  # nowhere to begin but at the first
    ],
)
def test_threads_share_the_way_from_key_frame_to_wanted_frame(wanted, keys, count, shares) -> None:
    assert video_files._shares(wanted, keys, count) == shares


def test_key_frames_are_taken_where_they_are_near(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_files, "_decode_plainly", None)
    every = decode_video(clip, num_frames=None)
    for threads in (1, 3):
        few = decode_video(clip, num_frames=4, snap_to_keyframes=True, threads=threads)
        # In the place of 0, 20, 39 and 59.
        assert [round(time * 20) for time in few.times.tolist()] == [0, 18, 36, 54]
        assert torch.equal(few.frames, every.frames[[0, 18, 36, 54]])
    assert torch.equal(decode_video(clip, num_frames=None, snap_to_keyframes=True).frames, every.frames)


def test_without_the_loop_filter_frames_are_a_little_off(tmp_path: Path) -> None:
    coarse = write_video(tmp_path / "clip.mp4", texture(30), crf=40)
    exact, fast = (decode_video(coarse, num_frames=8, skip_loop_filter=skip) for skip in (False, True))
    difference = (exact.frames.float() - fast.frames.float()).abs().mean()
    assert 0.1 < difference < 10 and torch.equal(exact.times, fast.times)
    other = write_video(tmp_path / "clip.avi", texture(8), codec="mpeg4", b_frames=0)  # knows of no such filter
    assert torch.equal(decode_video(other).frames, decode_video(other, skip_loop_filter=True).frames)
