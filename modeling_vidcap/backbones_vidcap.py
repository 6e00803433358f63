"""Frames -> features: one small adapter around an image backbone.

`(B, T, C, H, W)` pixels become `(B, T, N, D)` features: every output stage's map is averaged to a grid of N cells, and
the stages' channels are concatenated, perhaps with a thumbnail of the cell itself and a histogram of its colours.
Frames do not see each other here, so features of a frozen backbone can be stored per clip and played backwards.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoBackbone

from .configuration_vidcap import VideoCaptionConfig


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
            output = self.net(frames_first)
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
    histogram changes smoothly. Up to `grid` - 1 rows and columns at the frame's end are left out.
    """
    height, width = frames.shape[-2] // grid, frames.shape[-1] // grid
    cells = frames[..., : height * grid, : width * grid].unflatten(-2, (grid, height)).unflatten(-1, (grid, width))
    pixels = cells.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)  # (F*g*g, P, 3)
    levels = torch.arange(bins, device=frames.device)
    weights = (1 - ((pixels + 1) / 2 * (bins - 1)).unsqueeze(-1).sub(levels).abs()).clamp(min=0)  # (F*g*g, P, 3, bins)
    red, green, blue = weights.unbind(dim=2)
    green_blue = (green.unsqueeze(-1) * blue.unsqueeze(-2)).flatten(2)  # (F*g*g, P, bins^2)
    histogram = red.transpose(1, 2) @ green_blue / (height * width)  # (F*g*g, bins, bins^2)
    return histogram.flatten(1).unflatten(0, (-1, grid, grid)).permute(0, 3, 1, 2)
