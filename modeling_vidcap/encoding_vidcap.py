"""The encoder of clips in plain torch: backbone features -> tokens of a whole clip."""

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from .backbones_vidcap import VideoBackbone
from .blocks_vidcap import (
    EncoderLayer,
    Pooler,
    VideoCaptionColors,
    VideoCaptionFramePositions,
    VideoCaptionMotion,
    cell_angles,
    stochastic_depth_rates,
    time_angles,
    to_rotation,
    to_sines,
)
from .memory_vidcap import CaptionMemory

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig


class ClipTokens(Protocol):
    """B encoded clips.

    Attributes:
        last_hidden_state: `(B, S, D)`, the tokens.
        attention_mask: `(B, S)`, 1 where a token stands for a real frame.
        token_times: `(B, S)`, seconds from the clip's start.
        video_words: `(B, P)`, what the [`CaptionMemory`] predicts; `None` without one.
    """

    last_hidden_state: torch.Tensor
    attention_mask: torch.Tensor
    token_times: torch.Tensor
    video_words: torch.Tensor | None


class ClipEncoding(nn.Module):
    """The encoder's layers and arithmetic; [`VideoCaptionEncoder`] is the version within transformers."""

    layer_class: type[EncoderLayer] = EncoderLayer
    pooler_class: type[Pooler] = Pooler
    config: Any  # `VideoCaptionConfig`; transformers declares it as `PreTrainedConfig`

    def add_layers(self, config: "VideoCaptionConfig", network: nn.Module | None = None) -> None:
        """Create all modules; `network` replaces the backbone's network that the config names."""
        cells = config.feature_grid**2
        self.backbone = VideoBackbone(config, network)
        # The projection scales anyway; a scale here would cost the gradient of all features, a quarter of a step.
        self.feature_norm = nn.LayerNorm(config.feature_size, eps=config.layer_norm_eps, elementwise_affine=False)
        size = config.feature_size + config.thumbnail_features
        self.projection = nn.Linear(size if config.spatial_tokens else size * cells, config.hidden_size)
        self.color_projection = VideoCaptionColors(config) if config.color_bins else None
        self.cell_embeddings = None
        if config.spatial_tokens and config.space_positions == "learned":
            self.cell_embeddings = nn.Embedding(cells, config.hidden_size)
        self.frame_positions = VideoCaptionFramePositions(config) if config.time_positions == "learned" else None
        self.motion = VideoCaptionMotion(config) if config.motion else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            self.layer_class(config, drop_path=rate)
            for rate in stochastic_depth_rates(config.stochastic_depth, config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.level_embeddings = None
        if config.temporal_pyramid:
            self.level_embeddings = nn.Parameter(torch.zeros(config.temporal_pyramid, config.hidden_size))
        self.caption_pooler = self.pooler_class(config, config.caption_queries) if config.caption_queries else None
        self.memory: CaptionMemory | None = None
        self.word_projection: nn.Linear | None = None
        if config.memory_shape is not None:
            self.add_memory(config)

    def add_memory(self, config: "VideoCaptionConfig") -> None:
        """Create the [`CaptionMemory`] of `config.memory_shape`, and the projection of its prediction to a token."""
        self.memory = CaptionMemory(config)
        self.word_projection = nn.Linear(len(self.memory.mean), config.hidden_size)

    def encode(
        self,
        video_features: torch.Tensor,
        video_mask: torch.Tensor | None,
        video_times: torch.Tensor | None,
        video_words: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Backbone features `(B, T, N, D)` -> the clip's tokens `(B, S, D)`, and their mask and times `(B, S)`.

        With a memory, the last token holds its prediction `(B, P)`, which is also returned: `video_words`, by default
        from the features. In training it comes from a memory that has not seen the clip.
        """
        if self.memory is not None and video_words is None:
            video_words = self.memory.predict(video_features, video_mask)
        batch, steps = video_features.shape[:2]
        shape = tuple(video_features.shape[2:])
        expected = (self.config.feature_grid**2, self.config.cell_features)
        if shape != expected:
            raise ValueError(
                f"`video_features` have {shape[0]} cells of size {shape[1]} per frame; this model takes "
                f"{expected[0]} cells of size {expected[1]}: extract them with its own backbone"
            )
        frames = steps * self.config.frame_stride
        if video_mask is None:
            video_mask = torch.ones(batch, frames, dtype=torch.long, device=video_features.device)
        if video_times is None:
            video_times = (
                torch.arange(frames, device=video_features.device).expand(batch, -1) * self.config.frame_interval
            )
        video_times = video_times.float()
        if self.config.frame_stride > 1:
            video_mask, video_times = join_frames(video_mask, video_times, stride=self.config.frame_stride)

        tokens = self._embed(video_features, video_mask, video_times)  # (B, T, N, D)
        if self.training and self.config.frame_dropout:
            video_mask = drop_frames(video_mask, self.config.frame_dropout)
        tokens = self.norm(self._attend(self.dropout(tokens), video_mask, video_times))
        if self.level_embeddings is not None:
            levels = [(tokens, video_mask, video_times)]
            for level, embedding in enumerate(self.level_embeddings, start=1):
                means, mask, times = average_frames(tokens, video_mask, video_times, stride=2**level)
                levels.append((means + embedding, mask, times))
            tokens, video_mask, video_times = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        hidden_states = tokens.flatten(1, 2)  # (B, S, D)
        video_mask = video_mask.repeat_interleave(tokens.shape[2], dim=1)  # (B, S)
        video_times = video_times.repeat_interleave(tokens.shape[2], dim=1)
        if self.caption_pooler is not None:
            hidden_states = self.caption_pooler(hidden_states, self._pooling_mask(hidden_states, video_mask))
            video_mask = video_mask.new_ones(hidden_states.shape[:2])
            video_times = video_times.new_zeros(hidden_states.shape[:2])  # a query summarises the clip, at no moment
        if self.memory is not None and self.word_projection is not None and video_words is not None:
            words = self.memory.normalise(video_words).to(hidden_states.dtype)
            hidden_states = torch.cat([hidden_states, self.word_projection(words).unsqueeze(1)], dim=1)
            video_mask = torch.cat([video_mask, video_mask.new_ones(batch, 1)], dim=1)
            video_times = torch.cat([video_times, video_times.new_zeros(batch, 1)], dim=1)
        return hidden_states, video_mask, video_times, video_words

    def _embed(
        self, video_features: torch.Tensor, video_mask: torch.Tensor, video_times: torch.Tensor
    ) -> torch.Tensor:
        """Backbone features `(B, T, cells, size)` -> tokens `(B, T, N, D)` with colours, positions and motion.

        N is 1 without `spatial_tokens`.
        """
        video_features = video_features.to(self.projection.weight.dtype)
        sizes = (self.config.feature_size, self.config.thumbnail_features, self.config.color_bins**3)
        maps, thumbnails, colors = video_features.split(sizes, dim=-1)
        # Thumbnails keep their scale: once normalised, white would equal black.
        tokens = torch.cat([self.feature_norm(maps), thumbnails], dim=-1)
        if not self.config.spatial_tokens:
            tokens = tokens.flatten(2).unsqueeze(2)
            colors = colors.mean(dim=2, keepdim=True)
        tokens = self.projection(tokens)  # (B, T, N, D)
        if self.color_projection is not None:
            tokens = tokens + self.color_projection(colors)
        if self.cell_embeddings is not None:
            tokens = tokens + self.cell_embeddings.weight
        elif self.config.space_positions == "sinusoidal":
            angles = cell_angles(self.config.feature_grid, self.config.hidden_size // 2, tokens.device)  # (N, D / 2)
            tokens = tokens + to_sines(angles, tokens.dtype)
        if self.motion is not None:
            tokens = self.motion(tokens)
        if self.frame_positions is not None:
            tokens = tokens + self.frame_positions(video_mask).unsqueeze(2)
        elif self.config.time_positions == "sinusoidal":
            angles = time_angles(self.config, video_times, self.config.hidden_size // 2)  # (B, T, D / 2)
            tokens = tokens + to_sines(angles, tokens.dtype).unsqueeze(2)
        return tokens

    def _attend(self, tokens: torch.Tensor, video_mask: torch.Tensor, video_times: torch.Tensor) -> torch.Tensor:
        """Run the layers over `(B, T, N, D)`: jointly, or alternately within each frame and along time."""
        frames, cells = tokens.shape[1:3]
        angles = self._rotary_angles(video_times, cells)  # (B, T, N, head_dim / 2)
        if self.config.encoder_attention == "joint":
            hidden_states = tokens.flatten(1, 2)  # (B, T * N, D)
            mask = self._mask(hidden_states, video_mask.repeat_interleave(cells, dim=1), cells)
            rotation = None if angles is None else to_rotation(angles.flatten(1, 2), tokens.dtype)
            for layer in self.layers:
                hidden_states = layer(hidden_states, mask, rotation)
            return hidden_states.unflatten(1, (frames, cells))
        mask = self._mask(tokens.transpose(1, 2).flatten(0, 1), video_mask.repeat_interleave(cells, dim=0), 1)
        in_frame = in_time = None
        if angles is not None:
            in_frame = to_rotation(angles.flatten(0, 1), tokens.dtype)
            in_time = to_rotation(angles.transpose(1, 2).flatten(0, 1), tokens.dtype)
        for space_layer, time_layer in zip(self.layers[::2], self.layers[1::2], strict=True):
            tokens = space_layer(tokens, None, in_frame)  # a frame's cells are real or masked together
            tokens = time_layer(tokens.transpose(1, 2), mask, in_time).transpose(1, 2)
        return tokens

    def _rotary_angles(self, video_times: torch.Tensor, cells: int) -> torch.Tensor | None:
        """Angles `(B, T, N, head_dim / 2)` of all tokens on each rotary axis.

        Time takes half of them, rows and columns the rest: a clip spans seconds to minutes, a frame only a few cells.
        """
        config = self.config
        pairs = config.hidden_size // config.num_attention_heads // 2
        axes = []
        if config.space_positions == "rotary":
            of_space = 2 * (pairs // 4) if config.time_positions == "rotary" else pairs
            of_cells = cell_angles(config.feature_grid, of_space, video_times.device)  # (N, of_space)
            axes.append(of_cells.expand(*video_times.shape, -1, -1))
            pairs -= of_space
        if config.time_positions == "rotary":
            axes.append(time_angles(config, video_times, pairs).unsqueeze(2).expand(-1, -1, cells, -1))
        return torch.cat(axes, dim=-1) if axes else None

    def _mask(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, tokens_per_frame: int
    ) -> torch.Tensor | None:
        """The mask of real tokens `(B, S)` for attention among them."""
        return padding_mask(attention_mask)

    def _pooling_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """The mask with which queries attend to a clip's tokens `(B, S, D)`."""
        return padding_mask(attention_mask)


def padding_mask(attention_mask: torch.Tensor) -> torch.Tensor | None:
    """The mask `(B, 1, 1, S)` of torch's attention for `(B, S)`, 1 for visible tokens; `None` if all are visible."""
    visible = attention_mask.bool()
    return None if bool(visible.all()) else visible[:, None, None]


def drop_frames(video_mask: torch.Tensor, rate: float) -> torch.Tensor:
    """Hide a share `rate` of the frames `(B, T)` from attention, but never a clip's first frame."""
    keep = torch.rand(video_mask.shape, device=video_mask.device) >= rate
    keep[:, 0] = True
    return video_mask * keep


def join_frames(
    video_mask: torch.Tensor, video_times: torch.Tensor, *, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and times of the steps `(B, T / stride)` of a clip encoder, from those of frames `(B, T)`.

    A step is real if any of its frames is; its time is the mean of theirs.
    """
    video_mask, video_times = video_mask.unflatten(1, (-1, stride)), video_times.unflatten(1, (-1, stride))
    real = video_mask.amax(dim=-1)
    weights = torch.where(real.bool()[..., None], video_mask, 1).float()  # (B, T', stride)
    return real, (video_times * weights).sum(dim=-1) / weights.sum(dim=-1)


def average_frames(
    tokens: torch.Tensor, video_mask: torch.Tensor, video_times: torch.Tensor, *, stride: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means over groups of `stride` neighbouring frames, without masked ones.

    Args:
        tokens: `(B, T, N, D)`.
        video_mask, video_times: `(B, T)`.

    Returns:
        Tokens `(B, G, N, D)`, mask `(B, G)` (1 where any frame is real) and times `(B, G)`; G = T / `stride`, rounded
        up.
    """
    fill = -tokens.shape[1] % stride
    tokens = nn.functional.pad(tokens, (0, 0, 0, 0, 0, fill)).unflatten(1, (-1, stride))  # (B, G, stride, N, D)
    video_mask = nn.functional.pad(video_mask, (0, fill)).unflatten(1, (-1, stride))  # (B, G, stride)
    video_times = nn.functional.pad(video_times, (0, fill)).unflatten(1, (-1, stride))
    weights = video_mask / video_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    means = torch.einsum("bgs,bgsnd->bgnd", weights.to(tokens.dtype), tokens)
    return means, video_mask.amax(dim=-1), (video_times * weights).sum(dim=-1)
