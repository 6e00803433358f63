"""The base class of this family's models, the encoder of clips, and the outputs of all models."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .blocks_vidcap import Attention, DecoderLayer, EncoderLayer, FreezableModule, Pooler, Rotation
from .configuration_vidcap import VideoCaptionConfig
from .encoding_vidcap import ClipEncoding
from .saving_vidcap import VideoCaptionSaving


@dataclass
class VideoEncoderOutput(ModelOutput):
    """The encoded tokens of a batch of clips.

    Args:
        last_hidden_state (`(B, S, D)`): One token per frame or per cell of a frame, in temporal order, followed by the
            levels of the temporal pyramid; with `caption_queries` one token per query.
        attention_mask (`(B, S)`): 1 where a token stands for a real frame.
        token_times (`(B, S)`): Seconds from the clip's start.
        video_words (`(B, P)`): What the [`CaptionMemory`] predicts of the captions.
        hidden_states (tuple of `(B, T * N, D)`): Input of the first layer and output of each layer, before the last
            norm; with `encoder_attention` `factorized` `(B, T, N, D)`, after a layer over time `(B, N, T, D)`.
        attentions (tuple of `(B, heads, T * N, T * N)`): Weights per layer; with `factorized` alternately
            `(B * T, heads, N, N)` and `(B * N, heads, T, T)`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    attention_mask: torch.Tensor = None  # type: ignore[assignment]
    token_times: torch.Tensor = None  # type: ignore[assignment]
    video_words: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class VideoCaptionModelOutput(ModelOutput):
    """The decoder's output `(B, L, D)`, its cache and the encoder's output; the rest as in [`VideoCaptionOutput`]."""

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    encoder_outputs: VideoEncoderOutput = None  # type: ignore[assignment]
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class VideoCaptionOutput(ModelOutput):
    """The captioner's output. Fields are `None` unless requested.

    Args:
        loss (scalar): Sum of the losses below, each times its weight in the config; given `labels`.
        logits (`(B, L, V)`): Scores of the next token.
        caption_loss, masked_word_loss, contrastive_loss (scalars): Unweighted losses.
        cache: The decoder's cache.
        encoder_outputs: The encoded clips, which may be passed to further calls.
        video_embeds, text_embeds (`(B, P)`): Clip and caption in the shared space, given a contrastive loss.
        decoder_hidden_states (tuple of `(B, L, D)`): Input of the first layer and output of each layer, the last one
            after the last norm. With `fusion` `joint`, the clip's S tokens precede the words in the layers that see
            the clip (in all layers of a pretrained decoder).
        decoder_attentions (tuple of `(B, heads, L, L)`): Weights among words per layer; with `joint` also among the
            clip's tokens.
        cross_attentions (tuple of `(B, heads, L, S)`): Weights of words over the clip's tokens, per layer with
            cross-attention.
    """

    loss: torch.Tensor = None  # type: ignore[assignment]
    logits: torch.Tensor = None  # type: ignore[assignment]
    caption_loss: torch.Tensor = None  # type: ignore[assignment]
    masked_word_loss: torch.Tensor = None  # type: ignore[assignment]
    contrastive_loss: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    encoder_outputs: VideoEncoderOutput = None  # type: ignore[assignment]
    video_embeds: torch.Tensor = None  # type: ignore[assignment]
    text_embeds: torch.Tensor = None  # type: ignore[assignment]
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None

    def to_tuple(self) -> tuple:
        """All fields that are set, in the order above, so that `[0]` is the loss where there is one."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(
            value.to_tuple() if isinstance(value, ModelOutput) else value for value in values if value is not None
        )


def records_outputs(forward: Callable, *, tie_last_hidden_states: bool) -> Callable:
    """transformers' `capture_outputs`, but never a tuple, also for a config with `return_dict=False`.

    Tuples are for the caller of the captioner, not for the modules inside it.
    """
    recorded = capture_outputs(forward, tie_last_hidden_states=tie_last_hidden_states)

    @wraps(forward)
    def wrapper(self: nn.Module, *args, return_dict: bool | None = None, **kwargs) -> ModelOutput:
        return recorded(self, *args, return_dict=True, **kwargs)

    return wrapper


def check_recording(config: PreTrainedConfig, output_attentions: bool | None) -> None:
    """Raise a `ValueError` if attention weights are requested from an implementation that does not return them."""
    if output_attentions and config._attn_implementation != "eager":
        raise ValueError(
            f"`output_attentions` needs eager attention, since {config._attn_implementation!r} attention returns no "
            'weights: call model.set_attn_implementation("eager") first'
        )


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, for `attn_implementation="eager"` and `output_attentions=True`."""
    scores = query @ key.transpose(2, 3) * scaling  # (B, heads, L, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class VideoCaptionAttention(Attention):
    """Attention by the implementation named in the config, with an optional cache of keys and values."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        return attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)

    def cached_keys_and_values(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None,
        rotation: Rotation | None,
        cache: Cache,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(cache, EncoderDecoderCache):
            source = hidden_states if key_value_states is None else key_value_states
            return cache.update(*self.keys_and_values(source, rotation), self.layer_idx)
        if key_value_states is None:
            return cache.self_attention_cache.update(*self.keys_and_values(hidden_states, rotation), self.layer_idx)
        store: Any = cache.cross_attention_cache
        if cache.is_updated.get(self.layer_idx, False):
            # The video's keys and values do not change while a caption is written.
            return store.layers[self.layer_idx].keys, store.layers[self.layer_idx].values
        states = store.update(*self.keys_and_values(key_value_states, rotation), self.layer_idx)
        cache.is_updated[self.layer_idx] = True
        return states


class VideoCaptionEncoderLayer(GradientCheckpointingLayer, EncoderLayer):
    attention_class = VideoCaptionAttention


class VideoCaptionDecoderLayer(GradientCheckpointingLayer, DecoderLayer):
    attention_class = VideoCaptionAttention


class VideoCaptionPooler(Pooler):
    attention_class = VideoCaptionAttention


class VideoCaptionPreTrainedModel(VideoCaptionSaving):
    config: VideoCaptionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoCaptionEncoderLayer", "VideoCaptionDecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VideoCaptionPooler):
            init.normal_(module.query, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> Any:
        """As in transformers, which enables the gradient of every loaded weight: frozen parts are frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if isinstance(module, FreezableModule):
                module.freeze()
        return loaded


class VideoCaptionEncoder(ClipEncoding, VideoCaptionPreTrainedModel):
    """Backbone, projection and self-attention over the tokens of all frames.

    Rotary, learned or sinusoidal positions tell tokens their moment and their cell; layers attend to the whole clip,
    or alternately within a frame and along time. With `temporal_pyramid`, averages over neighbouring frames follow the
    frames. With `caption_queries`, learned queries then pool the clip into a fixed number of tokens (CoCa's
    attentional pooling), which the decoder and the contrastive pooler read instead of the frames.
    """

    layer_class = VideoCaptionEncoderLayer
    pooler_class = VideoCaptionPooler
    _can_record_outputs = {
        "hidden_states": VideoCaptionEncoderLayer,
        "attentions": OutputRecorder(VideoCaptionAttention, index=1, layer_name="self_attn"),
    }

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.add_layers(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.level_embeddings is not None:
            init.zeros_(self.level_embeddings)  # a pyramid starts as plain averages

    @partial(records_outputs, tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_words: torch.Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoEncoderOutput:
        """Encode clips given as pixels `(B, T, C, H, W)` or as backbone features `(B, T, N, D)`.

        Features take precedence over pixels, since `generate` fills an absent main input with dummy ids.
        """
        check_recording(self.config, output_attentions)
        if video_features is None:
            video_features = self.extract_features(pixel_values_videos)
        tokens, mask, times, video_words = self.encode(video_features, video_mask, video_times, video_words)
        return VideoEncoderOutput(
            last_hidden_state=tokens, attention_mask=mask, token_times=times, video_words=video_words
        )

    def extract_features(self, pixel_values_videos: torch.Tensor | None) -> torch.Tensor:
        """The backbone's features `(B, T, N, D)` of pixels `(B, T, C, H, W)`."""
        if pixel_values_videos is None or pixel_values_videos.ndim != 5:
            shape = None if pixel_values_videos is None else tuple(pixel_values_videos.shape)
            raise ValueError(
                f"`pixel_values_videos` must be (batch, frames, channels, height, width), got {shape}; "
                "make it with the processor, or pass `video_features`"
            )
        return self.backbone(pixel_values_videos.to(self.dtype))

    def _mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, tokens_per_frame: int) -> Any:
        """The mask of real frames `(B, S)`, limited to those at most `encoder_window` away from a token's own."""
        window = self.config.encoder_window
        return create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            and_mask_function=None
            if window is None
            else lambda batch, head, query, key: (query // tokens_per_frame - key // tokens_per_frame).abs() <= window,
        )

    def _pooling_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return pooling_mask(self.config, hidden_states, attention_mask)


def pooling_mask(config: VideoCaptionConfig, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
    """The mask `(B, 1, 1, S)` with which queries attend to a clip's tokens `(B, S, D)`."""
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=hidden_states[:, :1],
        attention_mask=attention_mask,
        encoder_hidden_states=hidden_states,
    )
