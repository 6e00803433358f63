"""The clips of each batch of an epoch, on each rank, and the random numbers that each clip is drawn with.

All of it is a function of the seed, the epoch and the clip. A resumed run therefore sees what an uninterrupted one
would have seen, whichever worker loads it, and each clip is seen once per epoch, whatever the number of ranks.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy
import torch
from torch.utils.data import Dataset, Sampler

Drawn = TypeVar("Drawn")
OF_CAPTIONS = 0x9E3779B9  # turns the seed of a clip's frames into that of its captions


class Draw(NamedTuple):
    """One look at a clip."""

    clip: int  # its number
    seed: int  # for all draws: frames, augmentation, the caption


def seed_of(*numbers: int) -> int:
    """A seed that any of the numbers changes; of 32 bits, since torch's CPU generator takes no more."""
    return int(numpy.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def generator_kept() -> Iterator[None]:
    """Restore the state of torch's global CPU generator afterwards."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def seed_generator(seed: int) -> None:
    """`torch.manual_seed` for the global CPU generator alone, which makes all draws for clips."""
    torch.default_generator.manual_seed(seed)


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one rank: a new order of the clips in every epoch, each clip drawn once over all ranks.

    The remainder after the last full batch is divided among the ranks, together with the batch before if it is less
    than one clip each. At a batch size of 1, where that is not enough, some ranks take two clips in the last step.
    Ranks therefore make equally many steps, and none sees a clip that another has seen.

    Args:
        clips: Number of clips.
        batch_size: Batch size of one rank.
        seed: Seed of the order.
        rank, world_size: The part to give.
        drop_last: Leave the remainder out.

    Raises:
        ValueError: If there are fewer clips than ranks.
    """

    def __init__(
        self, clips: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ):
        if clips < world_size:
            raise ValueError(f"{clips} training clips are too few for {world_size} processes; start fewer processes")
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        whole = batch_size * world_size
        self.sizes = [whole] * (clips // whole)  # over all ranks
        if remainder := 0 if drop_last and self.sizes else clips % whole:
            self.sizes.append(remainder)
            if remainder < world_size:
                both = self.sizes.pop() + self.sizes.pop()
                self.sizes += [both - both // 2, both // 2] if both >= 2 * world_size else [both]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def draws(self) -> tuple[list[int], list[int]]:
        """The clips of the epoch in order, and a seed for each."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.clips, generator=generator)
        seeds = torch.randint(2**32, (self.clips,), generator=generator)
        return order.tolist(), seeds[order].tolist()

    def __iter__(self) -> Iterator[list[Draw]]:
        order, seeds = self.draws()
        start = 0
        for size in self.sizes:
            part = slice(start + self.rank, start + size, self.world_size)
            yield [Draw(clip, seed) for clip, seed in zip(order[part], seeds[part], strict=True)]
            start += size


class SeededClips(Dataset):
    """A data set indexed by [`Draw`]: `clips[draw.clip]`, drawn with `draw.seed`, which the collator gets as `seed`.
    A batch is drawn at once, since saving the generator's state takes longer than many a clip."""

    def __init__(self, clips: Sized):
        self.clips: Any = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[dict[str, Any]]:
        clips = []
        with generator_kept():
            for draw in draws:
                seed_generator(draw.seed)
                clips.append({**self.clips[draw.clip], "seed": draw.seed})
        return clips


def draw_for_each(clips: list[dict[str, Any]], draw: Callable[[dict[str, Any]], Drawn]) -> list[Drawn]:
    """`draw(clip)` for each clip, with the random numbers of its seed, if clips carry seeds."""
    if not all("seed" in clip for clip in clips):
        return [draw(clip) for clip in clips]
    drawn = []
    with generator_kept():
        for clip in clips:
            seed_generator(clip["seed"] ^ OF_CAPTIONS)
            drawn.append(draw(clip))
    return drawn
