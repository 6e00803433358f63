"""Clips that a command names -> tensors, read a little ahead of what is made of them.

Memory does not grow with the number of clips. One that cannot be read is reported and left out; the others go on.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from processing import VideoDecodeError
from processing.support.progress import Progress

from .subtitles import CaptionedClip

Clip = dict[str, Any]  # tensors by name, without a batch axis


def readable_clips(
    results: Sequence[CaptionedClip],
    video_processor: Any,
    description: str,
    *,
    workers: int | None = None,
    batch_size: int = 1,
    encode: Callable[[Clip], Clip] | None = None,
) -> Iterator[Clip]:
    """Reads clips in threads, ahead of what is made of them; gives them in order, reports those that cannot be read,
    and notes reason or duration in `results`.

    Args:
        encode: Makes of each clip what is wanted of it, in the same threads: each computes on a core of its own, which
            takes less waiting for one another than sharing every operation out.
        workers: Clips read at the same time; by default one a core. Twice as many are kept waiting at most, or
            `batch_size` if that is more.
        batch_size: Clips that are taken at once: while something is made of these, the next ones are read.
    """
    workers = min(workers or os.cpu_count() or 1, len(results))
    threads = video_processor.decoding_threads if len(results) > 1 else 0  # all cores for a clip that is alone
    most = max(2 * workers, batch_size)
    ahead: deque[Future[Any]] = deque()
    waiting = iter(results)

    def read(source: Any) -> tuple[Clip, float]:
        clip, seconds = read_clip(source, video_processor, threads=threads)
        return clip if encode is None else encode(clip), seconds

    cores = torch.get_num_threads() if workers <= 1 else 1  # of each thread
    pool = ThreadPoolExecutor(max(1, workers), initializer=torch.set_num_threads, initargs=(cores,))
    with pool, Progress(description, len(results)) as progress:
        try:
            for result in results:
                for other in itertools.islice(waiting, most - len(ahead)):
                    ahead.append(pool.submit(read, other.source or other.file))
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


def read_clip(source: Any, video_processor: Any, *, threads: int | None = None) -> tuple[Clip, float]:
    """Reads a clip as the video processor does, and tells its duration, which a processor's output does not hold.

    Args:
        source: Path or URL, or whatever else `decode_video` takes.
        video_processor: [`VideoCaptionVideoProcessor`].
        threads: That decode it, 0 for one a core; by default the processor's `decoding_threads`.

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
