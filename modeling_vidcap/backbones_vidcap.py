"""Frames -> features: one small adapter around an image backbone or a clip encoder.

`(B, T, C, H, W)` pixels become `(B, T', N, D)` features: every output stage's map is averaged to a grid of N cells,
and the stages' channels are concatenated, perhaps with a thumbnail of the cell itself and a histogram of its colours.

An image backbone sees each frame alone (T' = T), so that features of a frozen one can be stored per clip and played
backwards. A clip encoder sees all frames, and joins `frame_stride` of them into one (T' = T / `frame_stride`).
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks_vidcap import Freezes
from .fused_vidcap import FusedBackbone

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig


FINE_LEVELS = 16  # of each primary colour, in which pixels are counted for a histogram


class FrameCNN(nn.Module):
    """A small CNN to train from scratch: patches of 4 x 4 pixels, then stages of one residual convolution each, which
    halve height and width between them.

    Group norm has no running statistics, so a frame's features depend on that frame alone, in training too.
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


class VideoBackbone(Freezes, nn.Module):
    """The configured backbone. What is frozen of it stays in evaluation mode and takes no gradient.

    Args:
        config: Of the captioner.
        network: Stands inside in the place of the network that the config names.
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
        """Takes the gradient from what is not to be trained, and returns the modules that are."""
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
            shown = in_shades_of_grey(frames) if self.config.grayscale_backbone else frames
            # Channels last: twice as fast on CPU, and what GPUs want.
            shown = shown.contiguous(memory_format=torch.channels_last)
            maps = self.maps(shown.unflatten(0, (batch, -1)) if self.config.encodes_clips else shown)
            parts = [F.adaptive_avg_pool2d(each, self.grid) for each in maps]  # each (B*T', D_i, g, g)
            parts += [self._per_step(each) for each in self._of_pixels(self._unnormalised(frames))]
            cells = torch.cat(parts, dim=1)
        return cells.flatten(2).transpose(1, 2).unflatten(0, (batch, -1))  # (B, T', N, D)

    def maps(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """The network's maps `(B*T', D_i, h_i, w_i)` of frames `(B*T, 3, H, W)`, or `(B, T, 3, H, W)` where it sees
        clips."""
        if self.config.encodes_clips:
            return clip_maps(self.net, frames, self.config)
        return self._fused.maps(self.net, frames, partial(frame_maps, config=self.config))

    def _unnormalised(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(B*T, 3, H, W)` from -1 (black) to 1 (white), whatever the backbone wants."""
        mean, std = self.config.image_mean, self.config.image_std
        if set(mean) | set(std) == {0.5}:
            return frames
        return (frames * frames.new_tensor(std).view(3, 1, 1) + frames.new_tensor(mean).view(3, 1, 1)) * 2 - 1

    def _of_pixels(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Of frames from -1 to 1 thumbnail `(B*T, 3 k k, g, g)` and histogram `(B*T, bins^3, g, g)`, as far as they
        are wanted."""
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

        # Its own norms follow the data so slowly (momentum .001) that a short training would be over first.
        return s3d(norm_layer=nn.BatchNorm3d).features
    from transformers import AutoBackbone, AutoModel

    if backbone.model_type == "timm_backbone":
        return AutoBackbone.from_config(backbone, trust_remote_code=False)
    net = AutoModel.from_config(backbone, trust_remote_code=False)
    if backbone.model_type == "vjepa2":
        net.predictor = None  # foretells hidden patches, which nobody asks for here
    return net


def in_shades_of_grey(frames: torch.Tensor) -> torch.Tensor:
    """Frames `(F, 3, H, W)` without colour, three channels still, by the luma of ITU-R BT.601 (as torchvision's)."""
    red, green, blue = frames.unbind(dim=-3)
    luma = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return luma.unsqueeze(-3).expand(frames.shape)


def color_histogram(frames: torch.Tensor, grid: int, bins: int) -> torch.Tensor:
    """Shares of the colours in each cell: pixels `(F, 3, H, W)` from -1 to 1 -> `(F, bins^3, grid, grid)`.

    A pixel is shared out between the neighbouring levels of red, green and blue by its distance to them, so that the
    histogram changes smoothly. Pixels are counted in `FINE_LEVELS` of each first, which makes that sharing cheap. Up
    to `grid` - 1 rows and columns at the frame's end are left out.
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
    for _ in range(3):  # of blue, green and red, each the last axis in its turn
        shares = (shares @ weights).movedim(-1, 1)
    histogram = shares.flatten(1)  # (F*g*g, bins^3)
    return histogram.unflatten(0, (-1, grid, grid)).permute(0, 3, 1, 2).to(frames.dtype)


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
