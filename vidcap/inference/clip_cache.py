"""The cache that fits a model: features where its backbone is frozen, decoded frames otherwise."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hub_card.exporter import backbone_name
from processing.cache.feature_cache import ClipCache, EncodesElsewhere, default_cache_folder
from processing.cache.upkeep import GB

from ..precision import faster_in_bf16
from .backends import fast_backbone, keep_freed_memory, probe_clip


def open_clip_cache(
    model: Any,
    processor: Any,
    *,
    folder: str | Path | None = None,
    workers: int | None = None,
    backend: str = "auto",
    limit: float | None = None,
) -> ClipCache:
    """Opens the part of the cache that belongs to this backbone and this way of reading clips.

    Args:
        model: The captioner, on the device that shall compute features.
        processor: Its processor.
        folder: Root of the cache; by default `$VIDCAP_CACHE` or `~/.cache/vidcap`.
        workers: Threads that decode and encode; by default one a core.
        backend: What computes features, see [`fast_backbone`]. Features of one serve the other.
        limit: GB that all of the cache may take; by default `$VIDCAP_CACHE_LIMIT`, or no limit.

    Raises:
        ValueError: If there is a back end but no features are kept, or the limit is no number above 0.
    """
    folder = folder or default_cache_folder()
    size = cache_limit(limit)
    if not keeps_features(model.config):
        if backend == "openvino":
            raise ValueError(
                f"{backend} computes features of a frozen backbone that sees each frame alone, and of this one pixels "
                "are kept: leave it out"
            )
        return ClipCache(folder, processor.video_processor, workers=workers, limit=size)
    workers = workers or os.cpu_count() or 1
    encode = feature_extractor(model, processor, workers=workers, backend=backend)
    # The precision is not among them: it depends on how busy the machine was, and either one serves.
    config = model.config
    settings = {
        "grid": config.feature_grid,
        "thumbnail": config.thumbnail_size,
        "colors": config.color_bins,
        "normalised": [list(config.image_mean), list(config.image_std)],
        "grayscale": config.grayscale_backbone,
        "backbone": _architecture(config.backbone_config) if config.backbone_config else None,
    }
    if config.backbone_config and config.backbone_config.model_type != "timm_backbone":  # which has them in its config
        settings["stages"] = config.backbone_stages
    return ClipCache(
        folder,
        processor.video_processor,
        encode=encode,
        backbone=model.model.encoder.backbone,
        settings=settings,
        workers=workers,
        limit=size,
        about={"backbone": backbone_name(config)},
    )


def cache_limit(limit: float | None = None) -> int | None:
    """Bytes that the cache may take: of `limit` GB, or of `$VIDCAP_CACHE_LIMIT`.

    Raises:
        ValueError: If that is not a number above 0.
    """
    if limit is not None:
        given: float | str = limit
        where = "the limit of the cache is "
    elif given := os.environ.get("VIDCAP_CACHE_LIMIT", ""):
        where = "VIDCAP_CACHE_LIMIT="
    else:
        return None
    try:
        size = float(given)
    except ValueError:
        size = math.nan
    if not (size > 0 and math.isfinite(size)):
        raise ValueError(f"{where}{given}: give a number of GB above 0, or none")
    return int(size * GB)


def feature_extractor(
    model: Any, processor: Any, *, workers: int, backend: str = "auto"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns a clip's pixels `(1, T, C, H, W)` into its features `(1, T, N, D)`, as fast as this machine can.

    Args:
        model: The captioner, on the device that shall compute.
        processor: Its processor.
        workers: Threads that will call it at the same time.
        backend: What computes, see [`fast_backbone`]; torch does so in bf16 where that is measured to be faster.
    """
    device = model.device
    if device.type == "cpu":
        keep_freed_memory()
    probe = probe_clip(model, processor, model.config.num_frames)
    backbone = fast_backbone(model.model.encoder.backbone, probe, backend, streams=workers)
    with torch.inference_mode():
        by_torch = backbone is model.model.encoder.backbone
        bf16 = by_torch and faster_in_bf16(lambda: backbone(probe), device)
    return _FeatureExtractor(backbone, device, bf16)


class _FeatureExtractor:
    """What [`feature_extractor`] returns."""

    def __init__(self, backbone: Any, device: torch.device, bf16: bool):
        self.backbone = backbone
        self.device = device
        self.bf16 = bf16

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.backbone(pixels.to(self.device)).cpu()

    def __reduce__(self) -> Any:
        return EncodesElsewhere, ()  # workers of a data loader read features; the network stays where it is


def _architecture(config: Any) -> dict[str, Any]:
    """What shapes a network's features, beside its weights. What loading or a new version adds to a config does not:
    a trained model shall find the features that it was trained on."""
    added = ("dtype", "transformers_version", "_name_or_path", "architectures")
    return {name: value for name, value in config.to_diff_dict().items() if name not in added}


def keeps_features(config: Any) -> bool:
    """Whether clips are kept as features: of a frozen backbone that sees each frame alone. What a clip encoder makes
    of a clip cannot be played backwards, or drawn from frame by frame, so that its clips are kept as pixels."""
    return config.freeze_backbone and not config.encodes_clips
