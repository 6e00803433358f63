"""Messages of the library name parameters, those of a command name its options."""

import pytest

from vidcap.messages import as_options


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("or pass skip_broken_clips=True:\n  a.mp4", "or pass --skip_broken_clips:\n  a.mp4"),
        ("choose another folder by feature_cache=FOLDER;", "choose another folder by --feature_cache FOLDER;"),
        ("video_column=film is not a column", "--video_column film is not a column"),
        ("near_misses=words,order: name", "--near_misses words,order: name"),
        ("/data/streaming=True/a.mp4: no such file", "/data/streaming=True/a.mp4: no such file"),
        ("num_frames=0: pass at least 1", "num_frames=0: pass at least 1"),
    ],
)
def test_parameters_become_options(message: str, printed: str) -> None:
    assert as_options(message) == printed
