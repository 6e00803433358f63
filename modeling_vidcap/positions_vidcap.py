"""Positions on any real-valued axis, as rotations of attention's channels or as sines added to tokens.

Positions are real numbers: seconds and shares of the frame for video tokens, token counts for text.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each (B, 1, L, head_dim)


def rotary_rotation(
    positions: torch.Tensor, head_dim: int, *, min_period: float, max_period: float, dtype: torch.dtype
) -> Rotation:
    """Cosines and sines that rotate a head's channel pairs by angles proportional to `positions`.

    RoFormer (https://arxiv.org/abs/2104.09864) with the periods of [`axis_angles`].

    Args:
        positions: `(B, L)`, in the unit of the periods (seconds or tokens).

    Returns:
        cos and sin, each `(B, 1, L, head_dim)`.
    """
    return to_rotation(axis_angles(positions, head_dim // 2, min_period=min_period, max_period=max_period), dtype)


def axis_angles(positions: torch.Tensor, count: int, *, min_period: float, max_period: float) -> torch.Tensor:
    """Angles `(..., count)` of `positions` `(...)`; periods lie evenly in logarithm between the two given ones."""
    steps = torch.arange(count, device=positions.device, dtype=torch.float32) / max(count - 1, 1)
    frequencies = 2 * torch.pi / (min_period * (max_period / min_period) ** steps)  # (count,)
    return positions.float()[..., None] * frequencies


def cell_angles(grid: int, count: int, device: torch.device) -> torch.Tensor:
    """Angles `(N, count)` of the cells of a `grid` x `grid` frame, row by row: half of them rows, half columns.

    Positions are shares of the frame. Periods go from two cells, at which neighbours are opposites, to two frames, at
    which the cosine falls all the way across.
    """
    cells = torch.arange(grid**2, device=device)
    rows = axis_angles(cells // grid / grid, count // 2, min_period=2 / grid, max_period=2)
    columns = axis_angles(cells % grid / grid, count - count // 2, min_period=2 / grid, max_period=2)
    return torch.cat([rows, columns], dim=-1)


def to_rotation(angles: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation of channel pairs by `angles` `(B, L, head_dim / 2)`."""
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def to_sines(angles: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sines and cosines `(..., D)` of `angles` `(..., D / 2)`, to be added to tokens
    (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def positions_behind(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(B, L + 1)` of the real words of `attention_mask` `(B, L)`, whichever side is padded, and of a token
    right behind them."""
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.cat([positions, attention_mask.sum(dim=1, keepdim=True)], dim=1)


def rotate(states: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotates `states` `(B, heads, L, head_dim)`; channel i is paired with channel i + head_dim / 2."""
    cos, sin = rotation
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def time_angles(config: "VideoCaptionConfig", times: torch.Tensor, count: int) -> torch.Tensor:
    """Angles `(..., count)` of `times` `(...)` in seconds."""
    return axis_angles(times, count, min_period=config.min_time_period, max_period=config.max_time_period)


def time_rotation(config: "VideoCaptionConfig", times: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation of a video's keys `(B, S)` by their seconds."""
    return to_rotation(time_angles(config, times, config.hidden_size // config.num_attention_heads // 2), dtype)
