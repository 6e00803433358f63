"""Which clips make up which batch of an epoch, on which rank, and the random numbers that each of them is drawn with.

All of it is a function of the seed, the epoch and the clip. So a resumed run sees what an uninterrupted one would have
seen, whichever worker or rank is asked for it, and each clip is seen once an epoch whatever their number.
"""

from collections.abc import Callable, Iterator
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
    seed: int  # of whatever is drawn for it: frames, augmentation, the caption


def seed_of(*numbers: int) -> int:
    """A seed that any of the numbers changes; torch's CPU generator takes no more than the last 32 bits of one."""
    return int(numpy.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def generator_kept() -> Iterator[None]:
    """Afterwards torch's global CPU generator is as if nothing had been drawn, nor seeded, inside."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def seed_generator(seed: int) -> None:
    """`torch.manual_seed` for the global CPU generator alone, which is all that clips are drawn with."""
    torch.default_generator.manual_seed(seed)


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one rank: every epoch a new order of the clips, each of which is drawn once over all ranks.

    What remains after the last full batch is shared out over the ranks; where it is less than a clip each, so are the
    clips of the batch before. At a batch size of 1, where that does not do, some ranks take two clips in the last
    step. Ranks therefore make equally many steps, and none sees a clip that another has seen.

    Args:
        clips: Their number.
        batch_size: Of one rank.
        seed: Of the order.
        rank, world_size: Which part to give.
        drop_last: Leave the remainder out.

    Raises:
        ValueError: If there is not a clip for each rank.
    """

    def __init__(
        self, clips: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ):
        if clips < world_size:
            raise ValueError(f"{clips} training clips cannot be shared out over {world_size} processes: start fewer")
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
        """The clips of the epoch in their order, and a seed for each."""
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
    """A data set as [`EpochBatches`] asks for it: `clips[draw.clip]`, drawn with `draw.seed`, which goes on to the
    collator under `seed`. A batch is taken at once, as keeping the generator's state costs more than many a clip."""

    def __init__(self, clips: Any):
        self.clips = clips

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
    """`draw(clip)` of each, with the random numbers of this look at the clip; with any, where clips carry no seeds."""
    if not all("seed" in clip for clip in clips):
        return [draw(clip) for clip in clips]
    drawn = []
    with generator_kept():
        for clip in clips:
            seed_generator(clip["seed"] ^ OF_CAPTIONS)
            drawn.append(draw(clip))
    return drawn
