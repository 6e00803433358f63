"""Several data sets as one: the order in which clips come from its sources.

With weights the next clip comes from the source that is furthest behind its share (Webster's method,
https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method), a function of the number of clips that each has given: shares
hold to about one clip at any moment of a run, no random number decides, and a resumed run continues from the counts.
Every source gives pass after pass, each clip once per pass in an order of its own; a short one repeats more often.
Without weights a pass shows the clips of all sources once.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from .epochs import EpochBatches, seed_of
from .sources import DatasetError


@dataclass(frozen=True)
class Mixture:
    """The sources of a mixture.

    Args:
        names: Name of each source, for errors.
        weights: Positive numbers of any sum; `None` shows all clips of all sources equally often.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None = None


def next_source(drawn: Sequence[int], weights: Sequence[float]) -> int:
    """The number of the source to draw from after `drawn` clips of each."""
    return min(range(len(weights)), key=lambda source: ((drawn[source] + 0.5) / weights[source], source))


def drawn_of(total: int, weights: Sequence[float]) -> list[int]:
    """Clips of each source among the first `total`, as that many calls of [`next_source`] would give."""
    whole, slack = sum(weights), len(weights) / 2 + 1  # no source is further behind its share than that
    drawn = [max(0, int(total * weight / whole - slack)) for weight in weights]
    while sum(drawn) < total:
        drawn[next_source(drawn, weights)] += 1
    return drawn


class MixedEpochBatches(EpochBatches):
    """[`EpochBatches`] of several sources with weights. An epoch has as many clips as the sources together. Each
    source continues where the epoch before ended, so that none of its clips comes twice before all have come once.

    Args:
        sizes: Numbers of clips of the sources, which follow one another.
        weights: Their weights.
        batch_size, seed, rank, world_size, drop_last: See [`EpochBatches`].
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ):
        super().__init__(sum(sizes), batch_size, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last)
        self.source_sizes = list(sizes)
        self.weights = list(weights)

    def draws(self) -> tuple[list[int], list[int]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        begin = drawn_of(self.epoch * self.clips, self.weights)
        end = drawn_of((self.epoch + 1) * self.clips, self.weights)
        times, clips, offset = [], [], 0
        for source, (size, weight) in enumerate(zip(self.source_sizes, self.weights, strict=True)):
            numbers = torch.arange(begin[source], end[source], dtype=torch.float64)
            # Anywhere within its turn: ranks, which take every n-th clip, would otherwise get one source each.
            times.append((numbers + torch.rand(len(numbers), generator=generator, dtype=torch.float64)) / weight)
            clips.append(offset + self._orders(source, size, begin[source], end[source]))
            offset += size
        order = torch.cat(clips)[torch.cat(times).argsort(stable=True)]
        return order.tolist(), torch.randint(2**32, (len(order),), generator=generator).tolist()

    def _orders(self, source: int, size: int, begin: int, end: int) -> torch.Tensor:
        """The draws `begin` to `end` of the endless passes of a source."""
        first = begin // size
        passes = [
            torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(self.seed, source, number)))
            for number in range(first, -(-end // size))
        ]
        return torch.cat([torch.empty(0, dtype=torch.long), *passes])[begin - first * size : end - first * size]


class StreamPosition(NamedTuple):
    """How far one source of a stream has been read."""

    epoch: int = 0  # finished passes
    row: int = 0  # rows read of the current pass
    drawn: int = 0  # rows read of all passes


class StreamRow(NamedTuple):
    """A row of a stream."""

    source: int
    epoch: int  # pass of its source
    number: int  # in that pass
    row: dict[str, Any]
    position: tuple[StreamPosition, ...]  # of every source, after this row


class MixedStreams:
    """One or several streams as one endless stream, in an order that a resumed run reproduces.

    Without weights the sources take turns until each has been read once, longer ones alone at the end of a pass, since
    the length of a stream is unknown.

    Args:
        sources: Streams, each shuffled by a fixed seed.
        mixture: Their names and weights, if there are several.
    """

    def __init__(self, sources: Sequence[IterableDataset], mixture: Mixture | None = None):
        self.whole = list(sources)
        self.sources = self.whole  # the part of this rank
        self.mixture = mixture

    def start(self) -> tuple[StreamPosition, ...]:
        return tuple(StreamPosition() for _ in self.sources)

    def split(self, rank: int, world_size: int) -> None:
        """Keep one rank's part of each source: whole shards if they divide evenly, otherwise every n-th row. May be
        called again, as each new loader does."""
        if world_size > 1:
            self.sources = [split_dataset_by_node(source, rank, world_size) for source in self.whole]

    def read(self, position: Sequence[Sequence[int]]) -> Iterator[StreamRow]:
        """The rows after a position.

        Raises:
            DatasetError: If a source has none.
        """
        positions = [StreamPosition(*numbers) for numbers in position]
        readers = [self._rows(source, start) for source, start in enumerate(positions)]
        weights = self.mixture.weights if self.mixture is not None else None
        waiting: set[int] = set()  # without weights: sources that have been read to their end
        while True:
            if weights is not None:
                turn = next_source([each.drawn for each in positions], weights)
            else:
                turn = min(set(range(len(positions))) - waiting, key=lambda source: (positions[source].row, source))
            epoch, number, drawn = positions[turn]
            row = next(readers[turn], None)
            if row is not None:
                positions[turn] = StreamPosition(epoch, number + 1, drawn + 1)
                yield StreamRow(turn, epoch, number, row, tuple(positions))
                continue
            if number == 0:
                name = f"{self.mixture.names[turn]}: " if self.mixture is not None else ""
                raise DatasetError(
                    f"{name}the stream holds no clips for this process; start fewer processes, or make more shards"
                )
            if weights is None:
                waiting.add(turn)
                if len(waiting) < len(positions):
                    continue
                again = sorted(waiting)
                waiting.clear()
            else:
                again = [turn]
            for source in again:
                positions[source] = StreamPosition(positions[source].epoch + 1, 0, positions[source].drawn)
                readers[source] = self._rows(source, positions[source])

    def _rows(self, source: int, position: StreamPosition) -> Iterator[dict[str, Any]]:
        """The rest of one pass of a source."""
        rows = self.sources[source]
        rows.set_epoch(position.epoch)
        return itertools.islice(rows, position.row, None)
