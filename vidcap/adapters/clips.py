"""Clips for a captioner of another family, for `ClipDataset`."""

from collections.abc import Sequence
from pathlib import Path

import torch

from processing import VideoCaptionVideoProcessor, VideoDecodeError
from processing.cache.feature_cache import Clip, ClipCache, FillResult, in_threads


class UncachedClips(ClipCache):
    """A cache that keeps nothing and reads clips anew each time.

    Frames of a clip's own size would fill a disk, and these models take far longer than reading.

    Args:
        video_processor: Reads the clips.
        workers: Threads that find unreadable clips; few, since each holds a clip.
    """

    def __init__(self, video_processor: VideoCaptionVideoProcessor, *, workers: int = 4):
        self.video_processor = video_processor
        self.encode = None
        self.workers = workers
        self.limit = None

    def recognise(self, paths: Sequence[str | None], captions: Sequence[Sequence[str]]) -> int:
        return 0

    def remember(self, paths: Sequence[str | None], captions: Sequence[Sequence[str]]) -> None:
        """Nothing: a clip whose file is missing cannot be captioned here."""

    def _open(self) -> Path:
        return Path()  # no folder is needed

    def load(self, clip: Clip) -> dict[str, torch.Tensor]:
        """The clip's frames `(T, 3, H, W)` as uint8, mask and times `(T,)`.

        Raises:
            VideoDecodeError: If it cannot be read.
        """
        return {name: value[0] for name, value in self.video_processor(clip, return_tensors="pt").items()}

    def fill(self, clips: Sequence[Clip], description: str, indices: Sequence[int] | None = None) -> FillResult:
        """Read every clip once to find unreadable ones; none is stored."""
        indices = range(len(clips)) if indices is None else indices

        def try_reading(index: int) -> str | None:
            try:
                self.load(clips[index])
            except VideoDecodeError as error:
                return str(error)
            return None

        reasons = in_threads(try_reading, indices, description, self.workers)
        return FillResult({}, {i: reason for i, reason in zip(indices, reasons, strict=True) if reason is not None})
