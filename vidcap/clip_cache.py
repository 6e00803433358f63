"""The cache that fits a model: features where its backbone is frozen, decoded frames otherwise."""

import copy
from pathlib import Path
from typing import Any

import torch

from modeling_vidcap.precision import faster_in_bf16
from processing.feature_cache import ClipCache, default_cache_folder


def open_clip_cache(
    model: Any, processor: Any, *, folder: str | Path | None = None, workers: int | None = None
) -> ClipCache:
    """Opens the part of the cache that belongs to this backbone and this way of reading clips.

    Args:
        model: The captioner, on the device that shall compute features.
        processor: Its processor.
        folder: Root of the cache; by default `$VIDCAP_CACHE` or `~/.cache/vidcap`.
        workers: Threads that decode and encode; by default one a core.
    """
    folder = folder or default_cache_folder()
    if not model.config.freeze_backbone:
        return ClipCache(folder, processor.video_processor, workers=workers)
    # A copy, since weights laid out channels last (twice as fast on CPU) cannot be saved.
    device = model.device
    backbone = copy.deepcopy(model.model.encoder.backbone).to(memory_format=torch.channels_last).eval()
    size = processor.video_processor.size
    probe = torch.zeros(1, model.config.num_frames, 3, size["height"], size["width"], device=device)
    with torch.inference_mode():
        bf16 = faster_in_bf16(lambda: backbone(probe), device)

    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:  # (1, T, C, H, W) -> (1, T, N, D)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return backbone(pixels.to(device)).cpu()

    # The precision is not among them: it depends on how busy the machine was, and either one serves.
    config = model.config
    settings = {
        "grid": config.feature_grid,
        "thumbnail": config.thumbnail_size,
        "colors": config.color_bins,
        "grayscale": config.grayscale_backbone,
        "backbone": config.backbone_config.to_diff_dict() if config.backbone_config else None,
    }
    return ClipCache(
        folder, processor.video_processor, encode=encode, backbone=backbone, settings=settings, workers=workers
    )
