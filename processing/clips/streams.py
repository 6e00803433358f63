"""A stream of rows -> clips as tensors, without end, in an order that a resumed run reproduces.

One thread reads the rows, several fetch and decode clips ahead, a bounded number at a time, so that memory does not
grow with the stream. The order depends on the seed alone, not on threads or their speed.

Limitations: a rank reads one shard at a time.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from typing import Any

import datasets
import torch

from ..cache.feature_cache import content_hash
from ..cache.names import captions_hash
from ..processing_vidcap import VideoCaptionProcessor
from ..video_frames_vidcap import VideoDecodeError
from .augmentation import ClipAugmentation
from .epochs import seed_of
from .hub_files import fetch_clip
from .mixtures import MixedStreams, Mixture, StreamRow
from .sources import DatasetError

STALLED = 600  # seconds without a clip after which the run ends
AHEAD = 4  # clips per thread that are decoded before they are needed


class StreamedClips(torch.utils.data.IterableDataset):
    """The rows of a stream as tensors, pass after pass; nothing is stored.

    Each clip holds under `position` where reading continues after it, see [`MixedStreams`]. A pass of a source shows
    each of this rank's rows once. Augmentation draws by seed, pass, row and source.

    Args:
        rows: One or several streams in the form of `processing.clips.rows`, shuffled by a fixed seed.
        processor: Decodes the clips.
        num_frames: Frames per clip; by default the processor's.
        workers: Threads that decode; by default one per core.
        on_broken: Called with file name and reason of each broken clip, the first time that it comes; it is left out
            each time. By default the first one stops the run.
        augmentation: For training: applied to each clip.
        seed: Seed of the draws for each clip.
        mixture: Names and weights of several streams.

    Raises:
        DatasetError: While reading, if no clip of a whole pass of a source can be read.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset | Sequence[datasets.IterableDataset],
        processor: VideoCaptionProcessor,
        *,
        num_frames: int | None = None,
        workers: int | None = None,
        on_broken: Callable[[str, str], None] | None = None,
        augmentation: ClipAugmentation | None = None,
        seed: int = 0,
        mixture: Mixture | None = None,
    ):
        self.streams = MixedStreams([rows] if isinstance(rows, datasets.IterableDataset) else rows, mixture)
        self.processor = processor
        self.options = {"num_frames": num_frames, "do_rescale": False, "do_normalize": False}
        self.workers = workers or os.cpu_count() or 1
        self.on_broken = on_broken
        self.augmentation = augmentation
        self.seed = seed
        self.position: Sequence[Sequence[int]] = self.streams.start()  # where reading starts
        self._broken: set[tuple[int, str, str]] = set()  # already reported

    def split(self, rank: int, world_size: int) -> None:
        """Keep one rank's part, see [`MixedStreams`]."""
        self.streams.split(rank, world_size)

    def one_pass(self) -> Iterator[dict[str, Any]]:
        """The clips of the first pass alone; with weights, until the first source repeats."""
        self.position = self.streams.start()
        return itertools.takewhile(lambda clip: all(source.epoch == 0 for source in clip["position"]), self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = ThreadPoolExecutor(1, thread_name_prefix="rows")
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decoder")
        rows, waiting = self.streams.read(self.position), deque[tuple[Future, Future]]()
        fruitless: dict[int, int] = {}  # by source, the pass that has given nothing since it began
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
                    row: StreamRow = read.result()
                    if fruitless.get(row.source, row.epoch) != row.epoch:
                        raise DatasetError(f"{self._name(row.source)}no clip can be read, such as {error}") from error
                    if row.number == 0:
                        fruitless[row.source] = row.epoch
                    self._report(row, error)
                    continue
                fruitless.pop(read.result().source, None)
                yield clip
        finally:
            for executor in (reader, pool):
                executor.shutdown(wait=False, cancel_futures=True)

    def _name(self, source: int) -> str:
        return f"{self.streams.mixture.names[source]}: " if self.streams.mixture is not None else ""

    def _report(self, broken: StreamRow, error: VideoDecodeError) -> None:
        if self.on_broken is None:
            raise error
        # Rows have no lasting numbers: the order of the shards changes with each pass.
        video, captions = broken.row["video"], broken.row["captions"]
        content = video["path"] if video["bytes"] is None else content_hash(video)
        key = (broken.source, content, captions_hash(captions))
        if key not in self._broken:
            self._broken.add(key)
            self.on_broken(broken.row["file_name"], str(error))

    def _decode(self, read: Future) -> dict[str, Any]:
        source, epoch, number, row, position = read.result()
        tensors = self.processor.video_processor(fetch_clip(row["video"]), **self.options)
        clip = {name: value[0] for name, value in tensors.items()}
        seed = seed_of(self.seed, epoch, number, source)
        clip |= {"captions": row["captions"], "file_name": row["file_name"], "seed": seed, "position": position}
        return clip if self.augmentation is None else self.augmentation(clip, torch.Generator().manual_seed(seed))


class StreamBatches:
    """A collator that passes on the position after a batch's last clip, under `stream_position`."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, Any]:
        # Plain lists: moving a batch to a device rebuilds tuples, which fails for named ones.
        return {**self.collate(clips), "stream_position": [list(source) for source in clips[-1]["position"]]}
