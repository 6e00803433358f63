"""The captioner's heads in plain torch: word scores, the shared space of clips and captions, novelty, ranking."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .blocks_vidcap import Pooler
from .encoding_vidcap import ClipTokens, padding_mask

if TYPE_CHECKING:
    from .backbones_vidcap import VideoBackbone
    from .configuration_vidcap import VideoCaptionConfig


SHRINKAGE = 0.1  # towards equal variances: few clips hardly determine a covariance in most directions
CALIBRATION_QUANTILE = 0.99  # share of the validation clips that count as usual


class TooFewClipsError(ValueError):
    """Too few clips to fit [`VideoCaptionNovelty`]."""


class VideoCaptionNovelty(nn.Module):
    """Mahalanobis distance of a clip's mean backbone features from those of the training clips.

    Lee et al. 2018 (https://arxiv.org/abs/1807.03888), without classes. The distance is scaled so that 99 % of the
    validation clips are below 1. Before [`fit`][VideoCaptionNovelty.fit] all values are 0.
    """

    mean: torch.Tensor
    precision: torch.Tensor
    limit: torch.Tensor

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        size = config.cell_features
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("precision", torch.zeros(size, size))
        self.register_buffer("limit", torch.ones(()))

    @property
    def fitted(self) -> bool:
        return bool(self.precision.any())

    @staticmethod
    def summarise(video_features: torch.Tensor, video_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T', N, D)` -> `(B, D)`: the mean over the cells of the real frames, given their mask `(B, T)`.

        T is a multiple of T', larger where a clip encoder joins frames.
        """
        video_mask = video_mask.unflatten(1, (video_features.shape[1], -1)).amax(dim=-1)  # (B, T')
        weights = video_mask.float() / video_mask.sum(dim=1, keepdim=True)  # (B, T)
        return torch.einsum("btnd,bt->bd", video_features.float(), weights) / video_features.shape[2]

    def fit(self, training: Iterable[torch.Tensor], validation: Iterable[torch.Tensor]) -> None:
        """Fit the distribution of the summaries `(B, D)` of training clips, and the scale by validation clips.

        Raises:
            ValueError: If there are fewer than 2 training clips or no validation clip.
        """
        size = len(self.mean)
        count, total, covariance = 0, torch.zeros(size).double(), torch.zeros(size, size).double()
        for summaries in training:  # a running sum, so that memory does not grow with the number of clips
            summaries = summaries.double()
            count += len(summaries)
            total += summaries.sum(dim=0)
            covariance.addmm_(summaries.T, summaries)
        held_out = torch.cat(list(validation) or [self.mean[None][:0]])
        if count < 2 or not len(held_out):
            raise TooFewClipsError(
                f"novelty needs at least 2 training clips and 1 validation clip, got {count} and {len(held_out)}"
            )
        mean = total / count
        covariance.addr_(mean, mean, alpha=-count).div_(count - 1)
        variance = covariance.diagonal().mean().clamp(min=1e-12)
        covariance.mul_(1 - SHRINKAGE).diagonal().add_(SHRINKAGE * variance)
        self.mean.copy_(mean)
        self.precision.copy_(torch.linalg.inv(covariance) / size)
        self.limit.fill_(1.0)
        self.limit.copy_(self(held_out.to(self.mean.device)).quantile(CALIBRATION_QUANTILE).clamp(min=1e-6))

    def forward(self, summaries: torch.Tensor) -> torch.Tensor:
        """Distances `(B,)` of summaries `(B, D)`."""
        offsets = summaries.float() - self.mean.float()
        squares = torch.einsum("bd,de,be->b", offsets, self.precision.float(), offsets)
        return squares.clamp(min=0).sqrt() / self.limit.float()


class CaptionScoring(nn.Module):
    """The captioner's heads; [`VideoCaptionForConditionalGeneration`] is the version within transformers.

    Attributes:
        model: Encoder and decoder.
    """

    pooler_class: type[Pooler] = Pooler
    model: Any
    config: Any  # `VideoCaptionConfig`; transformers declares it as `PreTrainedConfig`

    @property
    def backbone(self) -> "VideoBackbone":
        """The backbone, which turns pixels into features."""
        return self.model.encoder.backbone

    def add_heads(self, config: "VideoCaptionConfig") -> None:
        """Create all modules beside encoder and decoder."""
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
        """L2-normalised embeddings `(B, E)` of encoded clips; E is `projection_dim`, with a memory's share more."""
        learned = nn.functional.normalize(self._video_embeds(encoder_outputs), dim=-1)
        if not self.config.memory_share:
            return learned
        words: Any = encoder_outputs.video_words
        return self._with_memory(learned, words)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """L2-normalised caption embeddings `(B, E)` of tokenised text that ends in EOS."""
        summary = self.model.decoder.encode_text(input_ids, attention_mask)
        learned = nn.functional.normalize(self.text_projection(summary), dim=-1)
        if not self.config.memory_share:
            return learned
        return self._with_memory(learned, self.model.encoder.memory.embed(input_ids, end_tokens(self.config)))

    def _with_memory(self, learned: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, E)` whose products are a mean of those of the contrastive loss and of the memory."""
        remembered = self.model.encoder.memory.normalise(vectors).to(learned.dtype) / vectors.shape[-1] ** 0.5
        share = self.config.memory_share
        return torch.cat([(1 - share) ** 0.5 * learned, share**0.5 * remembered], dim=-1)

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
        """Distance `(B,)` of each clip from the training clips, see [`VideoCaptionNovelty`]; `None` if not fitted.

        Takes all outputs of the processor; `video_times` make no difference.
        """
        if not self.novelty.fitted:
            return None
        if video_features is None:
            video_features = self.model.encoder.extract_features(pixel_values_videos)
        if video_mask is None:  # all steps are real
            video_mask = torch.ones(video_features.shape[:2], dtype=torch.long, device=video_features.device)
        return self.novelty(self.novelty.summarise(video_features, video_mask))

    def _pooling_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """The mask with which the pooler attends to a clip's tokens `(B, S, D)`."""
        return padding_mask(attention_mask)


def end_tokens(config: "VideoCaptionConfig") -> list[int]:
    """The tokens that end a caption."""
    ends = config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def score_tokens(
    logits: torch.Tensor, labels: torch.Tensor, eos_token_id: int | list[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities `(N, L)` of `labels` `(N, L)` by `logits` `(N, L, V)`, 0 after a caption's end, and a mask.

    The mask `(N, L)` of bool marks the caption's tokens, EOS included.
    """
    log_probabilities = logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    ends = torch.isin(labels, torch.tensor(eos_token_id, device=labels.device)).long()
    mask = ends.cumsum(dim=1) - ends == 0
    return log_probabilities.masked_fill(~mask, 0.0), mask


@dataclass
class RankedCaptions:
    """K captions of each of B clips.

    Attributes:
        scores: `(B, K)`, by which they are ranked.
        lengths: `(B * K,)`, number of tokens, EOS included.
    """

    scores: torch.Tensor
    lengths: torch.Tensor

    def best(self, count: int) -> tuple[torch.Tensor, int]:
        """Rows `(B * count,)` of the best captions of each clip, best first, and the length of the longest."""
        order = self.scores.argsort(dim=1, descending=True)[:, :count]  # (B, count)
        first = self.scores.shape[1] * torch.arange(len(order), device=order.device)[:, None]
        rows = (order + first).flatten()
        return rows, int(self.lengths[rows].max())


@dataclass(frozen=True)
class Ranking:
    """What finished captions are ranked by.

    Attributes:
        similarity_weight, memory_weight: See [`VideoCaptionGenerationMixin`].
        length_penalty: Exponent of the length, by which the sum of logarithms is divided.
    """

    similarity_weight: float = 0.0
    memory_weight: float = 0.0
    length_penalty: float = 1.0


def rank_captions(
    model: CaptionScoring,
    sequences: torch.Tensor,
    log_probabilities: torch.Tensor,
    mask: torch.Tensor,
    clips: ClipTokens,
    ranking: Ranking,
) -> RankedCaptions:
    """Rank captions by their probability, their likeness to the clip, and what the memory expects.

    Args:
        sequences: `(B * K, 1 + L)`: the start token, then the caption.
        log_probabilities, mask: `(B * K, L)`, see [`score_tokens`].
        clips: The B encoded clips.
    """
    lengths = mask.sum(dim=1)
    batch = len(clips.last_hidden_state)
    scores = (log_probabilities.sum(dim=1) / lengths**ranking.length_penalty).float().unflatten(0, (batch, -1))
    captions = sequences[:, 1:].masked_fill(~mask, model.config.pad_token_id)
    if ranking.similarity_weight:
        texts = model.get_text_features(captions).unflatten(0, (batch, -1))  # (B, K, P)
        similar = torch.einsum("bkp,bp->bk", texts, model.embed_encoded(clips)).float()
        scores = scores + ranking.similarity_weight * model.logit_scale.exp() * similar
    if ranking.memory_weight:
        scores = scores + ranking.memory_weight * remembered_scores(model, captions, clips)
    # A caption that is written and remembered counts once.
    rows = captions.unflatten(0, (batch, -1))
    same = (rows.unsqueeze(1) == rows.unsqueeze(2)).all(dim=-1).tril(diagonal=-1).any(dim=-1)  # (B, K)
    return RankedCaptions(scores.masked_fill(same, -torch.inf), lengths)


def remembered_scores(model: CaptionScoring, captions: torch.Tensor, clips: ClipTokens) -> torch.Tensor:
    """Expected CIDEr / 10 `(B, K)` of captions `(B * K, L)` of B clips, by the model's memory."""
    vectors = model.model.encoder.memory.embed(captions, end_tokens(model.config))
    return torch.einsum("bkp,bp->bk", vectors.unflatten(0, (len(clips.last_hidden_state), -1)), clips.video_words)


def add_remembered(
    model: CaptionScoring,
    sequences: torch.Tensor,
    clips: ClipTokens,
    *,
    max_length: int,
    banned: Sequence[Sequence[int]] = (),
) -> torch.Tensor:
    """K captions of each clip `(B * K, 1 + L)`, followed by those that its memory recalls: `(B * (K + M), 1 + L')`.

    Args:
        max_length: Longest caption in tokens, EOS included.
        banned: Sequences of tokens that no caption may contain.
    """
    memory = model.model.encoder.memory
    recalled = memory.recall(clips.video_words, max_length=max_length, banned=banned)  # (B, M, L)
    batch, count, length = recalled.shape
    start = sequences[:1, :1].expand(batch * count, 1)
    recalled = torch.cat([start, recalled.flatten(0, 1)], dim=1)
    longest = max(1 + length, sequences.shape[1])
    pad = model.config.pad_token_id
    written, recalled = (
        nn.functional.pad(each, (0, longest - each.shape[1]), value=pad).unflatten(0, (batch, -1))
        for each in (sequences, recalled)
    )
    return torch.cat([written, recalled], dim=1).flatten(0, 1)
