"""The cache that fits a model: features where its backbone is frozen, decoded frames otherwise."""

import copy
import ctypes
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling_vidcap.precision import faster_in_bf16
from processing.feature_cache import ClipCache, default_cache_folder

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers the options of mallopt


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
    if not keeps_features(model.config):
        return ClipCache(folder, processor.video_processor, workers=workers)
    device = model.device
    if device.type == "cpu":
        keep_freed_memory()
    size = processor.video_processor.size
    shape = (1, model.config.num_frames, 3, size["height"], size["width"])
    probe = torch.linspace(-1, 1, math.prod(shape), device=device).view(shape)
    backbone = for_inference(model.model.encoder.backbone, probe)
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
        folder,
        processor.video_processor,
        encode=encode,
        backbone=model.model.encoder.backbone,
        settings=settings,
        workers=workers,
    )


def keeps_features(config: Any) -> bool:
    """Whether clips are kept as features: of a frozen backbone that sees each frame alone. What a clip encoder makes
    of a clip cannot be played backwards, or drawn from frame by frame, so that its clips are kept as pixels."""
    return config.freeze_backbone and not config.encodes_clips


@torch.no_grad()
def for_inference(backbone: nn.Module, probe: torch.Tensor) -> nn.Module:
    """A copy that computes the same features faster, but cannot be saved or trained.

    Its weights are laid out channels last (twice as fast on CPU). Each batch norm that stands behind a convolution is
    folded into it, unless the features of `probe`, pixels `(1, T, C, H, W)`, are others then: in some networks what
    stands behind a convolution is not what its output goes to.
    """
    plain = copy.deepcopy(backbone).to(memory_format=torch.channels_last).eval()
    folded = copy.deepcopy(plain)
    for parent in list(folded.modules()):
        for (before, convolution), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm's norms hold what is behind them
    features = plain(probe)
    return folded if (folded(probe) - features).abs().max() <= 1e-3 * features.abs().max() else plain


def keep_freed_memory() -> None:
    """Makes the C library reuse large blocks of memory rather than return them to the system, which would have to
    clear them anew for every activation (a third of the time on CPU). Only glibc knows how; others are left alone."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)
