"""Files that a command writes: what they may replace, and what is left alone."""

import os
import stat
import threading
from pathlib import Path

import pytest

from vidcap.files import output_mistake, write_atomically, write_bytes_atomically


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.txt", tmp_path / "a.txt"
    link.symlink_to(target)
    write_atomically(link, "new")  # also where the file is not there yet
    assert link.is_symlink() and target.read_text() == "new"
    write_atomically(link, "newer")
    assert link.is_symlink() and target.read_text() == "newer"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "there"] and os.listdir(target.parent) == ["a.txt"]


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes_atomically(pipe, b"to a pipe")
    reader.join(timeout=20)
    assert got == [b"to a pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_earlier_file_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_no_file_is_written_over_one_that_is_read(tmp_path):
    clip, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    clip.touch()
    os.link(clip, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(clip)
    for name in ("clip.mp4", "hard.mp4", "soft.mp4", "../" + tmp_path.name + "/clip.mp4"):
        mistake = output_mistake({"--output": tmp_path / name}, {"a clip": ["http://127.0.0.1/x.mp4", str(clip)]})
        assert mistake == f"--output {tmp_path / name} would replace the file of a clip; give another name"
    assert output_mistake({"--output": other, "--predictions": None}, {"a clip": [clip]}) is None
    twice = output_mistake({"--output": other, "--predictions": other}, {})
    assert twice == f"--predictions {other} would replace the file of --output; give another name"
    assert "no such folder" in str(output_mistake({"--output": tmp_path / "no" / "x"}, {}))
    assert "is a folder; give the name of a file" in str(output_mistake({"--output": tmp_path}, {}))
