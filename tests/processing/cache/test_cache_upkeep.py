"""The cache under several writers, killed writers and a limit, and clips whose files are gone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from processing.cache import feature_cache
from processing.cache.feature_cache import ClipCache, write_clip
from processing.cache.names import CacheRecord, captions_hash, name_of, read_names, tidy_names, write_names
from processing.cache.upkeep import CacheFullError, Claim, SizeLimit, entries, folders, in_use_since, prune
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from tests.tiny import tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data
from vidcap.inference.clip_cache import cache_limit

ROOT = Path(__file__).resolve().parents[3]
CLIPS = 12
WRITER = """
import os, sys, time
import processing.cache.feature_cache as feature_cache
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from tests.tiny import tiny_processor

if sys.argv[3] == "dies":  # in the middle of writing its fifth clip
    def half(tensors, name, written=[]):
        written.append(save_file(tensors, name))
        if len(written) == 5:
            os.truncate(name, os.path.getsize(name) // 2)
            print("half", flush=True)
            time.sleep(600)
    save_file, feature_cache.save_file = feature_cache.save_file, half
workers = 1 if sys.argv[3] == "dies" else 2  # one, so that no other clip is half written when it is killed
cache = feature_cache.ClipCache(sys.argv[2], tiny_processor().video_processor, workers=workers)
print("ready", flush=True)
sys.stdin.readline()
ClipDataset(load_clips(sys.argv[1], "train"), cache).prepare("clips")
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=CLIPS, validation=1, test=3, size=32)
    return path


def opened(root: Path, **options) -> ClipCache:
    return ClipCache(root, tiny_processor().video_processor, workers=2, **options)


def filled(data: Path, root: Path, split: str = "train", **options) -> ClipDataset:
    return ClipDataset(load_clips(data, split), opened(root, **options)).prepare("clips")


def stored(folder: Path) -> dict[str, Path]:
    return {Path(each.path).stem: Path(each.path) for each in entries(folder) if each.path.endswith(".safetensors")}


def started(data: Path, root: Path, how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(data), str(root), how]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_writers_and_a_killed_one_leave_whole_clips_only(data, tmp_path):
    expected = filled(data, tmp_path / "alone")
    writers = [started(data, tmp_path / "shared", how) for how in ("dies", "writes")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    killed, other = writers
    killed.stdin.write("\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "half\n"
    other.stdin.write("\n")
    other.stdin.flush()
    filled(data, tmp_path / "shared")
    killed.send_signal(signal.SIGKILL)
    assert other.stdout.readline() == "done\n"
    killed.communicate()
    (folder,) = folders(tmp_path / "shared")
    found = stored(folder)
    assert found.keys() == stored(expected.cache.folder).keys() and len(found) == CLIPS
    for name, path in found.items():
        alone = load_file(expected.cache.folder / path.name)
        assert all(torch.equal(value, alone[key]) for key, value in load_file(path).items()), name
    half = list(folder.glob("*.tmp"))
    assert len(half) == 1  # of the killed one; it stays while anybody works here, since it could be theirs
    os.utime(half[0])
    prune(tmp_path / "shared", 10**9)
    assert half[0].exists() and in_use_since(folder) is not None
    other.communicate("\n")
    assert other.returncode == 0
    assert in_use_since(folder) is None
    prune(tmp_path / "shared", 10**9)
    assert not list(folder.glob("*.tmp")) and len(stored(folder)) == CLIPS


def test_a_damaged_clip_is_made_anew(data, tmp_path, caplog):
    clips = filled(data, tmp_path)
    path = clips.cache.path(clips.rows[0]["video"])
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    again = filled(data, tmp_path)[0]
    assert torch.equal(again["pixel_values_videos"], filled(data, tmp_path / "other")[0]["pixel_values_videos"])
    assert path.read_bytes() == before and f"{path} is damaged" in caplog.text


def clip_file(folder: Path, name: str, *, size: int = 1000, age: float = 0) -> Path:
    path = folder / f"{name}.safetensors"
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_least_recently_used_clips_go_first_and_none_that_are_in_use(tmp_path, caplog):
    idle, busy = tmp_path / "idle", tmp_path / "busy"
    Claim(idle)  # and ended
    claim = Claim(busy)
    old = [clip_file(idle, f"old{number}", age=100 - number) for number in range(3)]
    older = clip_file(busy, "older", age=1000)
    new = [clip_file(busy, f"new{number}", age=-1) for number in range(2)]
    assert in_use_since(idle) is None and in_use_since(busy) is not None
    removed, left = prune(tmp_path, 4000)
    assert removed == {"busy": 1, "idle": 1} and left == 4000
    assert not older.exists() and [path.exists() for path in old] == [False, True, True]
    removed, left = prune(tmp_path, 0)
    assert removed == {"idle": 2} and left == 2000 and all(path.exists() for path in new)
    with pytest.raises(CacheFullError, match="2.5e-06 GB; raise feature_cache_limit"):
        SizeLimit(tmp_path, 2500).make_room(600)
    del claim
    limit = SizeLimit(tmp_path, 2500)
    limit.make_room(400)
    clip_file(busy, "third", size=400, age=-2)
    limit.make_room(200)  # only now is there too much
    assert sum(path.exists() for path in new) == 1
    assert "removed 1 least recently used clips from busy" in caplog.text


def test_a_clip_that_is_taken_into_use_while_it_leaves_stays(tmp_path, monkeypatch):
    Claim(tmp_path / "folder")
    path = clip_file(tmp_path / "folder", "clip", age=100)
    replace = os.replace

    def used(source, target):
        monkeypatch.setattr(os, "replace", replace)
        os.utime(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", used)
    assert prune(tmp_path, 0) == ({}, 1000) and path.exists()


def test_a_cache_with_a_limit_keeps_what_its_run_needs(data, tmp_path, capsys):
    size = sum(each.size for each in entries(filled(data, tmp_path / "x").cache.folder))
    limit = int(size * 1.2)
    train = filled(data, tmp_path / "c")
    first = stored(train.cache.folder)
    for path in first.values():
        os.utime(path, (time.time() - 1000,) * 2)
    del train
    test = filled(data, tmp_path / "c", "test", limit=limit)  # 3 clips more than there is room for
    left = stored(test.cache.folder)
    assert sum(path.stat().st_size for path in left.values()) <= limit and len(first.keys() & left.keys()) < CLIPS
    assert all(test.cache.path(row["video"]).exists() for row in test.rows)
    with pytest.raises(CacheFullError):  # together they are too much, and the test clips are in use
        filled(data, tmp_path / "c", limit=int(size * 0.9))
    assert all(test.cache.path(row["video"]).exists() for row in test.rows)
    assert main(["cache", "prune", "--feature_cache", str(tmp_path / "x"), "--limit", "0"]) == 0
    assert f"{CLIPS} clips removed, 0 GB left" in capsys.readouterr().out


def test_the_limit_is_checked_and_may_come_from_the_environment(monkeypatch):
    assert cache_limit() is None and cache_limit(0.5) == 5 * 10**8
    monkeypatch.setenv("VIDCAP_CACHE_LIMIT", "2")
    assert cache_limit() == 2 * 10**9 and cache_limit(1) == 10**9
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("VIDCAP_CACHE_LIMIT", wrong)
        with pytest.raises(ValueError, match=f"VIDCAP_CACHE_LIMIT .*got {wrong}"):
            cache_limit()


# ---- clips whose files are gone ----------------------------------------------


def without_videos(data: Path, target: Path, change=lambda record: record) -> Path:
    """The data set's metadata, as somebody has it who has no videos."""
    for path in data.glob("*/metadata.jsonl"):
        copy = target / path.relative_to(data)
        copy.parent.mkdir(parents=True)
        lines = [json.dumps(change(json.loads(line))) for line in path.read_text().splitlines()]
        copy.write_text("\n".join(lines))
    return target


def test_rows_find_their_clips_without_the_videos(data, tmp_path, caplog):
    caplog.set_level("INFO", "processing")
    there = filled(data, tmp_path / "c")
    absent = filled(without_videos(data, tmp_path / "elsewhere"), tmp_path / "c")
    assert f"{CLIPS} files are missing" in caplog.text
    for index in range(CLIPS):
        assert torch.equal(there[index]["pixel_values_videos"], absent[index]["pixel_values_videos"])
    assert len(list((tmp_path / "c" / "names").iterdir())) == 1


def test_what_cannot_be_found_is_named(data, tmp_path):
    folder = without_videos(data, tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="No such file"):
        filled(folder, tmp_path / "c")
    filled(data, tmp_path / "c")
    other = without_videos(data, tmp_path / "other", lambda record: {**record, "caption": "a cat"})
    with pytest.raises(DatasetError, match="the cache knows this name with other captions only"):
        filled(other, tmp_path / "c")
    cache = ClipCache(tmp_path / "c", tiny_processor(num_frames=3).video_processor, workers=2)
    with pytest.raises(DatasetError, match=f"does not hold it in {cache.folder.name}"):
        ClipDataset(load_clips(folder, "train"), cache).prepare("clips")
    row = load_clips(data, "train")[0]
    name, captions = name_of(row["video"]["path"]), captions_hash(row["captions"])
    write_names(tmp_path / "c", [CacheRecord(name, captions, "0" * 64)])
    with pytest.raises(DatasetError, match="holds 2 clips of this name and caption"):
        filled(folder, tmp_path / "c")
    tidy_names(tmp_path / "c", {each.clip for each in read_names(tmp_path / "c")} - {"0" * 64})
    assert len(list((tmp_path / "c" / "names").iterdir())) == 1
    assert len(filled(folder, tmp_path / "c")) == CLIPS


def test_evaluation_without_the_videos(data, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    reports = []
    for folder in (data, without_videos(data, tmp_path / "elsewhere")):
        output = tmp_path / f"{folder.name}.json"
        argv = ["evaluate", "--model", str(tmp_path / "model"), "--dataset", str(folder), "--output", str(output)]
        assert main([*argv, "--feature_cache", str(tmp_path / "c"), "--max_new_tokens", "5"]) == 0
        reports.append(json.loads(output.read_text()))
    assert reports[0]["scores"] == reports[1]["scores"] and reports[0]["controls"] == reports[1]["controls"]
    assert "clips_without_file" not in reports[0] and reports[1]["clips_without_file"] == 3
    capsys.readouterr()
    assert main(["cache", "list", "--feature_cache", str(tmp_path / "c"), "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["clips"] == 3 and found["content"] == "frames" and found["num_frames"] == 4


def test_a_full_disk_is_told_in_one_line_and_leaves_whole_clips(tmp_path: Path, monkeypatch) -> None:
    write_clip(tmp_path / "kept.safetensors", {"x": torch.ones(2)})

    def fail(tensors: dict, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", fail)
    with pytest.raises(CacheFullError, match="No space left on device .* MB free.*finished clips are kept"):
        write_clip(tmp_path / "new.safetensors", {"x": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_a_cache_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheFullError, match="Not a directory.*feature_cache="):
        ClipCache(tmp_path / "file" / "cache", tiny_processor().video_processor)
