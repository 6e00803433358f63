"""Frames -> features: one small adapter around an image backbone.

`(B, T, C, H, W)` pixels become `(B, T, N, D)` features: every output stage's map is averaged to a grid of N cells, and
the stages' channels are concatenated, perhaps with a thumbnail of the cell itself and a histogram of its colours.
Frames do not see each other here, so features of a frozen backbone can be stored per clip and played backwards.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.v2.functional import rgb_to_grayscale
from transformers import AutoBackbone

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


class VideoBackbone(nn.Module):
    """The configured image backbone, run on each frame; frozen ones stay in evaluation mode and take no gradient."""

    def __init__(self, config: VideoCaptionConfig):
        super().__init__()
        self.grid = config.feature_grid
        self.thumbnail_size = config.thumbnail_size
        self.color_bins = config.color_bins
        self.grayscale = config.grayscale_backbone
        self.frozen = config.freeze_backbone
        if config.backbone_config is None:
            self.net = FrameCNN(config.cnn_hidden_sizes)
        else:
            self.net = AutoBackbone.from_config(config.backbone_config)
        if self.frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "VideoBackbone":
        return super().train(mode and not self.frozen)

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """`(B, T, C, H, W)` normalised pixels -> `(B, T, N, D)`, N = `feature_grid` squared, row by row."""
        batch, frames = pixel_values_videos.shape[:2]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            # Channels last: twice as fast on CPU, and what GPUs want.
            frames_first = pixel_values_videos.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            output = self.net(rgb_to_grayscale(frames_first, 3) if self.grayscale else frames_first)
            maps = output if isinstance(output, tuple) else output.feature_maps  # each (B*T, C, h, w)
            parts = [F.adaptive_avg_pool2d(each, self.grid) for each in maps]  # each (B*T, D_i, g, g)
            if self.thumbnail_size:
                thumbnail = F.adaptive_avg_pool2d(frames_first, self.grid * self.thumbnail_size)
                parts.append(F.pixel_unshuffle(thumbnail, self.thumbnail_size))  # (B*T, 3 k k, g, g)
            if self.color_bins:
                parts.append(color_histogram(frames_first, self.grid, self.color_bins))  # (B*T, bins^3, g, g)
            cells = torch.cat(parts, dim=1)
        return cells.flatten(2).transpose(1, 2).unflatten(0, (batch, frames))  # (B, T, N, D)


def color_histogram(frames: torch.Tensor, grid: int, bins: int) -> torch.Tensor:
    """Shares of the colours in each cell: normalised pixels `(F, 3, H, W)` in [-1, 1] -> `(F, bins^3, grid, grid)`.

    A pixel is shared out between the neighbouring levels of red, green and blue by its distance to them, so that the
    histogram changes smoothly. Pixels are counted in `FINE_LEVELS` of each first, which makes that sharing cheap. Up
    to `grid` - 1 rows and columns at the frame's end are left out.
    """
    height, width = frames.shape[-2] // grid, frames.shape[-1] // grid
    levels = ((frames[..., : height * grid, : width * grid] + 1) / 2 * (FINE_LEVELS - 1)).round()
    red, green, blue = levels.clamp(0, FINE_LEVELS - 1).long().unbind(dim=1)  # each (F, H, W)
    colors = (red * FINE_LEVELS + green) * FINE_LEVELS + blue
    cells = colors.unflatten(-2, (grid, height)).unflatten(-1, (grid, width)).transpose(2, 3).flatten(3).flatten(0, 2)
    counts = torch.zeros(len(cells), FINE_LEVELS**3, device=frames.device)
    counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))  # (F*g*g, fine^3)

    fine = torch.linspace(0, bins - 1, FINE_LEVELS, device=frames.device)
    weights = (1 - (fine[:, None] - torch.arange(bins, device=frames.device)).abs()).clamp(min=0)  # (fine, bins)
    shares = counts.unflatten(1, (FINE_LEVELS,) * 3) / (height * width)
    histogram = torch.einsum("nrgb,rx,gy,bz->nxyz", shares, weights, weights, weights).flatten(1)  # (F*g*g, bins^3)
    return histogram.unflatten(0, (-1, grid, grid)).permute(0, 3, 1, 2).to(frames.dtype)
