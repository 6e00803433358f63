"""Batches of an epoch: each clip once over all ranks and workers, drawn as seed, epoch and clip say."""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from processing.clips.collator import VideoCaptionCollator
from processing.clips.epochs import EpochBatches, SeededClips, generator_kept, seed_generator
from tests.tiny import tiny_processor


def epoch_of(clips: int, batch: int, ranks: int, epoch: int = 0, **options) -> list[list[list[int]]]:
    """The numbers of the clips of each batch of each rank."""
    found = []
    for rank in range(ranks):
        batches = EpochBatches(clips, batch, seed=1, rank=rank, world_size=ranks, **options)
        batches.set_epoch(epoch)
        found.append([[draw.clip for draw in each] for each in batches])
        assert len(found[-1]) == len(batches)
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("clips", [3, 8, 9, 13, 16, 17])
def test_each_clip_comes_once_and_ranks_make_equally_many_steps(clips, ranks):
    found = epoch_of(clips, 4, ranks)
    assert Counter(clip for rank in found for batch in rank for clip in batch) == Counter(range(clips))
    assert len({len(rank) for rank in found}) == 1
    for batches in zip(*found, strict=True):
        sizes = [len(batch) for batch in batches]
        assert 1 <= min(sizes) and max(sizes) <= min(sizes) + 1 and max(sizes) <= 4
    assert all(len(batch) == 4 for rank in found for batch in rank[:-2])


def test_no_batch_is_empty_whatever_the_sizes():
    for clips, batch, ranks in itertools.product(range(1, 14), range(1, 5), range(1, 6)):
        if clips < ranks:
            continue
        for found in (epoch_of(clips, batch, ranks), epoch_of(clips, batch, ranks, drop_last=True)):
            sizes = [[len(each) for each in batches] for batches in zip(*found, strict=True)]
            case = f"{clips} clips in batches of {batch} on {ranks} ranks: {sizes}"
            assert all(1 <= min(each) and max(each) <= min(each) + 1 for each in sizes), case
            # Where each rank takes one clip at a time, those that remain join the last.
            assert max(map(max, sizes)) <= max(batch, 2 if clips % ranks else 1), case
        seen = [clip for rank in epoch_of(clips, batch, ranks) for each in rank for clip in each]
        assert sorted(seen) == list(range(clips))


def test_epochs_differ_and_come_again():
    assert epoch_of(40, 4, 1) == epoch_of(40, 4, 1) != epoch_of(40, 4, 1, epoch=1)
    # Ranks share out what one process would see in one batch.
    (one,), two = epoch_of(40, 8, 1), epoch_of(40, 4, 2)
    assert [set(batch) for batch in one] == [set(a + b) for a, b in zip(*two, strict=True)]
    assert len(epoch_of(9, 4, 1, drop_last=True)[0]) == 2


def test_more_processes_than_clips_are_refused():
    with pytest.raises(ValueError, match="3 training clips .* 4 processes"):
        EpochBatches(3, 2, seed=0, world_size=4)


class Noise(torch.utils.data.Dataset):
    """Clips whose features are drawn anew at each look."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> dict:
        features = torch.rand(2, 1, 3) + number
        times, mask = torch.arange(2.0), torch.ones(2, dtype=torch.long)
        captions = ["a red circle grows", "a blue square spins slowly", "the cat runs"]
        return {"video_features": features, "video_times": times, "video_mask": mask, "captions": captions}


def looks(ranks: int, workers: int) -> dict[int, list]:
    """What is drawn for each clip in one epoch."""
    collate = VideoCaptionCollator(tiny_processor(), draw=True)
    found = {}
    for rank in range(ranks):
        batches = EpochBatches(12, 6 // ranks, seed=1, rank=rank, world_size=ranks)
        for batch in DataLoader(SeededClips(Noise()), batch_sampler=batches, collate_fn=collate, num_workers=workers):
            for features, labels in zip(batch["video_features"], batch["labels"], strict=True):
                number = int(features.mean())
                assert number not in found
                found[number] = [features.tolist(), [token for token in labels.tolist() if token != -100]]
    return found


def test_draws_depend_neither_on_ranks_nor_on_workers():
    whole = looks(1, 0)
    assert len(whole) == 12 and len({str(labels) for _, labels in whole.values()}) == 3
    assert looks(2, 2) == whole


def test_the_global_generator_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = torch.rand(1)
    with generator_kept():
        seed_generator(7)
        inside = torch.rand(3)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    with generator_kept():
        seed_generator(7)
        assert torch.equal(torch.rand(3), inside)
