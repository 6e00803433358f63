"""Clips of a run: decoded, augmented, cached or streamed."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from modeling_vidcap import VideoCaptionConfig
from processing import VideoCaptionProcessor
from processing.cache.feature_cache import ClipCache
from processing.clips.augmentation import ClipAugmentation
from processing.clips.clip_dataset import ClipDataset
from processing.clips.near_misses import NearMisses
from processing.clips.streams import StreamedClips

from ..inference.clip_cache import keeps_features
from ..ranks import from_each_rank
from .arguments.data_arguments import DataArguments
from .data import TrainingData


def read_augmentation(data: DataArguments) -> ClipAugmentation:
    """The augmentation of `--augment` and `--direction_words`; a `ValueError` if they do not go together."""
    words = data.direction_words.split(",") if data.direction_words else ()
    augmentation = ClipAugmentation.from_parts(data.augment, direction_words=words)
    if words and not augmentation.flip:
        raise ValueError("--direction_words keeps clips from being mirrored; add flip to --augment, or leave it out")
    return augmentation


def read_near_misses(
    data: DataArguments, config: VideoCaptionConfig, captions: Sequence[Sequence[str]]
) -> NearMisses | None:
    """The near misses of `--near_misses`; a `ValueError` if no loss uses them."""
    if data.near_misses is None:
        return None
    if not config.contrastive_weight:
        raise ValueError("--near_misses needs the contrastive loss; set --contrastive_weight above 0")
    return NearMisses(captions, data.near_misses.split(","))


@dataclass
class FrameDraw:
    """Selection and augmentation of the frames of training clips.

    Args:
        pool: Frames to keep per clip.
        augmentation: Draws as many of them as the model sees, and changes them.
    """

    pool: int
    augmentation: ClipAugmentation

    @classmethod
    def for_model(
        cls, data: DataArguments, augmentation: ClipAugmentation, config: VideoCaptionConfig, num_frames: int
    ) -> "FrameDraw":
        """Follow the options, for a model that sees `num_frames` frames per clip.

        Raises:
            ValueError: If the pool is too small, or pixels are to be changed although features are cached.
        """
        if data.feature_backend == "openvino" and not keeps_features(config):
            reason = "sees whole clips" if config.encodes_clips else "is trained"
            raise ValueError(
                f"--feature_backend {data.feature_backend} needs a frozen backbone that sees single frames, but this "
                f"one {reason}; leave it out"
            )
        if keeps_features(config) and not data.streaming:
            augmentation.check_features()
        pool = data.frame_pool or num_frames
        if pool < num_frames:
            raise ValueError(
                f"--frame_pool {pool} must be at least the {num_frames} frames that are drawn from it; raise it, or "
                "lower --num_frames"
            )
        if pool > num_frames:
            augmentation = dataclasses.replace(augmentation, num_frames=num_frames)
        return cls(pool, augmentation)


@dataclass
class TrainingClips:
    """The splits of a run; each process decodes its share of the clips.

    Attributes:
        skipped: File name and reason of each clip that was left out as unreadable (`--skip_broken_clips`).
    """

    data: DataArguments
    sources: TrainingData
    cache: ClipCache
    rank: int = 0
    world_size: int = 1
    skipped: list[dict[str, str]] = field(default_factory=list)

    def training(
        self, processor: VideoCaptionProcessor, frames: FrameDraw, *, seed: int
    ) -> ClipDataset | StreamedClips:
        """Clips to train on; `seed` is used for drawing from a stream."""
        if isinstance(self.sources.train, datasets.Dataset):
            cache = self.cache.with_frames(frames.pool)
            clips = ClipDataset(
                self.sources.train, cache, augmentation=frames.augmentation, mixture=self.sources.mixture
            )
            return clips.prepare("preparing training clips", on_broken=self._on_broken, **self._together)
        return StreamedClips(
            self.sources.train,
            processor,
            num_frames=frames.pool,
            workers=self.data.decoding_workers,
            on_broken=self._on_broken,
            augmentation=frames.augmentation,
            seed=seed,
            mixture=self.sources.mixture,
        )

    def validation(self) -> ClipDataset:
        clips = ClipDataset(self.sources.validation, self.cache)
        return clips.prepare("preparing validation clips", on_broken=self._on_broken, **self._together)

    def test(self, rows: datasets.Dataset) -> ClipDataset:
        """Clips of the test split, decoded by one process alone."""
        return ClipDataset(rows, self.cache).prepare("preparing test clips", on_broken=self._on_broken)

    @property
    def _together(self) -> dict[str, Any]:
        return {"rank": self.rank, "world_size": self.world_size, "gather": from_each_rank}

    @property
    def _on_broken(self) -> Callable[[str, str], None] | None:
        return self._skip if self.data.skip_broken_clips else None

    def _skip(self, file_name: str, reason: str) -> None:
        self.skipped.append({"file_name": file_name, "reason": reason})
