"""What a captioner computes on top of encoder and decoder, in torch alone: scores of words, the space that clips and
captions have in common, and how captions of a clip are ranked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .blocks_vidcap import Pooler
from .encoding_vidcap import ClipTokens, padding_mask
from .novelty_vidcap import VideoCaptionNovelty

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig


class CaptionScoring(nn.Module):
    """The captioner's heads; [`VideoCaptionForConditionalGeneration`] has them within transformers.

    `model` holds encoder and decoder.
    """

    pooler_class: type[Pooler] = Pooler
    model: Any
    config: Any  # `VideoCaptionConfig`; transformers has it as `PreTrainedConfig`

    def add_heads(self, config: "VideoCaptionConfig") -> None:
        """Makes all modules beside encoder and decoder."""
        size = config.embedding_size or config.decoder_size
        self.head_projection = None
        if size != config.decoder_size:
            self.head_projection = nn.Linear(config.decoder_size, size, bias=False)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.video_pooler = self.pooler_class(config, 1)
        self.video_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.decoder_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.novelty = VideoCaptionNovelty(config)

    def lm_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The decoder's output `(B, L, D)` -> logits over the vocabulary `(B, L, V)`."""
        return self.lm_head(hidden_states if self.head_projection is None else self.head_projection(hidden_states))

    def embed_encoded(self, encoder_outputs: ClipTokens) -> torch.Tensor:
        """L2-normalised embeddings `(B, projection_dim)` of clips that the encoder has read."""
        return nn.functional.normalize(self._video_embeds(encoder_outputs), dim=-1)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """L2-normalised caption embeddings `(B, projection_dim)` of tokenised text that ends in EOS."""
        summary = self.model.decoder.encode_text(input_ids, attention_mask)
        return nn.functional.normalize(self.text_projection(summary), dim=-1)

    def _video_embeds(self, encoded: ClipTokens) -> torch.Tensor:
        mask = self._pooling_mask(encoded.last_hidden_state, encoded.attention_mask)
        return self.video_projection(self.video_pooler(encoded.last_hidden_state, mask).squeeze(1))

    def get_novelty(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """How unlike the training clips each clip is, `(B,)`: above 1 it is farther out than 99 % of the validation
        clips. `None` if training did not store what is usual. Takes all that the processor gives; `video_times` make
        no difference."""
        if not self.novelty.fitted:
            return None
        if video_features is None:
            video_features = self.model.encoder.extract_features(pixel_values_videos)
        if video_mask is None:  # of steps, of which each is real
            video_mask = torch.ones(video_features.shape[:2], dtype=torch.long, device=video_features.device)
        return self.novelty(self.novelty.summarise(video_features, video_mask))

    def _pooling_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """The mask with which the pooler looks at a clip's tokens `(B, S, D)`."""
        return padding_mask(attention_mask)


def score_tokens(
    logits: torch.Tensor, labels: torch.Tensor, eos_token_id: int | list[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithms of the probabilities of `labels` `(N, L)` by `logits` `(N, L, V)`, 0 behind a caption's end, and
    `(N, L)` of bool: the caption's tokens, EOS included."""
    found = logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    ends = torch.isin(labels, torch.tensor(eos_token_id, device=labels.device)).long()
    mask = ends.cumsum(dim=1) - ends == 0
    return found.masked_fill(~mask, 0.0), mask


@dataclass
class RankedCaptions:
    """K captions of each of B clips.

    Args:
        scores: `(B, K)`, by which they are ranked.
        lengths: `(B * K,)`, tokens of each, EOS included.
    """

    scores: torch.Tensor
    lengths: torch.Tensor

    def best(self, count: int) -> tuple[torch.Tensor, int]:
        """The rows `(B * count,)` of the best captions of each clip, best first, and the length of the longest."""
        order = self.scores.argsort(dim=1, descending=True)[:, :count]  # (B, count)
        first = self.scores.shape[1] * torch.arange(len(order), device=order.device)[:, None]
        rows = (order + first).flatten()
        return rows, int(self.lengths[rows].max())


def rank_captions(
    model: Any,
    sequences: torch.Tensor,
    log_probabilities: torch.Tensor,
    mask: torch.Tensor,
    clips: ClipTokens,
    similarity_weight: float,
    length_penalty: float,
) -> RankedCaptions:
    """Ranks captions by their probability and their likeness to the clip.

    Args:
        model: [`CaptionScoring`].
        sequences: `(B * K, 1 + L)`: the start token, then the caption.
        log_probabilities, mask: `(B * K, L)`, see [`score_tokens`].
        clips: The B encoded clips.
        similarity_weight: See [`VideoCaptionGenerationMixin`].
        length_penalty: Exponent of the length, by which the sum of logarithms is divided.
    """
    lengths = mask.sum(dim=1)
    likely = log_probabilities.sum(dim=1) / lengths**length_penalty
    captions = sequences[:, 1:].masked_fill(~mask, model.config.pad_token_id)
    texts = model.get_text_features(captions).unflatten(0, (len(clips.last_hidden_state), -1))  # (B, K, P)
    similar = torch.einsum("bkp,bp->bk", texts, model.embed_encoded(clips)).float()
    return RankedCaptions(likely.view_as(similar) + similarity_weight * model.logit_scale.exp() * similar, lengths)
