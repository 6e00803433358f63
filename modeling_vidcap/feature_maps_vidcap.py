"""What a backbone gives out -> maps `(frames, channels, height, width)`, whatever its family.

Image models run on each frame, clip encoders on whole clips. Both are `AutoModel` classes of transformers, whose
hidden states are maps already (CNNs, timm), or tokens: patches row by row, behind class and register tokens, if any.
Adding a family whose outputs are of these kinds takes no code here; one whose tokens lie otherwise takes a line in
`TIME_FASTEST` or a function beside [`clip_maps`].
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

TIME_FASTEST = ("timesformer",)  # clip encoders whose tokens go through the frames of one patch before the next patch
# Their last output is tokens, at least of some networks, and their hidden states are always maps.
MAPS_INSIDE = ("timm_wrapper", "dinov3_convnext")


def frame_maps(net: nn.Module, frames: torch.Tensor, config: "VideoCaptionConfig") -> list[torch.Tensor]:
    """Maps, each `(F, C_i, h_i, w_i)`, of frames `(F, 3, H, W)`."""
    if config.backbone_config is None:
        return list(net(frames))
    backbone: Any = config.backbone_config
    if backbone.model_type == "timm_backbone":
        return list(net(frames).feature_maps)
    stages = config.backbone_stages
    if stages is None and backbone.model_type in MAPS_INSIDE:
        stages = [-1]
    output = net(frames, output_hidden_states=stages is not None)
    if stages is None:
        states = [output.last_hidden_state]
    else:
        every = output.get("reshaped_hidden_states") or output.hidden_states
        states = [pick(every, stage) for stage in stages]
    return [state if state.ndim == 4 else tokens_to_maps(state, frames.shape[-2:], config) for state in states]


def clip_maps(net: nn.Module, clips: torch.Tensor, config: "VideoCaptionConfig") -> list[torch.Tensor]:
    """Maps, each `(B * T', C_i, h_i, w_i)`, of clips `(B, T, 3, H, W)`; T' = T / `config.frame_stride`."""
    config.check_frames(clips.shape[1])
    steps = clips.shape[1] // config.frame_stride
    backbone: Any = config.backbone_config
    if backbone is None:  # S3D: (B, C, T', h, w)
        return [net(clips.transpose(1, 2)).transpose(1, 2).flatten(0, 1)]
    stages = config.backbone_stages
    options = {"skip_predictor": True} if backbone.model_type == "vjepa2" else {}
    output = net(clips, output_hidden_states=stages is not None, **options)
    states = [output.last_hidden_state] if stages is None else [pick(output.hidden_states, each) for each in stages]
    height, width = patch_grid(clips.shape[-2:], config)
    maps = []
    for state in states:
        patches = state[:, state.shape[1] - steps * height * width :]  # (B, T' h w, C), class token dropped
        if backbone.model_type in TIME_FASTEST:
            patches = patches.unflatten(1, (height * width, steps)).transpose(1, 2).flatten(1, 2)
        maps.append(patches.unflatten(1, (steps, height, width)).flatten(0, 1).permute(0, 3, 1, 2))
    return maps


def pick(states: Any, stage: int) -> torch.Tensor:
    """The hidden state of a stage, counted as transformers does: 0 is what goes into the first block."""
    if not -len(states) <= stage < len(states):
        raise ValueError(f"`backbone_stages` {stage}: this backbone has {len(states)} of them, 0 to {len(states) - 1}")
    return states[stage]


def tokens_to_maps(tokens: torch.Tensor, size: torch.Size, config: "VideoCaptionConfig") -> torch.Tensor:
    """Tokens `(F, L, C)` of frames of `size` -> `(F, C, h, w)`, without what stands before the patches."""
    backbone: Any = config.backbone_config
    height, width = whole = patch_grid(size, config)
    while height * width > tokens.shape[1]:  # networks such as Swin merge four patches into one between their stages
        height, width = height // 2, width // 2
    if (height, width) != whole and height * width != tokens.shape[1]:
        raise ValueError(
            f"{backbone.model_type} makes {tokens.shape[1]} tokens of {whole[0]} x {whole[1]} patches: it is not "
            "known where in the frame they are"
        )
    patches = tokens[:, tokens.shape[1] - height * width :]
    return patches.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def patch_grid(size: torch.Size, config: "VideoCaptionConfig") -> tuple[int, int]:
    """Patches in a column and in a row of frames of `size` (height, width)."""
    backbone: Any = config.backbone_config
    patch = backbone.tubelet_size[1:] if backbone.model_type == "vivit" else getattr(backbone, "patch_size", None)
    if patch is None:
        raise ValueError(f"{backbone.model_type} makes tokens, and its config has no `patch_size` to lay them out by")
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    return size[0] // patch_height, size[1] // patch_width


def stages_of(net: nn.Module) -> list[nn.Module]:
    """The blocks that a backbone is a stack of, first to last: stages of a CNN, layers of a transformer."""
    for module in net.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            return list(module)
        named = dict(module.named_children())  # timm's networks and torchvision's
        if blocks := named.get("blocks") or named.get("stages"):
            return list(blocks.children())
        if "layer1" in named:
            return [named[name] for name in sorted(named) if name.startswith("layer")]
    children = list(net.children())
    return children if len(children) > 1 else list(children[0].children())


def train_last_stages(net: nn.Module, count: int) -> list[nn.Module]:
    """Freezes all of a backbone but its last `count` stages and what comes behind them.

    Returns:
        The modules that stay trained.

    Raises:
        ValueError: If it has fewer stages.
    """
    stages = stages_of(net)
    if count > len(stages):
        raise ValueError(f"`trained_backbone_stages` {count}: this backbone has {len(stages)} stages, take fewer")
    order = list(net.modules())  # a module stands ahead of its parts, and these ahead of the next module
    trained = order[order.index(stages[len(stages) - count]) :]
    net.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return trained
