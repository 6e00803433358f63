"""Clips that are folders of images, and paths that are neither files nor folders."""

import json
import os
import shutil
from pathlib import Path

import pytest

import train_hf
from processing import VideoDecodeError, decode_video
from processing.cache.feature_cache import ClipCache, content_hash
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from tests.media import shades, write_folder
from tests.processing.clips.test_sources import SMALL
from tests.tiny import tiny_processor
from vidcap.cli import main


def of_folders(root: Path, counts: dict[str, int]) -> Path:
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        rows = []
        for number in range(count):
            write_folder(root / split / f"clip{number}", shades(4 + number, 32, 32))
            rows.append(json.dumps({"file_name": f"clip{number}", "caption": f"{number} shades"}))
        (root / split / "metadata.jsonl").write_text("\n".join(rows))
    return root


def clip(path: Path) -> dict:
    return {"path": str(path), "bytes": None}


def test_they_are_trained_on_tested_and_inspected(tmp_path):
    data = of_folders(tmp_path / "data", {"train": 4, "validation": 2, "test": 2})
    command = ["--dataset", str(data), "--output_dir", str(tmp_path / "m"), "--feature_cache", str(tmp_path / "c")]
    assert train_hf.main([*command, *SMALL, "--test_split", "test", "--skip_broken_clips", "True"]) == 0
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert report["clips"] == 2 and report["skipped_clips"] == []
    assert main(["data", "inspect", str(data), "--splits", "train"]) == 0  # 1, if one could not be read


def test_their_content_is_the_names_and_bytes_of_the_frames(tmp_path):
    frames = shades(12, 32, 32)
    one, other = write_folder(tmp_path / "one", frames), write_folder(tmp_path / "other", frames)
    (other / "notes.txt").write_text("what is no frame does not count")
    assert content_hash(clip(one)) == content_hash(clip(other))
    (other / "frame11.png").rename(other / "frame99.png")
    renamed = content_hash(clip(other))
    shutil.copy(other / "frame0.png", other / "frame3.png")
    assert len({content_hash(clip(one)), renamed, content_hash(clip(other))}) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoDecodeError, match="empty: the folder holds no images"):
        content_hash(clip(tmp_path / "empty"))


def test_devices_and_pipes_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    frames = write_folder(tmp_path / "frames", shades(2, 32, 32))
    (frames / "frame2.png").symlink_to("/dev/zero")
    for path in ("/dev/zero", tmp_path / "pipe.mp4", frames):
        for read in (content_hash, decode_video):
            with pytest.raises(VideoDecodeError, match="neither a regular file nor a folder of images"):
                read(clip(path))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "/dev/zero", "caption": "nothing"}')
    cache = ClipCache(tmp_path / "cache", tiny_processor().video_processor)
    with pytest.raises(DatasetError, match="/dev/zero: neither a regular file"):
        ClipDataset(load_clips(tmp_path, "train"), cache).prepare("clips")
