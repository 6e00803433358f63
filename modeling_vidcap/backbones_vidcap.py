"""Frames -> features, by an image backbone or a clip encoder.

`(B, T, C, H, W)` pixels become `(B, T', N, D)` features: the map of each output stage is averaged to a grid of N
cells, and the stages' channels are concatenated, optionally with a thumbnail and a colour histogram of the cell.

An image backbone sees each frame alone (T' = T), so that features of a frozen one can be stored per clip and played
backwards. A clip encoder sees all frames, and joins `frame_stride` of them into one (T' = T / `frame_stride`).
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks_vidcap import FreezableModule
from .fused_vidcap import FusedBackbone

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig


FINE_LEVELS = 16  # per primary colour, in which pixels are counted for a histogram


class FrameCNN(nn.Module):
    """A small CNN to train from scratch: 4 x 4 patches, then stages of one residual convolution at half the size.

    Group norm has no running statistics, so that a frame's features depend on that frame alone, in training too.
    """

    def __init__(self, hidden_sizes: list[int] | tuple[int, ...], num_channels: int = 3):
        super().__init__()
        pairs = zip(hidden_sizes, hidden_sizes[1:], strict=False)
        self.downs = nn.ModuleList(
            [
                nn.Conv2d(num_channels, hidden_sizes[0], 4, stride=4),
                *(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs),
            ]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, size) for size in hidden_sizes)
        self.residuals = nn.ModuleList(nn.Conv2d(size, size, 3, padding=1) for size in hidden_sizes)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        maps = pixel_values
        for down, norm, residual in zip(self.downs, self.norms, self.residuals, strict=True):
            maps = down(maps)
            maps = maps + residual(F.gelu(norm(maps)))
        return (maps,)


class VideoBackbone(FreezableModule, nn.Module):
    """The configured backbone, whose frozen parts stay in evaluation mode and take no gradient.

    Args:
        config: Config of the captioner.
        network: Replaces the network that the config names.
    """

    def __init__(self, config: "VideoCaptionConfig", network: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.grid = config.feature_grid
        self.frozen = config.freeze_backbone
        self.net = build_network(config) if network is None else network
        self._fused = FusedBackbone()
        self._trained = self.freeze()

    def freeze(self) -> list[nn.Module]:
        """Stop the gradient of the frozen parts, and return the trained modules."""
        if self.frozen:
            self.requires_grad_(False)
            return []
        if self.config.trained_backbone_stages is None:
            return [self.net]
        return train_last_stages(self.net, self.config.trained_backbone_stages)

    def train(self, mode: bool = True) -> "VideoBackbone":
        super().train(False)
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """`(B, T, C, H, W)` normalised pixels -> `(B, T', N, D)`, N = `feature_grid` squared, row by row."""
        batch = pixel_values_videos.shape[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            frames = pixel_values_videos.flatten(0, 1)
            inputs = to_grayscale(frames) if self.config.grayscale_backbone else frames
            # Channels last is twice as fast on CPUs, and also suits GPUs.
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            maps = self.maps(inputs.unflatten(0, (batch, -1)) if self.config.encodes_clips else inputs)
            parts = [F.adaptive_avg_pool2d(map_, self.grid) for map_ in maps]  # each (B*T', D_i, g, g)
            parts += [self._per_step(part) for part in self._pixel_features(self._unnormalised(frames))]
            cells = torch.cat(parts, dim=1)
        return cells.flatten(2).transpose(1, 2).unflatten(0, (batch, -1))  # (B, T', N, D)

    def maps(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """The network's maps `(B*T', D_i, h_i, w_i)` of frames `(B*T, 3, H, W)`, or of clips `(B, T, 3, H, W)`."""
        if self.config.encodes_clips:
            return clip_maps(self.net, frames, self.config)
        return self._fused.maps(self.net, frames, partial(frame_maps, config=self.config))

    def _unnormalised(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(B*T, 3, H, W)` from -1 (black) to 1 (white), whatever the backbone's normalisation."""
        mean, std = self.config.image_mean, self.config.image_std
        if set(mean) | set(std) == {0.5}:
            return frames
        return (frames * frames.new_tensor(std).view(3, 1, 1) + frames.new_tensor(mean).view(3, 1, 1)) * 2 - 1

    def _pixel_features(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """The configured ones of thumbnail `(B*T, 3 k k, g, g)` and histogram `(B*T, bins^3, g, g)`.

        Args:
            frames: From -1 to 1.
        """
        parts = []
        if size := self.config.thumbnail_size:
            thumbnail = F.adaptive_avg_pool2d(frames, self.grid * size)
            parts.append(F.pixel_unshuffle(thumbnail, size))
        if self.config.color_bins:
            parts.append(color_histogram(frames, self.grid, self.config.color_bins))
        return parts

    def _per_step(self, part: torch.Tensor) -> torch.Tensor:
        """The mean over the frames that a clip encoder joins."""
        stride = self.config.frame_stride
        return part if stride == 1 else part.unflatten(0, (-1, stride)).mean(dim=1)


def build_network(config: "VideoCaptionConfig") -> nn.Module:
    """The network inside a [`VideoBackbone`], with random weights."""
    backbone: Any = config.backbone_config
    if backbone is None:
        if config.own_backbone == "cnn":
            return FrameCNN(config.cnn_hidden_sizes)
        from torchvision.models.video import s3d

        # Its own norms adapt too slowly (momentum .001) for a short training.
        return s3d(norm_layer=nn.BatchNorm3d).features
    from transformers import AutoBackbone, AutoModel

    if backbone.model_type == "timm_backbone":
        return AutoBackbone.from_config(backbone, trust_remote_code=False)
    net = AutoModel.from_config(backbone, trust_remote_code=False)
    if backbone.model_type == "vjepa2":
        net.predictor = None  # predicts hidden patches, which are not needed here
    return net


def to_grayscale(frames: torch.Tensor) -> torch.Tensor:
    """Frames `(F, 3, H, W)` without colour but with three channels, by the luma of ITU-R BT.601 (as torchvision's)."""
    red, green, blue = frames.unbind(dim=-3)
    luma = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return luma.unsqueeze(-3).expand(frames.shape)


def color_histogram(frames: torch.Tensor, grid: int, bins: int) -> torch.Tensor:
    """Colour histogram of each cell: pixels `(F, 3, H, W)` from -1 to 1 -> shares `(F, bins^3, grid, grid)`.

    A pixel counts towards the neighbouring levels of red, green and blue by its distance to them, so that the
    histogram changes smoothly. Pixels are first counted in `FINE_LEVELS` levels, which makes this cheap. Up to
    `grid` - 1 rows and columns at the frame's end are ignored.
    """
    height, width = frames.shape[-2] // grid, frames.shape[-1] // grid
    half = (FINE_LEVELS - 1) / 2
    levels = frames[..., : height * grid, : width * grid].float() * half + half
    red, green, blue = levels.round_().clamp_(0, FINE_LEVELS - 1).unbind(dim=1)  # each (F, H, W)
    colors = ((red * FINE_LEVELS + green) * FINE_LEVELS + blue).long()
    cells = colors.unflatten(-2, (grid, height)).unflatten(-1, (grid, width)).transpose(2, 3).flatten(3).flatten(0, 2)
    counts = torch.zeros(cells.shape[0], FINE_LEVELS**3, device=frames.device)
    counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))  # (F*g*g, fine^3)

    fine = torch.linspace(0, bins - 1, FINE_LEVELS, device=frames.device)
    weights = (1 - (fine[:, None] - torch.arange(bins, device=frames.device)).abs()).clamp(min=0)  # (fine, bins)
    shares = counts.unflatten(1, (FINE_LEVELS,) * 3) / (height * width)
    for _ in range(3):  # blue, green and red, each the last axis in its turn
        shares = (shares @ weights).movedim(-1, 1)
    histogram = shares.flatten(1)  # (F*g*g, bins^3)
    return histogram.unflatten(0, (-1, grid, grid)).permute(0, 3, 1, 2).to(frames.dtype)


TIME_FASTEST = ("timesformer",)  # clip encoders that order tokens by patch, then by frame
# Backbones whose last output may be tokens, but whose hidden states are always maps.
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
        hidden_states = output.get("reshaped_hidden_states") or output.hidden_states
        states = [hidden_state_of(hidden_states, stage) for stage in stages]
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
    if stages is None:
        states = [output.last_hidden_state]
    else:
        states = [hidden_state_of(output.hidden_states, stage) for stage in stages]
    height, width = patch_grid(clips.shape[-2:], config)
    maps = []
    for state in states:
        patches = state[:, state.shape[1] - steps * height * width :]  # (B, T' h w, C), without the class token
        if backbone.model_type in TIME_FASTEST:
            patches = patches.unflatten(1, (height * width, steps)).transpose(1, 2).flatten(1, 2)
        maps.append(patches.unflatten(1, (steps, height, width)).flatten(0, 1).permute(0, 3, 1, 2))
    return maps


def hidden_state_of(hidden_states: Sequence[torch.Tensor], stage: int) -> torch.Tensor:
    """The hidden state of a stage, counted as in transformers: 0 is the input of the first block."""
    if not -len(hidden_states) <= stage < len(hidden_states):
        raise ValueError(f"`backbone_stages` of this backbone are 0 to {len(hidden_states) - 1}, got {stage}")
    return hidden_states[stage]


def tokens_to_maps(tokens: torch.Tensor, size: torch.Size, config: "VideoCaptionConfig") -> torch.Tensor:
    """Tokens `(F, L, C)` of frames of `size` -> `(F, C, h, w)`, without those before the patches."""
    backbone: Any = config.backbone_config
    height, width = whole = patch_grid(size, config)
    while height * width > tokens.shape[1]:  # networks such as Swin merge four patches into one between their stages
        height, width = height // 2, width // 2
    if (height, width) != whole and height * width != tokens.shape[1]:
        raise ValueError(
            f"backbone of type {backbone.model_type}: the places of its {tokens.shape[1]} tokens in a frame of "
            f"{whole[0]} x {whole[1]} patches are unknown; take another backbone"
        )
    patches = tokens[:, tokens.shape[1] - height * width :]
    return patches.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def patch_grid(size: torch.Size, config: "VideoCaptionConfig") -> tuple[int, int]:
    """Patches in a column and in a row of frames of `size` (height, width)."""
    backbone: Any = config.backbone_config
    patch = backbone.tubelet_size[1:] if backbone.model_type == "vivit" else getattr(backbone, "patch_size", None)
    if patch is None:
        raise ValueError(
            f"backbone of type {backbone.model_type}: the places of its tokens are unknown, since its config has no "
            "`patch_size`; take another backbone"
        )
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    return size[0] // patch_height, size[1] // patch_width


def stages_of(net: nn.Module) -> list[nn.Module]:
    """The consecutive blocks of a backbone: stages of a CNN, layers of a transformer."""
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
    """Freeze a backbone up to its last `count` stages.

    Returns:
        The trained modules: these stages and all that follow them.

    Raises:
        ValueError: If it has fewer stages.
    """
    stages = stages_of(net)
    if count > len(stages):
        raise ValueError(f"`trained_backbone_stages` of this backbone must be at most {len(stages)}, got {count}")
    order = list(net.modules())  # a module precedes its parts, and these precede the next module
    trained = order[order.index(stages[len(stages) - count]) :]
    net.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return trained
