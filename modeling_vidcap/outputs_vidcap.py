"""What encoder, model and captioner return. Fields are None where they were not asked for."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs


def records_outputs(forward: Callable, *, tie_last_hidden_states: bool) -> Callable:
    """transformers' `capture_outputs`, but for a config with `return_dict=False`: tuples are for the caller of the
    captioner, not for what it is made of."""
    recorded = capture_outputs(forward, tie_last_hidden_states=tie_last_hidden_states)

    @wraps(forward)
    def wrapper(self: Any, *args: Any, return_dict: bool | None = None, **kwargs: Any) -> Any:
        return recorded(self, *args, return_dict=True, **kwargs)

    return wrapper


def check_recording(config: PreTrainedConfig, output_attentions: bool | None) -> None:
    """Raises a `ValueError` if attentions are wanted that the config's way of attending does not give out."""
    if output_attentions and config._attn_implementation != "eager":
        raise ValueError(
            f"`output_attentions` with attention of kind {config._attn_implementation!r}, which keeps none: call "
            'model.set_attn_implementation("eager") first'
        )


@dataclass
class VideoEncoderOutput(ModelOutput):
    """The encoded tokens of a batch of clips.

    Args:
        last_hidden_state (`(B, S, D)`): One token a frame, or one a cell of a frame, in order of time; then the
            levels of the temporal pyramid. Or one token a caption query.
        attention_mask (`(B, S)`): 1 where a token stands for a real frame.
        token_times (`(B, S)`): Seconds from the clip's start.
        hidden_states (tuple of `(B, T * N, D)`): What the first layer reads and what each layer gives out, before the
            last norm; with `encoder_attention` `factorized` `(B, T, N, D)`, behind a layer of time `(B, N, T, D)`.
        attentions (tuple of `(B, heads, T * N, T * N)`): Weights of each layer; with `factorized`
            `(B * T, heads, N, N)` and `(B * N, heads, T, T)` in turns.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    attention_mask: torch.Tensor = None  # type: ignore[assignment]
    token_times: torch.Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class VideoCaptionModelOutput(ModelOutput):
    """What the decoder gives out, `(B, L, D)`, its cache, and the encoder's output; the rest as in
    [`VideoCaptionOutput`]."""

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    encoder_outputs: VideoEncoderOutput = None  # type: ignore[assignment]
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class VideoCaptionOutput(ModelOutput):
    """What the captioner returns.

    Args:
        loss (scalar): The sum of the parts, each times its weight in the config, where labels were given.
        logits (`(B, L, V)`): Scores of the next token.
        caption_loss, masked_word_loss, contrastive_loss (scalars): The loss' parts, without their weights.
        cache: The decoder's cache.
        encoder_outputs: The encoded clips, to be passed in again.
        video_embeds, text_embeds (`(B, P)`): Clip and caption in the shared space, if the contrastive loss took them.
        decoder_hidden_states (tuple of `(B, L, D)`): What the first layer reads and each layer gives out, the last
            one behind the last norm. With `fusion` `joint` the layers that see the clip have its S tokens ahead, of a
            pretrained decoder all.
        decoder_attentions (tuple of `(B, heads, L, L)`): Weights of each layer among words; with `joint` the clip's
            tokens are among them.
        cross_attentions (tuple of `(B, heads, L, S)`): Weights of words over the clip's tokens, of layers that have
            them.
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
        """What is there, in the order above, whichever was set first; so `[0]` is the loss where there is one."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(
            value.to_tuple() if isinstance(value, ModelOutput) else value for value in values if value is not None
        )
