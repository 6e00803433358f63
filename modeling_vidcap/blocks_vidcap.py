"""Building blocks of encoder and decoder in plain torch: positions, attention, layers."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

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
    """Angles `(..., count)` of `positions` `(...)`, with logarithmically spaced periods."""
    steps = torch.arange(count, device=positions.device, dtype=torch.float32) / max(count - 1, 1)
    frequencies = 2 * torch.pi / (min_period * (max_period / min_period) ** steps)  # (count,)
    return positions.float()[..., None] * frequencies


def cell_angles(grid: int, count: int, device: torch.device) -> torch.Tensor:
    """Angles `(N, count)` of the cells of a `grid` x `grid` frame, row by row: half for rows, half for columns.

    Positions are fractions of the frame. Periods range from two cells, at which neighbours are opposites, to two
    frames, at which the cosine falls all the way across.
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
    """Sines and cosines `(..., D)` of `angles` `(..., D / 2)`, which are added to tokens.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def positions_behind(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(B, L + 1)` of the real words of `attention_mask` `(B, L)` and of a token right after them.

    Either side may be padded.
    """
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.cat([positions, attention_mask.sum(dim=1, keepdim=True)], dim=1)


def rotate(states: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate `states` `(B, heads, L, head_dim)`; channel i is paired with channel i + head_dim / 2."""
    cos, sin = rotation
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def time_angles(config: "VideoCaptionConfig", times: torch.Tensor, count: int) -> torch.Tensor:
    """Angles `(..., count)` of `times` `(...)` in seconds."""
    return axis_angles(times, count, min_period=config.min_time_period, max_period=config.max_time_period)


def time_rotation(config: "VideoCaptionConfig", times: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation of a video's keys `(B, S)` by their seconds."""
    return to_rotation(time_angles(config, times, config.hidden_size // config.num_attention_heads // 2), dtype)


INFERENCE_ONLY = "inference_only"  # attribute of a module that computes what another does from other weights


class FreezableModule:
    """A module with frozen parameters, which can be frozen again after weights are loaded."""

    def freeze(self) -> object:
        raise NotImplementedError


class Attention(nn.Module):
    """Multi-head self-attention or, given `key_value_states`, attention to the video."""

    def __init__(self, config: "VideoCaptionConfig", *, layer_idx: int = 0, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(B, L, D)` -> `(B, heads, L, head_dim)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def keys_and_values(self, source: torch.Tensor, rotation: Rotation | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys, rotated, and values of `source` `(B, S, D)`, each `(B, heads, S, head_dim)`."""
        key, value = self.heads(self.k_proj(source)), self.heads(self.v_proj(source))
        return key if rotation is None else rotate(key, rotation), value

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output `(B, L, heads, head_dim)`, and the weights where the implementation returns them."""
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=self.scaling)
        return attended.transpose(1, 2), None

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        rotation: Rotation | None = None,
        key_value_states: torch.Tensor | None = None,
        cache: "Cache | None" = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.heads(self.q_proj(hidden_states))
        if rotation is not None and key_value_states is None:
            query = rotate(query, rotation)
        if cache is None:
            source = hidden_states if key_value_states is None else key_value_states
            key, value = self.keys_and_values(source, rotation)
        else:
            key, value = self.cached_keys_and_values(hidden_states, key_value_states, rotation, cache)
        output, weights = self.attend(query, key, value, attention_mask, **kwargs)
        return self.out_proj(output.flatten(2)), weights

    def cached_keys_and_values(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None,
        rotation: Rotation | None,
        cache: "Cache",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, those in `cache` included; only attention within transformers has such a cache."""
        raise NotImplementedError


class VideoCaptionMLP(nn.Sequential):
    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__(
            nn.Linear(config.hidden_size, config.intermediate_size),
            activation(config.hidden_act),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )


class VideoCaptionMotion(nn.Module):
    """A feed-forward block over each token and its difference from the previous frame.

    Attention has to learn which frames are neighbours; here movement is an input from the first step. Moving objects
    cover a small part of most frames: the difference is a tenth of a token, and by its size alone a small spinning
    star equals a large sliding one. With `motion_floor` the difference enters twice: amplified, and divided by its
    root mean square over the channels. The floor, added to the square, keeps the noise of still frames low.
    """

    gain = 4.0  # the difference is about a tenth of the token, and would hardly count beside it

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        self.floor = config.motion_floor
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc_in = nn.Linear((3 if self.floor else 2) * config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)
        self.fc_out = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, T, N, D)` -> the same shape; the first frame has no change."""
        normed = self.norm(hidden_states)
        change = torch.cat([torch.zeros_like(normed[:, :1]), normed[:, 1:] - normed[:, :-1]], dim=1)
        inputs = [normed, change]
        if self.floor:
            size = (change.square().mean(dim=-1, keepdim=True) + self.floor**2).sqrt()
            inputs = [normed, change * self.gain, change / size]
        return hidden_states + self.fc_out(self.activation(self.fc_in(torch.cat(inputs, dim=-1))))


class VideoCaptionColors(nn.Module):
    """A projection of the cube root of colour histograms, by which small coloured objects count too."""

    scale = 10.0  # so that 125 shares count beside thousands of backbone values in the same sum

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        self.norm = nn.LayerNorm(config.color_bins**3, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.color_bins**3, config.hidden_size, bias=False)
        self.config = config

    def forward(self, histograms: torch.Tensor) -> torch.Tensor:
        """Embed colour histograms: `(B, T, N, color_bins^3)` -> `(B, T, N, D)`, zeros for dropped colours."""
        projected = self.projection(self.norm(histograms ** (1 / 3)) * self.scale)
        rate = self.config.color_dropout
        if self.training and rate:
            projected = projected * (torch.rand(len(projected), 1, 1, 1, device=projected.device) >= rate)
        return projected


class VideoCaptionFramePositions(nn.Module):
    """A learned table of `num_frames` positions, stretched over the clip's real frames.

    Frame i of a clip of `num_frames` frames takes row i. Clips of any other number of frames take rows interpolated
    linearly between neighbouring ones.
    """

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        self.table = nn.Embedding(config.num_frames, config.hidden_size)

    def forward(self, frame_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T)`, 1 for real frames -> `(B, T, D)`, whatever the seconds between frames."""
        index = torch.arange(frame_mask.shape[1], device=frame_mask.device)
        last = (index * frame_mask.bool()).amax(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        # Frames behind the last real one are masked, so that any row will do.
        rows = torch.minimum(index, last) * (self.table.num_embeddings - 1) / last  # (B, T)
        low, high = self.table(rows.floor().long()), self.table(rows.ceil().long())
        return torch.lerp(low, high, rows.frac()[..., None].to(low.dtype))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention over a clip's tokens, or within groups of them, then a feed-forward block."""

    attention_class: type[Attention] = Attention

    def __init__(self, config: "VideoCaptionConfig", *, drop_path: float = 0.0):
        super().__init__()
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = self.attention_class(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VideoCaptionMLP(config)
        self.dropout = residual_dropout(config, drop_path)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, rotation: Rotation | None, **kwargs
    ) -> torch.Tensor:
        """`(B, S, D)`, or `(B, groups, S, D)` where tokens attend within their group only -> the same shape.

        Mask and rotation are for `(B * groups, S)` tokens; `None` hides or rotates nothing.
        """
        normed = self.self_attn_norm(hidden_states).flatten(0, -3)  # (B * groups, S, D)
        attended, _ = self.self_attn(normed, attention_mask=attention_mask, rotation=rotation, **kwargs)
        hidden_states = hidden_states + self.dropout(attended.view_as(hidden_states))
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, optional cross-attention to the clip, feed-forward block."""

    attention_class: type[Attention] = Attention

    def __init__(self, config: "VideoCaptionConfig", layer_idx: int, *, cross_attention: bool, drop_path: float = 0.0):
        super().__init__()
        self.cross_attention = cross_attention
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = self.attention_class(config, layer_idx=layer_idx, is_causal=True)
        if cross_attention:
            self.cross_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.cross_attn = self.attention_class(config, layer_idx=layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VideoCaptionMLP(config)
        self.dropout = residual_dropout(config, drop_path)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotation: Rotation,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_rotation: Rotation | None = None,
        cache: "Cache | None" = None,
        **kwargs,
    ) -> torch.Tensor:
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states),
            attention_mask=attention_mask,
            rotation=rotation,
            cache=cache,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended)
        if self.cross_attention:
            attended, _ = self.cross_attn(
                self.cross_attn_norm(hidden_states),
                attention_mask=encoder_attention_mask,
                rotation=encoder_rotation,
                key_value_states=encoder_hidden_states,
                cache=cache,
                **kwargs,
            )
            hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class Pooler(nn.Module):
    """Attention pooling of a clip's tokens by learned queries (CoCa, https://arxiv.org/abs/2205.01917)."""

    attention_class: type[Attention] = Attention

    def __init__(self, config: "VideoCaptionConfig", num_queries: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, num_queries, config.hidden_size))
        self.attention = self.attention_class(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(B, S, D)` -> `(B, queries, D)`."""
        queries = self.query.expand(hidden_states.shape[0], -1, -1)
        pooled, _ = self.attention(queries, attention_mask=attention_mask, key_value_states=hidden_states)
        return self.norm(pooled)


def activation(name: str) -> nn.Module:
    """The activation by its name in transformers, which is not imported for the usual one."""
    if name == "gelu":
        return nn.GELU()
    from transformers.activations import ACT2FN

    return ACT2FN[name]


def residual_dropout(config: "VideoCaptionConfig", drop_path: float) -> nn.Module:
    """Dropout of a block's output and, with `drop_path`, of the whole block for some clips."""
    dropout = nn.Dropout(config.dropout)
    if not drop_path:
        return dropout
    from torchvision.ops import StochasticDepth

    return nn.Sequential(dropout, StochasticDepth(drop_path, mode="row"))


def stochastic_depth_rates(rate: float, layers: int) -> list[float]:
    """Rates that grow linearly from 0 at the first layer to `rate` at the last.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382.
    """
    return [rate * index / max(layers - 1, 1) for index in range(layers)]
