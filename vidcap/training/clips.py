"""The clips of a run as its Trainer takes them: decoded, augmented, kept or streamed."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

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
    """What `--augment` and `--direction_words` ask for; a `ValueError` if they do not go together."""
    words = data.direction_words.split(",") if data.direction_words else ()
    augmentation = ClipAugmentation.from_parts(data.augment, direction_words=words)
    if words and not augmentation.flip:
        raise ValueError("--direction_words keep clips from being mirrored: add flip to --augment, or leave them out")
    return augmentation


def read_near_misses(data: DataArguments, config: Any, captions: Sequence[Sequence[str]]) -> NearMisses | None:
    """What `--near_misses` asks for, of the captions of each clip; a `ValueError` if no loss would use it."""
    if data.near_misses is None:
        return None
    if not config.contrastive_weight:
        raise ValueError("--near_misses are for the contrastive loss: set --contrastive_weight above 0")
    return NearMisses(captions, data.near_misses.split(","))


@dataclass
class FrameDraw:
    """How the frames of a training clip are chosen and changed.

    Args:
        pool: Frames to keep of it.
        augmentation: Draws as many of them as the model sees, and changes them.
    """

    pool: int
    augmentation: ClipAugmentation

    @classmethod
    def for_model(
        cls, data: DataArguments, augmentation: ClipAugmentation, config: Any, num_frames: int
    ) -> "FrameDraw":
        """What the arguments ask for, of a model that sees `num_frames` frames of a clip.

        Raises:
            ValueError: If the pool is too small, or pixels are to be changed where features are kept.
        """
        if data.feature_backend == "openvino" and not keeps_features(config):
            why = "sees clips" if config.encodes_clips else "is trained"
            raise ValueError(
                f"--feature_backend {data.feature_backend} is for a frozen backbone that sees each frame alone, and "
                f"this one {why}: leave it out"
            )
        if keeps_features(config) and not data.streaming:
            augmentation.check_features()
        pool = data.frame_pool or num_frames
        if pool < num_frames:
            raise ValueError(
                f"--frame_pool {pool}: {num_frames} frames are drawn of it; give as many or more, or lower "
                "--num_frames"
            )
        if pool > num_frames:
            augmentation = dataclasses.replace(augmentation, num_frames=num_frames)
        return cls(pool, augmentation)


@dataclass
class TrainingClips:
    """Opens the splits of a run. Its processes, `world_size` of them, decode a share of the clips each.

    Attributes:
        skipped: File name and reason of each clip that could not be read and was left out (`--skip_broken_clips`).
    """

    data: DataArguments
    sources: TrainingData
    cache: ClipCache
    rank: int = 0
    world_size: int = 1
    skipped: list[dict[str, str]] = field(default_factory=list)

    def training(self, processor: Any, frames: FrameDraw, *, seed: int) -> ClipDataset | StreamedClips:
        """Those to train on; `seed` is that of what is drawn of a stream."""
        if not self.data.streaming:
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
        """Those of the test split, which one process alone may decode: it is scored when the others have gone."""
        return ClipDataset(rows, self.cache).prepare("preparing test clips", on_broken=self._on_broken)

    @property
    def _together(self) -> dict[str, Any]:
        return {"rank": self.rank, "world_size": self.world_size, "gather": from_each_rank}

    @property
    def _on_broken(self) -> Callable[[str, str], None] | None:
        return self._skip if self.data.skip_broken_clips else None

    def _skip(self, file_name: str, reason: str) -> None:
        self.skipped.append({"file_name": file_name, "reason": reason})
