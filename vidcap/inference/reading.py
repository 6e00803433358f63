"""Named clips -> tensors, read a little ahead of their use.

Guarantees: memory does not grow with the number of clips; an unreadable one is reported and left out.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Union

import torch

from processing import VideoDecodeError
from processing.support.progress import Progress

from ..captioner import Clip
from .subtitles import CaptionedClip

if TYPE_CHECKING:
    from processing import VideoCaptionVideoProcessor

    from ..light.processor import LightVideoProcessor

VideoProcessor = Union["VideoCaptionVideoProcessor", "LightVideoProcessor"]


def readable_clips(
    results: Sequence[CaptionedClip],
    video_processor: VideoProcessor,
    description: str,
    *,
    workers: int | None = None,
    batch_size: int = 1,
    encode: Callable[[Clip], Clip] | None = None,
) -> Iterator[Clip]:
    """Read clips in threads ahead of their use, and return them in order.

    Unreadable clips are reported and left out. Error or duration are stored in `results`.

    Args:
        encode: Applied to each clip in the same threads: one core per thread is faster than sharing every operation.
        workers: Clips read concurrently; default: one per core. At most twice as many, or `batch_size` if larger, are
            kept waiting.
        batch_size: Clips taken at once, while the next ones are read.
    """
    workers = min(workers or os.cpu_count() or 1, len(results))
    threads = video_processor.decoding_threads if len(results) > 1 else 0  # all cores for a single clip
    capacity = max(2 * workers, batch_size)
    ahead: deque[Future[Any]] = deque()
    waiting = iter(results)

    def read(source: object) -> tuple[Clip, float]:
        clip, seconds = read_clip(source, video_processor, threads=threads)
        return clip if encode is None else encode(clip), seconds

    cores = torch.get_num_threads() if workers <= 1 else 1  # per thread
    pool = ThreadPoolExecutor(max(1, workers), initializer=torch.set_num_threads, initargs=(cores,))
    with pool, Progress(description, len(results)) as progress:
        try:
            for result in results:
                for other in itertools.islice(waiting, capacity - len(ahead)):
                    ahead.append(pool.submit(read, other.file if other.source is None else other.source))
                try:
                    item, result.seconds = ahead.popleft().result()
                except VideoDecodeError as error:
                    result.error = error.reason
                    progress.write(f"vidcap: error: {error}")
                else:
                    yield item
                progress.update()
        finally:
            pool.shutdown(cancel_futures=True)


def read_clip(source: object, video_processor: VideoProcessor, *, threads: int | None = None) -> tuple[Clip, float]:
    """Read a clip as the video processor does, with its duration, which a processor's output lacks.

    Args:
        source: Path, URL, or any other source for `decode_video`.
        video_processor: Reads it.
        threads: Decoding threads, 0 for one per core; default: the processor's `decoding_threads`.

    Returns:
        `pixel_values_videos` `(T, 3, H, W)` as uint8, which the collator normalises, `video_mask` and `video_times`
        `(T,)`; and the duration in seconds.

    Raises:
        VideoDecodeError: If it cannot be read.
    """
    clip = video_processor.decode_clip(source, decoding_threads=threads)
    pixels = video_processor.centre(clip)
    item = {"pixel_values_videos": pixels, "video_mask": clip.mask.long(), "video_times": clip.times}
    return item, clip.duration
