"""A stream of rows -> clips as tensors, without end, in an order that a resumed run finds again.

Rows are read one after the other by one thread and decoded ahead by several, a bounded number at a time, so that
memory stays the same however long the stream is. Which clip comes when depends on the seed alone, neither on threads
nor on how long any of them takes. Gives up: reading several shards of one rank at once.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from typing import Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node

from .augmentation import ClipAugmentation
from .datasets import DatasetError
from .epochs import seed_of
from .video_io_vidcap import VideoDecodeError

STALLED = 600  # seconds without a clip, after which waiting for more is given up
AHEAD = 4  # clips a thread that are read and decoded before they are asked for


class StreamedClips(torch.utils.data.IterableDataset):
    """The rows of a stream as tensors, pass after pass; nothing is stored.

    Each clip says under `position` where reading goes on behind it: `(epoch, row)`. A pass shows each of this rank's
    rows once. Augmentation draws by seed, pass and row.

    Args:
        rows: In the form of `processing.datasets`, shuffled by a fixed seed.
        processor: Decodes.
        num_frames: Frames to take of each clip; by default the processor's.
        workers: Threads that decode; by default one a core.
        on_broken: Called with file name and reason of each clip that cannot be read, which is then left out. Without
            it the first one stops the run.
        augmentation: For training: applied to each clip.
        seed: Of what is drawn for each clip.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        processor: Any,
        *,
        num_frames: int | None = None,
        workers: int | None = None,
        on_broken: Callable[[str, str], None] | None = None,
        augmentation: ClipAugmentation | None = None,
        seed: int = 0,
    ):
        self.rows = rows
        self.processor = processor
        self.options = {"num_frames": num_frames, "do_rescale": False, "do_normalize": False}
        self.workers = workers or os.cpu_count() or 1
        self.on_broken = on_broken
        self.augmentation = augmentation
        self.seed = seed
        self.position = (0, 0)  # where to begin: pass, and rows of it to leave out

    def split(self, rank: int, world_size: int) -> None:
        """Keeps what is one rank's: whole shards where they can be dealt out evenly, one of `world_size` rows else."""
        if world_size > 1:
            self.rows = split_dataset_by_node(self.rows, rank, world_size)

    def one_pass(self) -> Iterator[dict[str, Any]]:
        """The clips of the first pass alone."""
        self.position = (0, 0)
        return itertools.takewhile(lambda clip: clip["position"][0] == 0, self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = ThreadPoolExecutor(1, thread_name_prefix="rows")
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decoder")
        rows, waiting = self._rows(), deque[tuple[Future, Future]]()
        try:
            while True:
                while len(waiting) < AHEAD * self.workers:
                    read = reader.submit(next, rows)
                    waiting.append((read, pool.submit(self._decode, read)))
                read, decoded = waiting.popleft()
                try:
                    clip = decoded.result(timeout=STALLED)
                except StillRunning as error:
                    raise DatasetError(f"the stream has stalled: no clip for {STALLED} seconds") from error
                except VideoDecodeError as error:
                    if self.on_broken is None:
                        raise
                    self.on_broken(read.result()[2]["file_name"], str(error))
                    continue
                yield clip
        finally:
            for executor in (reader, pool):
                executor.shutdown(wait=False, cancel_futures=True)

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Pass, number and row, for ever."""
        first, done = self.position
        for epoch in itertools.count(first):
            self.rows.set_epoch(epoch)
            number = -1
            for number, row in enumerate(self.rows):
                if number >= done:
                    yield epoch, number, row
            if number < 0:
                raise DatasetError("the stream holds no clips for this process: start fewer, or make more shards")
            done = 0

    def _decode(self, read: Future) -> dict[str, Any]:
        epoch, number, row = read.result()
        tensors = self.processor.video_processor(row["video"], **self.options)
        clip = {name: value[0] for name, value in tensors.items()}
        seed = seed_of(self.seed, epoch, number)
        clip |= {"captions": row["captions"], "file_name": row["file_name"], "seed": seed}
        clip["position"] = (epoch, number + 1)
        return clip if self.augmentation is None else self.augmentation(clip, torch.Generator().manual_seed(seed))


class StreamBatches:
    """A collator that hands on the position behind a batch's last clip, under `stream_position`."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collate(clips), "stream_position": clips[-1]["position"]}
