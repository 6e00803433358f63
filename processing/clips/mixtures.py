"""Several data sets as one: which of them the next clip comes from.

With weights the next clip comes from the source that is furthest behind its share (Webster's method,
https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method). That is a function of how many clips each has given: shares
hold at any moment of a run, to about a clip, no random number decides, and a resumed run goes on from the counts.
Every source is gone through pass after pass, each clip once a pass in an order of its own; a short one comes round
more often. Without weights a pass shows the clips of all sources once, and then the next begins.
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
    """What is mixed.

    Args:
        names: What errors call each source.
        weights: Above 0, of any sum; `None` shows all clips of all sources equally often.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None = None


def next_source(drawn: Sequence[int], weights: Sequence[float]) -> int:
    """The number of the source to draw from when so many clips of each have been drawn."""
    return min(range(len(weights)), key=lambda source: ((drawn[source] + 0.5) / weights[source], source))


def drawn_of(total: int, weights: Sequence[float]) -> list[int]:
    """How many clips of each source are among the first `total`: what as many calls of [`next_source`] would give."""
    whole, slack = sum(weights), len(weights) / 2 + 1  # no source is further behind its share than that
    drawn = [max(0, int(total * weight / whole - slack)) for weight in weights]
    while sum(drawn) < total:
        drawn[next_source(drawn, weights)] += 1
    return drawn


class MixedEpochBatches(EpochBatches):
    """[`EpochBatches`] of several sources with weights. An epoch has as many clips as the sources together. Each
    source goes on where it was when the epoch before ended, so that none of its clips comes twice before all have come
    once, however short or long it is.

    Args:
        sizes: Numbers of clips of the sources, which lie one behind the other.
        weights: Their weights.
        batch_size, options: As there.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, **options: Any):
        super().__init__(sum(sizes), batch_size, **options)
        self.source_sizes = list(sizes)
        self.weights = list(weights)

    def draws(self) -> tuple[list[int], list[int]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        begin = drawn_of(self.epoch * self.clips, self.weights)
        end = drawn_of((self.epoch + 1) * self.clips, self.weights)
        times, clips, offset = [], [], 0
        for source, (size, weight) in enumerate(zip(self.source_sizes, self.weights, strict=True)):
            numbers = torch.arange(begin[source], end[source], dtype=torch.float64)
            # Anywhere within its turn: ranks, which take every so manieth clip, would else get one source each.
            times.append((numbers + torch.rand(len(numbers), generator=generator, dtype=torch.float64)) / weight)
            clips.append(offset + self._orders(source, size, begin[source], end[source]))
            offset += size
        order = torch.cat(clips)[torch.cat(times).argsort(stable=True)]
        return order.tolist(), torch.randint(2**32, (len(order),), generator=generator).tolist()

    def _orders(self, source: int, size: int, begin: int, end: int) -> torch.Tensor:
        """The draws `begin` to `end` of one source's endless passes."""
        first = begin // size
        passes = [
            torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(self.seed, source, each)))
            for each in range(first, -(-end // size))
        ]
        return torch.cat([torch.empty(0, dtype=torch.long), *passes])[begin - first * size : end - first * size]


class Place(NamedTuple):
    """How far one source of a stream has been read."""

    epoch: int = 0  # passes that are over
    row: int = 0  # rows of the pass that are over
    drawn: int = 0  # rows of all passes


class Read(NamedTuple):
    """A row of a stream."""

    source: int
    epoch: int  # pass of its source
    number: int  # in that pass
    row: dict[str, Any]
    position: tuple[Place, ...]  # of every source, behind this row


class MixedStreams:
    """One or several streams as one without end, in an order that a resumed run finds again.

    Without weights the sources take turns until each has been read once, longer ones going on alone at the end of a
    pass, since a stream does not say how long it is.

    Args:
        sources: Each shuffled by a fixed seed.
        mixture: Their names and weights; without it there is one.
    """

    def __init__(self, sources: Sequence[IterableDataset], mixture: Mixture | None = None):
        self.whole = list(sources)
        self.sources = self.whole  # of them what is this rank's
        self.mixture = mixture

    def start(self) -> tuple[Place, ...]:
        return tuple(Place() for _ in self.sources)

    def split(self, rank: int, world_size: int) -> None:
        """Keeps what is one rank's, of each source: whole shards where they can be dealt out evenly, one of
        `world_size` rows else. May be said again, as each new loader does."""
        if world_size > 1:
            self.sources = [split_dataset_by_node(each, rank, world_size) for each in self.whole]

    def read(self, position: Sequence[Sequence[int]]) -> Iterator[Read]:
        """The rows behind a position.

        Raises:
            DatasetError: If a source has none.
        """
        places = [Place(*each) for each in position]
        readers = [self._rows(source, place) for source, place in enumerate(places)]
        weights = self.mixture.weights if self.mixture is not None else None
        waiting: set[int] = set()  # without weights: what has been read to its end and waits for the others
        while True:
            if weights is not None:
                turn = next_source([place.drawn for place in places], weights)
            else:
                turn = min(set(range(len(places))) - waiting, key=lambda source: (places[source].row, source))
            epoch, number, drawn = places[turn]
            row = next(readers[turn], None)
            if row is not None:
                places[turn] = Place(epoch, number + 1, drawn + 1)
                yield Read(turn, epoch, number, row, tuple(places))
                continue
            if number == 0:
                name = f"{self.mixture.names[turn]}: " if self.mixture is not None else ""
                raise DatasetError(
                    f"{name}the stream holds no clips for this process: start fewer, or make more shards"
                )
            if weights is None:
                waiting.add(turn)
                if len(waiting) < len(places):
                    continue
                again = sorted(waiting)
                waiting.clear()
            else:
                again = [turn]
            for source in again:
                places[source] = Place(places[source].epoch + 1, 0, places[source].drawn)
                readers[source] = self._rows(source, places[source])

    def _rows(self, source: int, place: Place) -> Iterator[dict[str, Any]]:
        """What is left of one pass of a source."""
        rows = self.sources[source]
        rows.set_epoch(place.epoch)
        return itertools.islice(rows, place.row, None)
