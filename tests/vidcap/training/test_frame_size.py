"""The size of frames that a new model sees."""

import datasets
import pytest

from tests.media import texture, write_video
from vidcap.training.frame_size import SQUARE, fitting_frame_size


def rows(folder, sizes):
    """A clip of each (width, height)."""
    videos = []
    for number, (width, height) in enumerate(sizes):
        path = folder / f"{number}.mp4"
        write_video(path, texture(3, height=height, width=width))
        videos.append({"video": {"path": str(path), "bytes": None}})
    return datasets.Dataset.from_list(videos)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(160, 160)], (160, 160)),
        ([(320, 180)], (192, 320)),
        ([(1280, 720)], (192, 320)),
        ([(180, 320)], (320, 192)),
        ([(64, 64)], (64, 64)),
        ([(320, 180), (180, 320)], (256, 256)),
        ([(840, 120)], (160, 384)),
    ],
    ids=str,
)
def test_frames_have_the_shape_of_the_clips(tmp_path, sizes, expected):
    assert fitting_frame_size(rows(tmp_path, sizes)) == expected


def test_unreadable_clips_determine_nothing(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = {"video": {"path": str(tmp_path / "broken.mp4"), "bytes": None}}
    assert fitting_frame_size(datasets.Dataset.from_list([broken])) == SQUARE
