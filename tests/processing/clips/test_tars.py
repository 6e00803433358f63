"""WebDataset tars as others write them, and what is said of broken ones."""

import io
import tarfile
from pathlib import Path

import pytest

from processing.clips.rows import load_clips
from processing.clips.sources import Columns, DatasetError


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    """Clips of three types, one after a file that is not read, with captions in .txt and .json."""
    write_tar(
        tmp_path / "train-000.tar",
        [
            ("./in/0.mp4", b"first"),
            ("./in/0.txt", "\ufeffa café\r\n".encode()),
            ("./in/1.wav", b"RIFF and nothing else"),
            ("./in/1.jpg", b"no picture"),
            ("./in/1.GIF", b"second"),
            ("./in/1.json", b'\xef\xbb\xbf{"captions": ["a dog", "dogs"], "kind": "animals"}'),
        ],
    )
    write_tar(
        tmp_path / "train-001.tar",
        [("2.pose.mp4", b"pose"), ("2.base.mp4", b"third"), ("2.json", b'{"kind": "x"}'), ("2.txt", b"a cow")],
    )
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
def test_clips_of_any_type_beside_anything(folder, streaming):
    rows = load_clips(folder, "train", streaming=streaming, columns=Columns(others=("kind",)))
    found = [(row["video"]["bytes"], row["captions"], row["file_name"], row["kind"]) for row in rows]
    assert found == [
        (b"first", ["a café"], "./in/0", None),
        (b"second", ["a dog", "dogs"], "./in/1", "animals"),
        (b"pose", ["a cow"], "2", "x"),
    ]
    if streaming:
        assert rows.num_shards == 2


def test_the_clip_and_the_captions_can_be_chosen(tmp_path):
    write_tar(
        tmp_path / "train.tar",
        [("2.pose.mp4", b"a"), ("2.base.mp4", b"b"), ("2.txt", b"x"), ("2.json", b'{"says": "a cow"}')],
    )
    (row,) = load_clips(tmp_path, "train", columns=Columns("base.mp4", "says"))
    assert (row["video"]["bytes"], row["captions"]) == (b"b", ["a cow"])
    for columns, message in (
        (
            Columns("x.mp4"),
            r"train\.tar, 2: video_column=x\.mp4 is not a column; the columns are pose\.mp4, base\.mp4",
        ),
        (Columns(None, "x"), "caption_column=x is not a column"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_clips(tmp_path, "train", columns=columns)
    assert list(load_clips(tmp_path, "train", captions_only=True, columns=Columns("x.mp4"))) == [{"captions": ["x"]}]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1.mp4", b"")], "train.tar, 1: no column of captions"),
        ([("1.txt", b"a cat")], "train.tar, 1: no column of clips recognised; pass video_column=NAME, one of txt"),
        ([("1.mp4", b""), ("1.txt", b" \n")], "train.tar, 1: caption '' is empty"),
        ([("1.mp4", b""), ("1.txt", b"caf\xe9")], "train.tar, 1.txt, line 1: not UTF-8"),
        ([("1.mp4", b""), ("1.json", b"{")], "train.tar, 1.json: not JSON"),
        ([("1.mp4", b""), ("1.json", b"[1]")], "train.tar, 1.json: not an object"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_mistakes_name_the_tar_and_the_key(tmp_path, files, message, streaming):
    write_tar(tmp_path / "train.tar", files)
    with pytest.raises(DatasetError, match=message.replace(".", r"\.")):
        list(load_clips(tmp_path, "train", streaming=streaming))


def test_a_tar_without_clips_is_refused(tmp_path):
    write_tar(tmp_path / "train.tar", [("README", b"")])
    with pytest.raises(DatasetError, match=r"train\.tar: holds no clips"):
        load_clips(tmp_path, "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_damaged_tar_is_named_and_a_changed_one_read_again(folder, streaming):
    tar = folder / "train-001.tar"
    load_clips(folder, "train")
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(DatasetError, match=r"train-001\.tar: .*damaged"):
        list(load_clips(folder, "train", streaming=streaming))
