"""What encoder, model and captioner return. Fields are None where they were not asked for."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput


@dataclass
class VideoEncoderOutput(ModelOutput):
    """The encoded tokens of a batch of clips.

    Args:
        last_hidden_state (`(B, S, D)`): One token a frame, or one a cell of a frame, in order of time; then the
            levels of the temporal pyramid. Or one token a caption query.
        attention_mask (`(B, S)`): 1 where a token stands for a real frame.
        token_times (`(B, S)`): Seconds from the clip's start.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    attention_mask: torch.Tensor = None  # type: ignore[assignment]
    token_times: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class VideoCaptionModelOutput(ModelOutput):
    """Hidden states of the decoder `(B, L, D)`, its cache, and the encoder's output."""

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    encoder_outputs: VideoEncoderOutput = None  # type: ignore[assignment]


@dataclass
class VideoCaptionOutput(ModelOutput):
    """What the captioner returns.

    Args:
        loss (scalar): The sum of the parts, each times its weight in the config, where labels were given.
        caption_loss, masked_word_loss, contrastive_loss (scalars): Its parts, without their weights.
        logits (`(B, L, V)`): Scores of the next token.
        cache: The decoder's cache.
        encoder_outputs: The encoded clips, to be passed in again.
        video_embeds, text_embeds (`(B, P)`): Clip and caption in the shared space, if the contrastive loss took them.
    """

    loss: torch.Tensor = None  # type: ignore[assignment]
    caption_loss: torch.Tensor = None  # type: ignore[assignment]
    masked_word_loss: torch.Tensor = None  # type: ignore[assignment]
    contrastive_loss: torch.Tensor = None  # type: ignore[assignment]
    logits: torch.Tensor = None  # type: ignore[assignment]
    cache: Cache | None = None
    encoder_outputs: VideoEncoderOutput = None  # type: ignore[assignment]
    video_embeds: torch.Tensor = None  # type: ignore[assignment]
    text_embeds: torch.Tensor = None  # type: ignore[assignment]

    def to_tuple(self) -> tuple:
        return tuple(
            value.to_tuple() if isinstance(value, ModelOutput) else value
            for value in (self[key] for key in self.keys())
        )
