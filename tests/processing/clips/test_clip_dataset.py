"""`ClipDataset`: what it holds in memory and reads again, and how processes share its clips out."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from processing.cache import feature_cache
from processing.cache.feature_cache import ClipCache
from processing.clips import clip_dataset as clip_datasets
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from tests.tiny import tiny_processor
from vidcap.demo.demo_data import generate_demo_data

CLIPS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=CLIPS, validation=1, test=0, size=32)
    return path


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """The same clips as bytes in Parquet."""
    path = tmp_path_factory.mktemp("shards")
    rows = [
        {**row, "video": {"path": None, "bytes": Path(row["video"]["path"]).read_bytes()}}
        for row in load_clips(folder, "train")
    ]
    datasets.Dataset.from_list(rows).to_parquet(path / "train.parquet")
    return path


def cache(root: Path) -> ClipCache:
    return ClipCache(root, tiny_processor().video_processor, workers=2)


def test_no_more_clips_are_in_memory_than_are_worked_on(tmp_path):
    size, count = 2**20, 30
    rows = [
        {"video": {"bytes": f"no video, {number:4} ".encode() * (size // 16), "path": None}, "caption": "none"}
        for number in range(count)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    del rows
    clips = ClipDataset(load_clips(tmp_path, "train").shuffle(seed=1), cache(tmp_path / "cache"))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=f"{count} of {count} clips cannot be read"):
            clips.prepare("clips")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * size


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_a_clip_that_is_stored_is_not_read_again(form, request, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_datasets, "MAX_KEPT_BYTES", 0)
    rows = load_clips(request.getfixturevalue(form), "train")
    expected = [cache(tmp_path / "other").load(row["video"]) for row in rows]
    clips = ClipDataset(rows, cache(tmp_path / "cache")).prepare("clips")
    clips.rows = None  # nothing to read them from

    def fail(clip):
        raise AssertionError("hashed again")

    monkeypatch.setattr(feature_cache, "content_hash", fail)
    for index, row in enumerate(rows):
        clip = clips[index]
        assert torch.equal(clip["pixel_values_videos"], expected[index]["pixel_values_videos"])
        assert clip["captions"] == row["captions"] and clip["file_name"] == row["file_name"]


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_what_was_removed_or_left_out_is_found_by_its_row(form, request, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_datasets, "MAX_KEPT_BYTES", 0)
    rows = load_clips(request.getfixturevalue(form), "train")
    nonsense = {**rows[0], "video": {"path": None, "bytes": b"nonsense"}, "file_name": "bad"}
    mixed = datasets.Dataset.from_list([*list(rows)[:2], nonsense, *list(rows)[2:]])
    reported = []
    clips = ClipDataset(mixed, cache(tmp_path)).prepare("clips", on_broken=lambda *each: reported.append(each))
    assert [name for name, _ in reported] == ["bad"] and len(clips) == CLIPS
    before = [clips[index] for index in range(CLIPS)]
    assert [clip["captions"] for clip in before] == list(rows["captions"])
    for path in clips.cache.folder.glob("*.safetensors"):
        path.unlink()
    for index, clip in enumerate(before):
        assert torch.equal(clips[index]["pixel_values_videos"], clip["pixel_values_videos"])


class Ranks:
    """Threads in the place of processes."""

    def __init__(self, count: int):
        self.count = count
        self.said: list = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def gather(self, rank: int, value: Any) -> list:
        self.said[rank] = value
        self.barrier.wait()
        every = list(self.said)
        self.barrier.wait()
        return every

    def prepare(self, rows, caches: list[ClipCache], **options: Any) -> list:
        """What each of them gets, or raises."""

        def run(rank: int) -> Any:
            try:
                return ClipDataset(rows, caches[rank]).prepare(
                    "clips", rank=rank, world_size=self.count, gather=partial(self.gather, rank),
                    **{name: each[rank] for name, each in options.items()},
                )  # fmt: skip
            except (DatasetError, OSError) as error:
                return error

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(run, range(self.count)))


@pytest.fixture
def with_a_broken_one(folder):
    rows = list(load_clips(folder, "train"))
    broken = {**rows[0], "video": {"path": None, "bytes": b"nonsense"}}
    return datasets.Dataset.from_list([*rows[:3], {**broken, "file_name": "bad"}, *rows[3:]])


def counted(root: Path, decoded: list) -> ClipCache:
    found = cache(root)
    decode = found._decode
    found._decode = lambda clip: (decoded.append(clip), decode(clip))[1]
    return found


@pytest.mark.parametrize("machines", [1, 2])
def test_ranks_decode_a_share_each_and_all_learn_of_broken_clips(with_a_broken_one, tmp_path, machines):
    decoded: list[list] = [[], []]
    caches = [counted(tmp_path / str(rank % machines), decoded[rank]) for rank in range(2)]
    reported: list[list] = [[], []]
    on_broken = [lambda *each, rank=rank: reported[rank].append(each) for rank in range(2)]
    clips = Ranks(2).prepare(with_a_broken_one, caches, on_broken=on_broken)
    if machines == 1:
        assert [len(each) for each in decoded] == [4, 4] and len(set(map(str, sum(decoded, [])))) == CLIPS + 1
    assert [name for name, _ in reported[0]] == ["bad"] and reported[0] == reported[1]
    for own in clips:
        assert len(own) == CLIPS and len(list(own.cache.folder.glob("*.safetensors"))) == CLIPS
        assert [own[index]["file_name"] for index in range(CLIPS)] == [own.rows[i]["file_name"] for i in range(CLIPS)]
    errors = Ranks(2).prepare(with_a_broken_one, [cache(tmp_path / "0")] * 2)
    assert str(errors[0]) == str(errors[1]) and "1 of 8 clips cannot be read" in str(errors[0])


def test_a_rank_that_fails_leaves_none_waiting(with_a_broken_one, tmp_path):
    caches = [cache(tmp_path) for _ in range(2)]

    def full(path, decoded):
        raise OSError("No space left on device")

    caches[1]._store = full
    first, second = Ranks(2).prepare(with_a_broken_one, caches)
    assert str(first) == "clips: process 1 failed: No space left on device"
    assert type(second) is OSError
