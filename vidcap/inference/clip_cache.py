"""The cache for a model: features if its backbone is frozen, decoded frames otherwise."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hub_card.exporter import backbone_name
from processing.cache.feature_cache import ClipCache, EncodesElsewhere, default_cache_folder
from processing.cache.upkeep import GB

from ..precision import faster_in_bf16
from .backends import fast_backbone, keep_freed_memory, probe_clip

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from modeling_vidcap import VideoCaptionConfig
    from modeling_vidcap.backbones_vidcap import VideoBackbone
    from processing import VideoCaptionProcessor

    from .captioning import Model


def open_clip_cache(
    model: "Model",
    processor: "VideoCaptionProcessor",
    *,
    folder: str | Path | None = None,
    workers: int | None = None,
    backend: str = "auto",
    limit: float | None = None,
) -> ClipCache:
    """Open the part of the cache for this backbone and these options of reading.

    Args:
        model: The captioner, on the device for computing features.
        processor: Its processor.
        folder: Root of the cache; default: `$VIDCAP_CACHE`, or else `~/.cache/vidcap`.
        workers: Threads that decode and encode; default: one per core.
        backend: Computes features, see [`fast_backbone`]; they are interchangeable between backends.
        limit: Maximum size of the whole cache in GB; default: `$VIDCAP_CACHE_LIMIT`, or else no limit.

    Raises:
        ValueError: If a backend is set but the cache keeps pixels, or the limit is not a number above 0.
    """
    folder = folder or default_cache_folder()
    size = cache_limit(limit)
    if not keeps_features(model.config):
        if backend == "openvino":
            raise ValueError(
                f"`backend` {backend} computes features of a frozen backbone that sees each frame alone, but this "
                "model's cache keeps pixels: leave it out"
            )
        return ClipCache(folder, processor.video_processor, workers=workers, limit=size)
    workers = workers or os.cpu_count() or 1
    encode = feature_extractor(model, processor, workers=workers, backend=backend)
    # Without the precision, which depends on the load of the machine; features of either one serve.
    config: Any = model.config
    settings = {
        "grid": config.feature_grid,
        "thumbnail": config.thumbnail_size,
        "colors": config.color_bins,
        "normalised": [list(config.image_mean), list(config.image_std)],
        "grayscale": config.grayscale_backbone,
        "backbone": _architecture(config.backbone_config) if config.backbone_config else None,
    }
    if config.backbone_config and config.backbone_config.model_type != "timm_backbone":  # whose own config has them
        settings["stages"] = config.backbone_stages
    return ClipCache(
        folder,
        processor.video_processor,
        encode=encode,
        backbone=model.backbone,
        settings=settings,
        workers=workers,
        limit=size,
        about={"backbone": backbone_name(config)},
    )


def cache_limit(limit: float | None = None) -> int | None:
    """Maximum size of the cache in bytes: `limit` GB, or else `$VIDCAP_CACHE_LIMIT`.

    Raises:
        ValueError: If that is not a number above 0.
    """
    if limit is not None:
        value: float | str = limit
        name = "the limit of the cache"
    elif value := os.environ.get("VIDCAP_CACHE_LIMIT", ""):
        name = "VIDCAP_CACHE_LIMIT"
    else:
        return None
    try:
        size = float(value)
    except ValueError:
        size = math.nan
    if not (size > 0 and math.isfinite(size)):
        raise ValueError(f"{name} must be a number of GB above 0, got {value}")
    return int(size * GB)


def feature_extractor(
    model: "Model", processor: "VideoCaptionProcessor", *, workers: int, backend: str = "auto"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A fast function from a clip's pixels `(1, T, C, H, W)` to its features `(1, T, N, D)`.

    Args:
        model: The captioner, on the device for computing.
        processor: Its processor.
        workers: Number of threads that will call it concurrently.
        backend: See [`fast_backbone`]; torch computes in bf16 where that is measured to be faster.
    """
    device = model.device
    if device.type == "cpu":
        keep_freed_memory()
    probe = probe_clip(model, processor, model.config.num_frames)
    backbone = fast_backbone(model.backbone, probe, backend, streams=workers)
    with torch.inference_mode():
        by_torch = backbone is model.backbone
        bf16 = by_torch and faster_in_bf16(lambda: backbone(probe), device)
    return _FeatureExtractor(backbone, device, bf16)


class _FeatureExtractor:
    """The result of [`feature_extractor`]."""

    def __init__(self, backbone: "VideoBackbone", device: torch.device, bf16: bool):
        self.backbone = backbone
        self.device = device
        self.bf16 = bf16

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.backbone(pixels.to(self.device)).cpu()

    def __reduce__(self) -> Any:
        return EncodesElsewhere, ()  # workers of a data loader read features, and do not need the network


def _architecture(config: "PreTrainedConfig") -> dict[str, Any]:
    """The fields of a config that determine a network's features, beside its weights.

    Fields that loading or a new version adds are left out, so that a trained model finds the features that it was
    trained on.
    """
    added = ("dtype", "transformers_version", "_name_or_path", "architectures")
    return {name: value for name, value in config.to_diff_dict().items() if name not in added}


def keeps_features(config: "VideoCaptionConfig") -> bool:
    """Whether clips are kept as features, by a frozen backbone that sees each frame alone.

    Features of a clip encoder cannot be played backwards or sampled by frame, so that its clips are kept as pixels.
    """
    return config.freeze_backbone and not config.encodes_clips
