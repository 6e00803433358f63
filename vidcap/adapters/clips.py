"""Clips as a captioner of another family wants them, for `ClipDataset`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from processing import VideoDecodeError
from processing.feature_cache import Clip, ClipCache


class UncachedClips(ClipCache):
    """Reads clips anew each time: frames of the size of the clip would fill a disk, and these models take far longer
    than reading does.

    Args:
        video_processor: Reads them.
        workers: Threads that look whether clips can be read; four by default, since each holds a clip.
    """

    def __init__(self, video_processor: Any, *, workers: int = 4):
        self.video_processor = video_processor
        self.encode = None
        self.workers = workers
        self.limit = None

    def recognise(self, clips: Sequence[Clip], captions: Sequence[Sequence[str]]) -> int:
        return 0

    def remember(self, clips: Sequence[Clip], captions: Sequence[Sequence[str]]) -> None:
        """Nothing: a clip whose file is gone cannot be captioned here."""

    def _open(self) -> Path:
        return Path()  # nothing is kept, so that there is no folder to choose

    def load(self, clip: Clip) -> dict[str, torch.Tensor]:
        """The clip's frames `(T, 3, H, W)` as uint8, mask and times `(T,)`.

        Raises:
            VideoDecodeError: If it cannot be read.
        """
        return {name: value[0] for name, value in self.video_processor(clip, return_tensors="pt").items()}

    def fill(self, clips: Sequence[Clip], description: str) -> dict[int, str]:
        """Reads every clip once; returns why clips cannot be read, by their index."""

        def try_reading(clip: Clip) -> str | None:
            try:
                self.load(clip)
            except VideoDecodeError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(self.workers) as pool:
            results = list(
                tqdm(pool.map(try_reading, clips), description, total=len(clips), unit="clip", disable=None)
            )
        return {index: reason for index, reason in enumerate(results) if reason is not None}
