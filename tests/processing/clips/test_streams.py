"""Streams: every row once a pass over all ranks, bounded reading ahead, broken clips, and where reading goes on."""

import threading
from collections import Counter
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import datasets
import pytest
import torch

from processing.clips import streams
from processing.clips.augmentation import ClipAugmentation
from processing.clips.mixtures import Mixture
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from processing.clips.streams import StreamBatches, StreamedClips
from processing.video_io_vidcap import VideoDecodeError
from tests.tiny import tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training.arguments.data_arguments import DataArguments
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.data import load_training_data

CLIPS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=CLIPS, validation=1, test=0, size=32)
    return path


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def stream(folder, processor, **options) -> StreamedClips:
    rows = load_clips(folder, "train", streaming=True).shuffle(seed=3, buffer_size=4, max_buffer_input_shards=1)
    return StreamedClips(rows, processor, workers=options.pop("workers", 2), **options)


def names(clips) -> list[str]:
    return [clip["file_name"] for clip in clips]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_clip_comes_once_a_pass_over_all_ranks(folder, processor, ranks):
    seen = Counter()
    for rank in range(ranks):
        clips = stream(folder, processor)
        for _ in range(2):  # each loader says it
            clips.split(rank, ranks)
        own = names(clips.one_pass())
        assert len(own) in (CLIPS // ranks, CLIPS // ranks + 1)
        seen.update(own)
    assert seen == Counter(dict.fromkeys(seen, 1)) and len(seen) == CLIPS


def test_whole_shards_are_dealt_out_where_they_can_be():
    def numbers(shards):
        for shard in shards:
            yield from ({"shard": shard, "row": row} for row in range(2 + shard))  # of unequal sizes

    rows = datasets.IterableDataset.from_generator(numbers, gen_kwargs={"shards": [0, 1, 2, 3]})
    found = []
    for rank in range(2):
        clips = StreamedClips(rows, None)
        clips.split(rank, 2)
        read = islice(clips.streams.read(clips.position), 20)
        found.append([(each.row["shard"], each.row["row"]) for each in read if each.epoch == 0])
    assert sorted(found[0] + found[1]) == [(shard, row) for shard in range(4) for row in range(2 + shard)]
    assert not {shard for shard, _ in found[0]} & {shard for shard, _ in found[1]}


def test_a_pass_is_shuffled_anew_and_order_and_draws_are_those_of_one_thread(folder, processor):
    augmentation = ClipAugmentation(crop=0.5)
    many = list(islice(stream(folder, processor, augmentation=augmentation, workers=4), 2 * CLIPS))
    one = list(islice(stream(folder, processor, augmentation=augmentation, workers=1), 2 * CLIPS))
    first, second = names(many[:CLIPS]), names(many[CLIPS:])
    assert sorted(first) == sorted(second) and first != second
    for clip, other in zip(many, one, strict=True):
        assert clip["file_name"] == other["file_name"] and clip["seed"] == other["seed"]
        assert torch.equal(clip["pixel_values_videos"], other["pixel_values_videos"])
    again = {clip["file_name"]: clip for clip in many[CLIPS:]}
    assert not any(
        torch.equal(clip["pixel_values_videos"], again[clip["file_name"]]["pixel_values_videos"])
        for clip in many[:CLIPS]
    )


@pytest.mark.parametrize("consumed", [1, 5, CLIPS, CLIPS + 4])
def test_reading_goes_on_behind_any_clip(folder, processor, consumed):
    def unreadable(self, read: Future) -> dict:
        if read.result().number == 2:
            raise VideoDecodeError("x", "broken")
        return decode(self, read)

    decode = StreamedClips._decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamedClips, "_decode", unreadable)
        broken: list = []
        whole = list(islice(stream(folder, processor, on_broken=lambda *each: broken.append(each)), 3 * CLIPS))
        assert 1 < len(broken) == len({name for name, _ in broken}) <= 4  # of four passes, each clip once
        resumed = stream(folder, processor, on_broken=lambda *_: None)
        batch = StreamBatches(lambda clips: {})(whole[:consumed])
        resumed.position = batch["stream_position"]
        rest = list(islice(resumed, 3 * CLIPS - consumed))
    assert [(c["file_name"], c["seed"]) for c in rest] == [(c["file_name"], c["seed"]) for c in whole[consumed:]]


def test_what_is_read_ahead_is_bounded(folder, processor):
    clips = stream(folder, processor, workers=2)
    read = []
    rows = clips.streams.read
    clips.streams.read = lambda position: (read.append(row.number) or row for row in rows(position))
    iterator = iter(clips)
    for taken in range(1, 5):
        next(iterator)
        assert len(read) <= taken + 2 * streams.AHEAD
    iterator.close()


def test_a_stalled_stream_and_one_without_rows_are_errors(folder, processor, monkeypatch):
    monkeypatch.setattr(streams, "STALLED", 0.2)
    clips = stream(folder, processor)
    released = threading.Event()
    clips.streams.read = lambda position: (released.wait() for _ in range(1))
    with pytest.raises(DatasetError, match="no clip for 0.2 seconds"):
        next(iter(clips))
    released.set()
    empty = StreamedClips(stream(folder, processor).streams.sources[0].take(0), processor)
    with pytest.raises(DatasetError, match="no clips for this process"):
        next(iter(empty))


def test_a_broken_clip_stops_the_stream_unless_it_is_to_be_listed(folder, processor):
    rows = load_clips(folder, "train", streaming=True).map(lambda row: {"video": {"path": None, "bytes": b"nonsense"}})
    with pytest.raises(VideoDecodeError):
        next(iter(StreamedClips(rows, processor)))


def spoilt(folder, numbers) -> datasets.Dataset:
    """Rows with bytes and without names, of which some cannot be read."""
    rows = []
    for number, row in enumerate(load_clips(folder, "train")):
        content = b"nonsense" if number in numbers else Path(row["video"]["path"]).read_bytes()
        rows.append({**row, "video": {"path": None, "bytes": content}, "file_name": f"row {number % 2}"})
    return datasets.Dataset.from_list(rows)


def test_a_broken_clip_is_reported_once_however_often_it_comes(folder, processor):
    rows = spoilt(folder, (0, 4, 7)).to_iterable_dataset(num_shards=3)
    reported = []
    clips = StreamedClips(
        rows.shuffle(seed=1, buffer_size=4, max_buffer_input_shards=1),
        processor,
        workers=2,
        on_broken=lambda *each: reported.append(each),
    )
    assert len(list(islice(clips, 5 * (CLIPS - 3)))) == 5 * (CLIPS - 3)
    assert len(list(clips.one_pass())) == CLIPS - 3
    assert Counter(name for name, _ in reported) == {"row 0": 2, "row 1": 1}


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_a_source_without_a_readable_clip_ends_the_stream(folder, processor, weights):
    good, bad = (spoilt(folder, numbers).to_iterable_dataset() for numbers in ((), range(CLIPS)))
    reported: list = []
    clips = StreamedClips(bad, processor, workers=2, on_broken=lambda *each: reported.append(each))
    clips.position = [[3, CLIPS - 1, 4 * CLIPS - 1]]  # the last clip of a pass: only the next pass is a whole one
    with pytest.raises(DatasetError, match="^no clip can be read, such as <8 bytes>: "):
        next(iter(clips))
    assert len(reported) == CLIPS
    mixture = Mixture(("good", "bad"), weights)
    both = StreamedClips([good, bad], processor, workers=2, on_broken=lambda *_: None, mixture=mixture)
    with pytest.raises(DatasetError, match="^bad: no clip can be read, such as"):
        list(islice(both, 10 * CLIPS))
    # A pass that is begun behind its only readable clips proves nothing.
    late = StreamedClips(spoilt(folder, range(4, CLIPS)).to_iterable_dataset(), processor, on_broken=lambda *_: None)
    late.position = [[0, 5, 5]]
    assert len(list(islice(late, 9))) == 9


def test_the_seed_of_the_data_orders_a_stream_whatever_that_of_the_weights(folder, tmp_path):
    def order(**seeds: int) -> list[str]:
        args = VideoCaptionTrainingArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True, **seeds)
        (rows,) = load_training_data(DataArguments(dataset=[str(folder)], streaming=True), args).train
        return [row["file_name"] for row in rows]

    assert order(seed=1, data_seed=2) == order(seed=3, data_seed=2) == order(seed=2) != order(seed=1)
