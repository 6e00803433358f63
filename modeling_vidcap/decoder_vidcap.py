"""The decoder of captions within transformers: causal text layers, then layers that also see the video."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder

from .blocks_vidcap import time_rotation
from .configuration_vidcap import CACHE, VideoCaptionConfig
from .decoding_vidcap import CaptionDecoding
from .encoder_vidcap import (
    VideoCaptionAttention,
    VideoCaptionDecoderLayer,
    VideoCaptionPreTrainedModel,
    VideoEncoderOutput,
    check_recording,
    records_outputs,
)


@dataclass
class VideoDecoderOutput(ModelOutput):
    """The decoder's output `(B, L, D)` and its cache; the rest as in [`VideoCaptionOutput`]."""

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class VideoCaptionDecoder(CaptionDecoding, VideoCaptionPreTrainedModel):
    """Causal text layers, then layers that also see every token of the clip.

    With `fusion="joint"` these upper layers are one transformer over the tokens of clip and caption: text sees the
    whole clip and the preceding text, the clip sees itself. The cache then holds both.
    """

    layer_class = VideoCaptionDecoderLayer
    main_input_name = "input_ids"
    _can_record_outputs = {
        "hidden_states": VideoCaptionDecoderLayer,
        "attentions": OutputRecorder(VideoCaptionAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(VideoCaptionAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.add_layers(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.summary_embedding, std=self.config.initializer_range)

    def _causal_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        return create_causal_mask(self.config, hidden_states, attention_mask, **{CACHE: None})

    @partial(records_outputs, tie_last_hidden_states=True)
    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_outputs: VideoEncoderOutput,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        is_causal: bool = True,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoDecoderOutput:
        """Read captions `(B, L)` with their clips; unless `is_causal` each word also sees those after it."""
        check_recording(self.config, output_attentions)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        past_length = 0 if cache is None else cache.get_seq_length()
        hidden_states = self.dropout(self.embed(input_ids))  # (B, L, D)
        length = input_ids.shape[1]
        positions = (torch.arange(length, device=input_ids.device) + past_length).expand(len(input_ids), -1)
        rotation = self.text_rotation(positions, hidden_states.dtype)
        options = {} if is_causal else {"is_causal": False}

        if is_causal:
            word_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else None
            mask = create_causal_mask(self.config, hidden_states, attention_mask, **{CACHE: word_cache})
        else:
            mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        for layer in self.text_layers:
            hidden_states = layer(hidden_states, mask, rotation, cache=cache, **options)

        video = encoder_outputs.last_hidden_state.to(hidden_states.dtype)
        video_rotation = time_rotation(self.config, encoder_outputs.token_times, hidden_states.dtype)
        if self.config.fusion == "joint":
            mask = self._joint_mask(hidden_states, video, attention_mask, encoder_outputs, past_length, is_causal)
            if not past_length:
                hidden_states = torch.cat([video, hidden_states], dim=1)  # (B, S + L, D)
                cos, sin = (torch.cat(parts, dim=2) for parts in zip(video_rotation, rotation, strict=True))
                rotation = (cos, sin)
            seen: dict[str, Any] = {}
        else:
            video_mask = create_bidirectional_mask(
                self.config, hidden_states, encoder_outputs.attention_mask, encoder_hidden_states=video
            )
            seen = {
                "encoder_hidden_states": video,
                "encoder_attention_mask": video_mask,
                "encoder_rotation": video_rotation,
            }
        for layer in self.multimodal_layers:
            hidden_states = layer(hidden_states, mask, rotation, cache=cache, **seen, **options)
        return VideoDecoderOutput(last_hidden_state=self.norm(hidden_states[:, -length:]), cache=cache)

    def _joint_mask(
        self,
        hidden_states: torch.Tensor,
        video: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_outputs: VideoEncoderOutput,
        past_length: int,
        is_causal: bool,
    ) -> Any:
        """The attention mask `(B, 1, S + L, S + L)` among S video tokens and the text after them.

        With a cache `(B, 1, 1, S + past + 1)`, for a single word.
        """
        batch, length = hidden_states.shape[:2]
        if past_length and length > 1:
            raise ValueError(
                f"`fusion` 'joint' adds one token at a time to its cache, got {length}: pass no cache, or one token"
            )
        text_mask = attention_mask
        if text_mask is None:
            text_mask = encoder_outputs.attention_mask.new_ones(batch, past_length + length)
        everything = torch.cat([encoder_outputs.attention_mask, text_mask], dim=1)  # (B, S + past + L)
        if past_length:
            keys = hidden_states.expand(-1, everything.shape[1], -1)  # only its length matters
            return create_bidirectional_mask(self.config, hidden_states, everything, encoder_hidden_states=keys)
        video_length = video.shape[1]

        def visible(batch, head, query, key):
            return (key < video_length) | ((query >= video_length) & ((not is_causal) | (key <= query)))

        joined = torch.cat([video, hidden_states], dim=1)
        return create_bidirectional_mask(self.config, joined, everything, and_mask_function=visible)
