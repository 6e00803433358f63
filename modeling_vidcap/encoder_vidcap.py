"""The video side: what all models of this family share, and the encoder of clips."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask

from .backbones_vidcap import VideoBackbone
from .configuration_vidcap import VideoCaptionConfig
from .layers_vidcap import (
    Rotation,
    VideoCaptionEncoderLayer,
    VideoCaptionMotion,
    VideoCaptionPooler,
    rotary_rotation,
    stochastic_depth_rates,
)
from .outputs_vidcap import VideoEncoderOutput


class VideoCaptionPreTrainedModel(PreTrainedModel):
    config: VideoCaptionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoCaptionEncoderLayer", "VideoCaptionDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VideoCaptionPooler):
            init.normal_(module.query, std=self.config.initializer_range)


class VideoCaptionEncoder(VideoCaptionPreTrainedModel):
    """Backbone, projection and self-attention over the tokens of all frames, with rotary positions in seconds.

    With `caption_queries`, learned queries then pool the clip into a fixed number of tokens (CoCa's attentional
    pooling), which the decoder and the contrastive pooler read instead of the frames.
    """

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        cells = config.feature_grid**2
        self.backbone = VideoBackbone(config)
        self.feature_norm = nn.LayerNorm(config.feature_size, eps=config.layer_norm_eps)
        size = config.feature_size + config.thumbnail_features
        if config.spatial_tokens:
            self.projection = nn.Linear(size, config.hidden_size)
            self.cell_embeddings = nn.Embedding(cells, config.hidden_size)
        else:
            self.projection = nn.Linear(size * cells, config.hidden_size)
        self.motion = VideoCaptionMotion(config) if config.motion else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            VideoCaptionEncoderLayer(config, drop_path=rate)
            for rate in stochastic_depth_rates(config.stochastic_depth, config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.caption_pooler = VideoCaptionPooler(config, config.caption_queries) if config.caption_queries else None
        self.post_init()

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        **kwargs,
    ) -> VideoEncoderOutput:
        """Encodes clips given as pixels `(B, T, C, H, W)` or as backbone features `(B, T, N, D)`.

        Features win where both are given, since `generate` fills an absent main input with dummy ids.
        """
        if video_features is None:
            if pixel_values_videos is None or pixel_values_videos.ndim != 5:
                shape = None if pixel_values_videos is None else tuple(pixel_values_videos.shape)
                raise ValueError(
                    f"`pixel_values_videos` must be (batch, frames, channels, height, width), got {shape}; "
                    "make it with the processor, or pass `video_features`"
                )
            video_features = self.backbone(pixel_values_videos)
        batch, frames, cells, size = video_features.shape
        expected = (self.config.feature_grid**2, self.config.feature_size + self.config.thumbnail_features)
        if (cells, size) != expected:
            raise ValueError(
                f"`video_features` have {cells} cells of size {size} a frame; this model takes "
                f"{expected[0]} cells of size {expected[1]}: extract them with its own backbone"
            )
        if video_mask is None:
            video_mask = torch.ones(batch, frames, dtype=torch.long, device=video_features.device)
        if video_times is None:
            video_times = (
                torch.arange(frames, device=video_features.device).expand(batch, -1) * self.config.frame_interval
            )
        video_times = video_times.float()

        video_features = video_features.to(self.feature_norm.weight.dtype)
        split = size - self.config.thumbnail_features
        # Thumbnails keep their scale: normalised, white would equal black.
        tokens = torch.cat([self.feature_norm(video_features[..., :split]), video_features[..., split:]], dim=-1)
        if self.training and self.config.frame_dropout:
            video_mask = drop_frames(video_mask, self.config.frame_dropout)
        if self.config.spatial_tokens:
            tokens = self.projection(tokens) + self.cell_embeddings.weight  # (B, T, N, D)
            video_mask = video_mask.repeat_interleave(cells, dim=1)
            video_times = video_times.repeat_interleave(cells, dim=1)
        else:
            tokens = self.projection(tokens.flatten(2)).unsqueeze(2)  # (B, T, 1, D)
        if self.motion is not None:
            tokens = self.motion(tokens)
        tokens = tokens.flatten(1, 2)  # (B, S, D)
        hidden_states = self.dropout(tokens)

        rotation = time_rotation(self.config, video_times, hidden_states.dtype)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=video_mask,
            and_mask_function=self._within_window(cells),
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, rotation)
        hidden_states = self.norm(hidden_states)
        if self.caption_pooler is not None:
            hidden_states = self.caption_pooler(hidden_states, pooling_mask(self.config, hidden_states, video_mask))
            video_mask = video_mask.new_ones(hidden_states.shape[:2])
            video_times = video_times.new_zeros(hidden_states.shape[:2])  # a query sums the clip up, it has no moment
        return VideoEncoderOutput(last_hidden_state=hidden_states, attention_mask=video_mask, token_times=video_times)

    def _within_window(self, cells: int) -> Callable | None:
        """A mask function that keeps tokens of frames at most `encoder_window` apart."""
        window = self.config.encoder_window
        if window is None:
            return None
        tokens = cells if self.config.spatial_tokens else 1
        return lambda batch, head, query, key: (query // tokens - key // tokens).abs() <= window


def drop_frames(video_mask: torch.Tensor, rate: float) -> torch.Tensor:
    """Hides a share `rate` of the frames `(B, T)` from attention, but never a clip's first one."""
    keep = torch.rand(video_mask.shape, device=video_mask.device) >= rate
    keep[:, 0] = True
    return video_mask * keep


def pooling_mask(config: VideoCaptionConfig, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
    """The mask `(B, 1, 1, S)` with which queries look at a clip's tokens `(B, S, D)`."""
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=hidden_states[:, :1],
        attention_mask=attention_mask,
        encoder_hidden_states=hidden_states,
    )


def time_rotation(config: VideoCaptionConfig, times: torch.Tensor, dtype: torch.dtype) -> Rotation:
    return rotary_rotation(
        times,
        config.hidden_size // config.num_attention_heads,
        min_period=config.min_time_period,
        max_period=config.max_time_period,
        dtype=dtype,
    )
