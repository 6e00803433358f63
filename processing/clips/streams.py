"""A stream of rows -> clips as tensors, without end, in an order that a resumed run finds again.

Rows are read one after the other by one thread, and clips fetched (where they are files on the Hub) and decoded ahead
by several, a bounded number at a time, so that memory stays the same however long the stream is. Which clip comes when
depends on the seed alone, neither on threads nor on how long any of them takes. Gives up: reading several shards of
one rank at once.
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
from ..video_io_vidcap import VideoDecodeError
from .augmentation import ClipAugmentation
from .epochs import seed_of
from .hub_files import fetched
from .mixtures import MixedStreams, Mixture, Read
from .sources import DatasetError

STALLED = 600  # seconds without a clip, after which waiting for more is given up
AHEAD = 4  # clips a thread that are read and decoded before they are asked for


class StreamedClips(torch.utils.data.IterableDataset):
    """The rows of a stream as tensors, pass after pass; nothing is stored.

    Each clip says under `position` where reading goes on behind it, see [`MixedStreams`]. A pass of a source shows
    each of this rank's rows once. Augmentation draws by seed, pass, row and source.

    Args:
        rows: In the form of `processing.clips.rows`, shuffled by a fixed seed; or several such streams.
        processor: Decodes.
        num_frames: Frames to take of each clip; by default the processor's.
        workers: Threads that decode; by default one a core.
        on_broken: Called with file name and reason of each clip that cannot be read, the first time that it comes;
            it is left out each time. Without it the first one stops the run.
        augmentation: For training: applied to each clip.
        seed: Of what is drawn for each clip.
        mixture: Names and weights of several streams.

    Raises:
        DatasetError: While it is read: if a whole pass of a source holds no clip that can be read.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset | Sequence[datasets.IterableDataset],
        processor: Any,
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
        self.position: Sequence[Sequence[int]] = self.streams.start()  # where to begin
        self._broken: set[tuple[int, str, str]] = set()  # what has been reported

    def split(self, rank: int, world_size: int) -> None:
        """Keeps what is one rank's, see [`MixedStreams`]."""
        self.streams.split(rank, world_size)

    def one_pass(self) -> Iterator[dict[str, Any]]:
        """The clips of the first pass alone; with weights, until the first source comes round."""
        self.position = self.streams.start()
        return itertools.takewhile(lambda clip: all(place.epoch == 0 for place in clip["position"]), self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = ThreadPoolExecutor(1, thread_name_prefix="rows")
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decoder")
        rows, waiting = self.streams.read(self.position), deque[tuple[Future, Future]]()
        fruitless: dict[int, int] = {}  # by source the pass that has given nothing from its beginning on
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
                    found: Read = read.result()
                    if fruitless.get(found.source, found.epoch) != found.epoch:
                        raise DatasetError(
                            f"{self._name(found.source)}no clip can be read, such as {error}"
                        ) from error
                    if found.number == 0:
                        fruitless[found.source] = found.epoch
                    self._report(found, error)
                    continue
                fruitless.pop(read.result().source, None)
                yield clip
        finally:
            for executor in (reader, pool):
                executor.shutdown(wait=False, cancel_futures=True)

    def _name(self, source: int) -> str:
        return f"{self.streams.mixture.names[source]}: " if self.streams.mixture is not None else ""

    def _report(self, found: Read, error: VideoDecodeError) -> None:
        if self.on_broken is None:
            raise error
        # Rows have no numbers that stay theirs: shards come in another order in each pass.
        video = found.row["video"]
        content = video["path"] if video["bytes"] is None else content_hash(video)
        key = (found.source, content, captions_hash(found.row["captions"]))
        if key not in self._broken:
            self._broken.add(key)
            self.on_broken(found.row["file_name"], str(error))

    def _decode(self, read: Future) -> dict[str, Any]:
        found: Read = read.result()
        tensors = self.processor.video_processor(fetched(found.row["video"]), **self.options)
        clip = {name: value[0] for name, value in tensors.items()}
        seed = seed_of(self.seed, found.epoch, found.number, found.source)
        clip |= {"captions": found.row["captions"], "file_name": found.row["file_name"], "seed": seed}
        clip["position"] = found.position
        return clip if self.augmentation is None else self.augmentation(clip, torch.Generator().manual_seed(seed))


class StreamBatches:
    """A collator that hands on the position behind a batch's last clip, under `stream_position`."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, Any]:
        # Plain lists: what puts tensors on a device rebuilds tuples, and cannot rebuild those with names.
        return {**self.collate(clips), "stream_position": [list(place) for place in clips[-1]["position"]]}
