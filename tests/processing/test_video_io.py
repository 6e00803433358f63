"""Any input -> the right frames, at the right times, in the right colours."""

import io
import random
import tempfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from processing import (
    VideoDecodeError,
    VideoFrames,
    decode_video,
    split_batch,
    uniform_indices,
)
from processing.video_frames_vidcap import segment_indices, snap_to_keys, uniform_time_indices
from tests import media

COUNT, RATE = 40, 20  # frames, and frames per second, of most clips here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return media.write_video(folder / "clip.mp4", media.shades(COUNT), rate=RATE)


@pytest.mark.parametrize(
    "keys, snapped",
    [
        ([], [0, 10, 20, 29]),
        ([0, 14, 26], [0, 14, 20, 26]),  # 26 is as near to 29 as may be
        ([0, 15, 25], [0, 10, 20, 25]),  # half of the way and no nearer
        ([1, 6, 9, 12], [1, 9, 20, 29]),
        ([13, 17], [0, 13, 17, 29]),
    ],
)
def test_frames_move_to_key_frames_and_never_meet(keys, snapped):
    assert snap_to_keys([0, 10, 20, 29], range(30), keys) == snapped
    assert snap_to_keys([0, 10, 20, 29], range(30), range(30)) == [0, 10, 20, 29]  # each is a key frame itself
    # Frame 13 is cut away by an edit list.
    assert snap_to_keys([0, 10], [each for each in range(30) if each != 13], [13]) == [0, 10]


def assert_uniform(decoded: VideoFrames, rate: float = RATE, count: int = COUNT) -> None:
    """The decoded frames are the 16 evenly spread ones of `count`, at their times."""
    expected = uniform_indices(count, 16)
    assert media.numbers(decoded.frames) == expected
    torch.testing.assert_close(decoded.times, torch.tensor(expected) / rate, atol=2e-3, rtol=0)
    assert decoded.mask.all() and decoded.mask.dtype == torch.bool
    assert decoded.duration == pytest.approx(count / rate, abs=2e-3)


# Sampling


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 15, 16])
def test_uniform_indices_are_spread_and_symmetric(num_frames):
    for total in range(1, 200):
        picks = uniform_indices(total, num_frames)
        assert picks == sorted(picks) and len(picks) == min(total, num_frames)
        if total <= num_frames:
            assert picks == list(range(total))
        elif num_frames > 1:
            assert picks[0] == 0 and picks[-1] == total - 1
            assert all(abs(pick - step * (total - 1) / (num_frames - 1)) <= 0.5 for step, pick in enumerate(picks))
        mirrored = [total - 1 - pick for pick in reversed(picks)]
        if num_frames % 2 and total % 2 == 0 and total > num_frames:  # there is no frame in the exact middle
            del picks[num_frames // 2], mirrored[num_frames // 2]
        assert picks == mirrored


def test_sampling_follows_time():
    stays = [1, 1, 50, 1, 1, 1, 1, 4]
    starts = [sum(stays[:index]) for index in range(len(stays))]
    picks = uniform_time_indices(starts, sum(stays), 7)
    assert picks == [0, 2, 2, 2, 2, 2, 7]  # what is on screen at 0.5, 10.1, 19.7, 29.3, 38.8, 48.4 and 58
    backwards = [sum(stays[::-1][:index]) for index in range(len(stays))]
    assert [7 - pick for pick in reversed(uniform_time_indices(backwards, sum(stays), 7))] == picks
    assert uniform_indices(9, 1) == [4] and uniform_time_indices(starts, sum(stays), 1) == [2]
    with pytest.raises(ValueError, match="num_frames=0"):
        uniform_indices(9, 0)


@pytest.mark.parametrize("num_frames", [1, 3, 16])
def test_segments_give_a_frame_each_and_every_frame_at_times(num_frames):
    generator = random.Random(0)
    for total in (1, 3, 15, 16, 17, 24, 31, 32, 200):
        seen = set()
        for _ in range(2000 if total <= 32 else 100):
            picks = segment_indices(total, num_frames, [generator.random() for _ in range(num_frames + 1)])
            assert picks == sorted(set(picks)) and len(picks) == min(total, num_frames)
            stretch = total / num_frames  # no frame is farther from its place than a stretch is long
            assert total <= num_frames or all(
                step * stretch - 1 < pick < (step + 1) * stretch + 1 for step, pick in enumerate(picks)
            )
            seen.update(picks)
        assert total > 32 or seen == set(range(total))
    # Of seventeen frames sixteen are taken, and each may be the one that is not: cuts are not always rounded alike.
    draws = ([generator.random() for _ in range(17)] for _ in range(2000))
    assert {(set(range(17)) - set(segment_indices(17, 16, each))).pop() for each in draws} == set(range(17))
    assert segment_indices(17, 16, [0.999] * 17)[-1] == 16 and segment_indices(17, 16, [0.0] * 17)[0] == 0


# Containers


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.mp4", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("b.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.ts", "libx264"),
    ],
)
def test_containers(tmp_path, name, codec):
    path = media.write_video(tmp_path / name, media.shades(COUNT), codec=codec, rate=RATE)
    disguised = path.rename(tmp_path / "clip.txt")  # the bytes decide, not the name
    assert_uniform(decode_video(disguised))


def test_times_that_follow_the_order_of_decoding(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", media.shades(COUNT), rate=RATE, decoding_order_times=True)
    with av.open(str(path)) as container:
        decoded = [frame.pts for frame in container.decode(video=0)]
    assert decoded != sorted(decoded), "the file is meant to be broken"
    assert_uniform(decode_video(path))


def test_variable_frame_rate(tmp_path):
    times = [0, 40, 80, 900, 1060, 1080, 1500, 3000, 3040, 3080]
    path = media.write_video(tmp_path / "a.mp4", media.shades(len(times)), times_ms=times)
    decoded = decode_video(path, num_frames=4)
    expected = [0, 3, 6, 9]  # on screen at about 20, 1040, 2060 and 3080 ms
    assert media.numbers(decoded.frames) == expected
    assert decoded.times.tolist() == pytest.approx([times[index] / 1000 for index in expected], abs=1e-3)


@pytest.mark.parametrize("name, gop", [("a.mkv", 10), ("a.mp4", 1), ("a.mp4", 50), ("a.ts", 10)])
def test_jumps_and_left_out_frames_change_nothing(tmp_path, name, gop):
    path = media.write_video(tmp_path / name, media.texture(180), gop=gop)
    everything = decode_video(path, num_frames=None)
    assert len(everything.frames) == 180
    for num_frames in (2, 5, 16, 60):
        decoded = decode_video(path, num_frames=num_frames)
        picks = uniform_indices(180, num_frames)
        assert torch.equal(decoded.frames, everything.frames[picks])
        assert torch.equal(decoded.times, everything.times[picks])


class CountingFile(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size=-1, /):
        data = super().read(size)
        self.count += len(data)
        return data


def test_what_lies_between_is_jumped_over(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", media.texture(180), gop=10)
    file = CountingFile(path.read_bytes())
    decode_video(file, num_frames=2)
    assert file.count < 1.8 * path.stat().st_size  # once through for the times, then the beginning and the end
    file.count = 0
    decode_video(file, num_frames=60)
    assert file.count < 2.5 * path.stat().st_size  # no way back


@pytest.mark.parametrize("start", [0.0, 0.8])  # the decoder gives no frame, or one with a hole that it marks
def test_only_wanted_frames_must_be_sound(tmp_path, start):
    frames = [
        np.where(noise > 128, grey, grey - 2)
        for noise, grey in zip(media.texture(COUNT), media.shades(COUNT, 120, 160), strict=True)
    ]
    path = media.write_video(tmp_path / "a.mkv", frames, gop=1, b_frames=0)
    media.spoil_packet(path, 20, start)
    for num_frames in (3, None):
        with pytest.raises(
            VideoDecodeError, match=r"damaged: frame 21 of 40, at 1\.00 s, cannot be decoded; 20 frames"
        ):
            decode_video(path, num_frames=num_frames)
    assert 20 in uniform_indices(COUNT, 3) and 20 not in uniform_indices(COUNT, 16)
    assert_uniform(decode_video(path))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations(tmp_path, name):
    delays = [50, 100, 300, 20, 70] * 4
    path = media.write_animation(tmp_path / name, media.shades(20), delays)
    starts = [sum(delays[:index]) for index in range(20)]
    expected = uniform_time_indices(starts, sum(delays), 16)
    for source in (path, Image.open(path)):
        decoded = decode_video(source)
        assert media.numbers(decoded.frames) == expected
        assert decoded.times.tolist() == pytest.approx([starts[index] / 1000 for index in expected])
        assert decoded.duration == pytest.approx(sum(delays) / 1000)


def test_an_unset_delay_counts_as_a_tenth_of_a_second(tmp_path):
    path = media.write_animation(tmp_path / "a.gif", media.shades(5), 0)
    for source in (path, Image.open(path)):
        assert decode_video(source).times.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4] + [0.4] * 11)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_transparency_is_white(tmp_path, name):
    frames = [np.zeros((20, 30, 4), np.uint8) for _ in range(4)]
    for index, frame in enumerate(frames):
        frame[5 * index : 5 * index + 5, :15] = (255, 0, 0, 255)  # a red bar moves down, all else is clear
    path = media.write_animation(tmp_path / name, frames, 100)
    for source in (path, Image.open(path), np.stack(frames)):
        decoded = decode_video(source, num_frames=4).frames
        for index, frame in enumerate(decoded):
            red = (frame == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).all(dim=0)
            assert red[5 * index : 5 * index + 5, :15].all() and red.sum() == 75
            assert (frame[:, ~red] == 255).all()


def test_video_with_transparency(tmp_path):
    frame = np.zeros((32, 32, 4), np.uint8)
    frame[:16] = (0, 0, 255, 255)
    path = media.write_video(tmp_path / "a.mov", [frame] * 3, codec="qtrle", alpha=True)
    decoded = decode_video(path, num_frames=1).frames[0]
    assert decoded[:, 4, 4].tolist() == [0, 0, 255] and decoded[:, 28, 28].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.gif"])
def test_a_still_image_is_a_clip_of_one_frame(tmp_path, name):
    Image.fromarray(media.corners()).save(tmp_path / name)
    decoded = decode_video(tmp_path / name)
    assert decoded.frames.shape == (16, 3, media.HEIGHT, media.WIDTH)
    assert decoded.mask.tolist() == [True] + [False] * 15 and not decoded.times.any()
    assert media.corner_names(decoded.frames[15]) == "RGBW"


def test_short_clips_repeat_the_last_frame(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", media.shades(5), rate=10)
    decoded = decode_video(path)
    assert media.numbers(decoded.frames) == [0, 1, 2, 3] + [4] * 12
    assert decoded.mask.tolist() == [True] * 5 + [False] * 11
    assert decoded.times.tolist() == pytest.approx([0, 0.1, 0.2, 0.3] + [0.4] * 12)
    assert len(decode_video(path, num_frames=None).frames) == 5


# Geometry and colour


@pytest.mark.parametrize("rotation, names", [(0, "RGBW"), (90, "GWRB"), (-90, "BRWG"), (180, "WBGR")])
def test_rotation(tmp_path, rotation, names):
    path = media.write_video(tmp_path / "a.mp4", [media.corners()] * 3, rotation=rotation)
    turned = rotation in (90, -90)
    assert decode_video(path).frames.shape[-2:] == ((64, 48) if turned else (48, 64))
    fitted = decode_video(path, fit=(32, 32)).frames
    assert fitted.shape[-2:] == ((32, 24) if turned else (24, 32))
    assert media.corner_names(fitted[0]) == names


def test_non_square_pixels(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", [media.corners()] * 3, aspect=Fraction(3, 2))
    assert decode_video(path).frames.shape[-2:] == (48, 96)
    assert decode_video(path, fit=(64, 64)).frames.shape[-2:] == (32, 64)


def test_colours(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", [media.corners()] * 3)
    frame = decode_video(path, num_frames=1).frames[0].float()
    original = torch.from_numpy(media.corners()).permute(2, 0, 1).float()
    inner = torch.zeros(48, 64, dtype=torch.bool)
    inner[4:20, 4:28] = inner[28:44, 36:60] = True
    assert (frame - original).abs()[:, inner].max() <= 6


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_file_and_its_frames_give_the_same_pixels(tmp_path, interpolation):
    path = media.write_video(tmp_path / "a.mp4", media.texture(20))
    frames = decode_video(path, num_frames=20).frames
    for fit in ((60, 60), (200, 200)):
        by_file = decode_video(path, num_frames=20, fit=fit, interpolation=interpolation).frames
        by_array = decode_video(frames, num_frames=20, fit=fit, interpolation=interpolation).frames
        difference = (by_file.float() - by_array.float()).abs()
        assert difference.mean() < 1.5 and difference.max() < 16


# Inputs


class VideoDecoder:
    """The part of torchcodec's decoder that is used, on frames in memory."""

    __module__ = "torchcodec.decoders._video_decoder"

    def __init__(self, frames: torch.Tensor, rate: float):
        self.frames, self.rate = frames, rate

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        indices = torch.tensor(indices)
        stays = torch.full((len(indices),), 1 / self.rate)
        return SimpleNamespace(data=self.frames[indices], pts_seconds=5 + indices / self.rate, duration_seconds=stays)

    def get_frames_played_at(self, seconds):
        return self.get_frames_at([int((second - 5) * self.rate) for second in seconds])


class Stream(io.RawIOBase):
    """A file that can be read once, like a socket."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.data.readinto(buffer)


def named_temporary_file(path: Path):
    file = tempfile.NamedTemporaryFile()
    file.write(path.read_bytes())  # and left standing at its end
    return file


FILES = {
    "str": str,
    "path": Path,
    "file url": lambda path: path.as_uri(),
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "bytes in memory": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "temporary file": named_temporary_file,
    "stream": lambda path: Stream(path.read_bytes()),
    "dict of path": lambda path: {"path": str(path), "bytes": None},
    "dict of bytes": lambda path: {"path": "elsewhere.mp4", "bytes": path.read_bytes()},
}


@pytest.mark.parametrize("kind", FILES)
def test_kinds_of_files(folder, clip, kind):
    odd = folder / "50% of a clip: #1 & more.mp4"
    odd.write_bytes(clip.read_bytes())
    source = FILES[kind](odd)
    assert_uniform(decode_video(source))
    if kind in ("open file", "bytes in memory", "temporary file"):
        assert_uniform(decode_video(source))  # left open, and read from its beginning again
        source.close()


def frames_of(kind: str):
    grey = np.stack(media.shades(COUNT))
    alpha = np.concatenate([grey, np.full_like(grey[..., :1], 255)], axis=-1)
    return {
        "array": grey,
        "array, channels first": grey.transpose(0, 3, 1, 2),
        "array, one channel": grey[..., :1],
        "array, four channels": alpha,
        "array of floats": grey.astype(np.float64) / 255,
        "array of integers": grey.astype(np.int64),
        "tensor": torch.from_numpy(grey),
        "tensor, channels first": torch.from_numpy(grey).permute(0, 3, 1, 2),
        "tensor of halves": torch.from_numpy(grey).half() / 255,
        "list of arrays": list(grey),
        "list of tensors": [torch.from_numpy(frame).permute(2, 0, 1) for frame in grey],
        "list of images": [Image.fromarray(frame) for frame in grey],
        "tuple of grey images": tuple(Image.fromarray(frame[..., 0]) for frame in grey),
        "torchcodec": VideoDecoder(torch.from_numpy(grey).permute(0, 3, 1, 2), RATE),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "array",
        "array, channels first",
        "array, one channel",
        "array, four channels",
        "array of floats",
        "array of integers",
        "tensor",
        "tensor, channels first",
        "tensor of halves",
        "list of arrays",
        "list of tensors",
        "list of images",
        "tuple of grey images",
        "torchcodec",
    ],
)
def test_kinds_of_frames_in_memory(kind):
    decoded = decode_video(frames_of(kind), frame_rate=RATE)
    assert_uniform(decoded)
    assert decoded.frames.dtype == torch.uint8 and decoded.frames.shape == (16, 3, media.HEIGHT, media.WIDTH)
    assert decode_video(frames_of(kind), fit=(24, 24)).frames.shape == (16, 3, 18, 24)


def test_folder_of_frames(tmp_path):
    assert_uniform(decode_video(media.write_folder(tmp_path / "frames", media.shades(COUNT)), frame_rate=RATE))


def test_an_animated_image_is_left_where_it_stands(tmp_path):
    image = Image.open(media.write_animation(tmp_path / "a.gif", media.shades(5), 100))
    image.seek(3)
    decode_video(image)
    assert image.tell() == 3


def test_split_batch(tmp_path, clip):
    still = Image.fromarray(media.corners())
    animated = Image.open(media.write_animation(tmp_path / "a.gif", media.shades(3), 100))
    array = np.zeros((2, 8, 8, 3), np.uint8)
    assert len(split_batch(str(clip))) == len(split_batch(array)) == len(split_batch(animated)) == 1
    assert len(split_batch([still, still])) == len(split_batch(list(array))) == 1
    assert len(split_batch([animated, still])) == 2
    assert len(split_batch([clip, array, [still, still], clip.read_bytes()])) == 4
    assert len(split_batch(np.zeros((3, 2, 8, 8, 3), np.uint8))) == 3
    with pytest.raises(ValueError, match="empty list"):
        split_batch([])
