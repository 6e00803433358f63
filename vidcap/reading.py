"""Clips that a command names -> tensors, read a little ahead of what is made of them.

Memory does not grow with the number of clips. One that cannot be read is reported and left out; the others go on.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from processing import VideoDecodeError
from processing.progress import Progress

from .subtitles import CaptionedClip


def readable_clips(
    results: Sequence[CaptionedClip],
    video_processor: Any,
    description: str,
    *,
    workers: int | None = None,
    batch_size: int = 1,
) -> Iterator[dict[str, Any]]:
    """Reads clips in threads, ahead of what is made of them; gives them in order, reports those that cannot be read,
    and notes reason or duration in `results`.

    Args:
        workers: Clips read at the same time; by default one a core. Twice as many are kept waiting at most, or
            `batch_size` if that is more.
        batch_size: Clips that are taken at once: while something is made of these, the next ones are read.
    """
    workers = min(workers or os.cpu_count() or 1, len(results))
    threads = video_processor.decoding_threads if len(results) > 1 else 0  # all cores for a clip that is alone
    most = max(2 * workers, batch_size)
    ahead: deque[Future[Any]] = deque()
    waiting = iter(results)
    with ThreadPoolExecutor(max(1, workers)) as pool, Progress(description, len(results)) as progress:
        try:
            for result in results:
                for other in itertools.islice(waiting, most - len(ahead)):
                    ahead.append(pool.submit(read_clip, other.source or other.file, video_processor, threads=threads))
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


def read_clip(source: Any, video_processor: Any, *, threads: int | None = None) -> tuple[dict[str, Any], float]:
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
