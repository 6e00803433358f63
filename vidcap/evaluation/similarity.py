"""Similarity of captions to the true ones, and to the clip, in the space of an encoder that the user names.

Guarantees: the formulas of the papers.

Limitations: scores are comparable only for the same encoder, which a report must name.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from processing.support.trusted import load_pretrained

from ..inference.loading import is_path
from .scores.pairs import check_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

CLIP_SCORE_WEIGHT = 2.5
CLIP_SCORE_PROMPT = "A photo depicts "  # precedes each caption in Hessel et al.

TextEncoder = Callable[[Sequence[str]], torch.Tensor]
"""Texts to embeddings (N, P)."""


def _load(from_pretrained: Callable[..., Any], name: str | Path, **kwargs: bool) -> Any:
    if is_path(str(name)) and not Path(name).is_dir():
        raise ValueError(f"There is no folder {str(name)!r}: give a model folder or a Hub id.")
    return load_pretrained(from_pretrained, str(name), **kwargs)


class SentenceEncoder:
    """Encodes texts by mean pooling of a text model's last hidden states, L2-normalised.

    Args:
        name: A model folder or a Hub id. Only safetensors are loaded.
        batch_size: Texts encoded at once.

    Raises:
        ValueError: The folder does not exist, or the model needs its own code.
    """

    def __init__(self, name: str | Path, *, batch_size: int = 64):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = _load(AutoTokenizer.from_pretrained, name)
        self.model = _load(AutoModel.from_pretrained, name, use_safetensors=True).eval()
        self.batch_size = batch_size
        # The model's positions are the limit where the tokenizer has none.
        positions = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.max_length = min(self.tokenizer.model_max_length, positions)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings `(N, P)`; longer texts are cut to the model's length."""
        embeds = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            inputs = self.tokenizer(
                batch, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            states = self.model(**inputs).last_hidden_state  # (B, L, P)
            mask = inputs["attention_mask"][..., None]  # (B, L, 1)
            embeds.append((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
        return nn.functional.normalize(torch.cat(embeds), dim=-1)


class ClipEncoder:
    """Encodes texts and clips in the space of a CLIP-like model (CLIP, SigLIP ...), L2-normalised.

    A clip is the mean of its frames' normalised embeddings (as in EMScore's coarse matching, Shi et al., 2022,
    https://arxiv.org/abs/2111.08919).

    Args:
        model: A model with `get_text_features` and `get_image_features`.
        processor: Its processor, for texts and images.
        batch_size: Texts or frames encoded at once.
    """

    def __init__(self, model: "PreTrainedModel", processor: "ProcessorMixin", *, batch_size: int = 64):
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, name: str | Path, *, batch_size: int = 64) -> "ClipEncoder":
        """Load a model folder or Hub id, safetensors only. Raises `ValueError` as [`SentenceEncoder`] does."""
        from transformers import AutoModel, AutoProcessor

        model = _load(AutoModel.from_pretrained, name, use_safetensors=True)
        return cls(model, _load(AutoProcessor.from_pretrained, name), batch_size=batch_size)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts, `(N, P)`."""
        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        return self._embed(
            list(texts), self.model.get_text_features, lambda batch: self.processor.tokenizer(batch, **options)
        )

    def embed_clips(self, clips: Sequence[Sequence[Any] | torch.Tensor]) -> torch.Tensor:
        """Embeddings `(N, P)` of clips, each a list of images or a tensor `(T, 3, H, W)`, uint8."""
        lengths = [len(clip) for clip in clips]
        if 0 in lengths:
            raise ValueError(f"Clip {lengths.index(0)} has no frames: give at least one, or omit the clip.")
        frames = self._embed(
            [frame for clip in clips for frame in clip],
            self.model.get_image_features,
            lambda batch: self.processor.image_processor(batch, return_tensors="pt"),
        )
        means = torch.stack([clip.mean(dim=0) for clip in frames.split(lengths)])
        return nn.functional.normalize(means, dim=-1)

    @torch.inference_mode()
    def _embed(self, items: list[Any], encode: Callable, prepare: Callable[[list[Any]], Any]) -> torch.Tensor:
        embeds = []
        for start in range(0, len(items), self.batch_size):
            inputs = prepare(items[start : start + self.batch_size]).to(self.model.device)
            embeds.append(encode(**inputs).pooler_output.float().cpu())
        return nn.functional.normalize(torch.cat(embeds), dim=-1)


def embedding_similarity(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], encode: TextEncoder
) -> tuple[float, np.ndarray]:
    """
    Cosine of each caption with the nearest of its references.

    Args:
        hypotheses (`Sequence[str]`): one caption per clip.
        references (`Sequence[Sequence[str]]`): one or more true captions per clip.
        encode (`Callable`): texts -> embeddings (N, P), such as a [`SentenceEncoder`].

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the cosine of each clip, (N,), from -1 to 1.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    check_pairs(hypotheses, references)
    texts = list(dict.fromkeys([*hypotheses, *(truth for truths in references for truth in truths)]))
    rows = dict(zip(texts, nn.functional.normalize(torch.as_tensor(encode(texts)).float(), dim=-1), strict=True))
    cosines = _nearest(
        torch.stack([rows[hypothesis] for hypothesis in hypotheses]),
        [torch.stack([rows[truth] for truth in truths]) for truths in references],
    )
    return float(cosines.mean()), cosines


def clip_score(video_embeds: torch.Tensor, text_embeds: torch.Tensor) -> tuple[float, np.ndarray]:
    """
    CLIPScore (Hessel et al., 2021, https://arxiv.org/abs/2104.08718): 2.5 max(cos, 0) of clips and captions.

    Args:
        video_embeds, text_embeds (`torch.Tensor`): (N, P), row i of both for clip i, from a [`ClipEncoder`], or from
            `embed_clips` and `embed_texts` of `vidcap.inference.captioning` with a captioner trained with a
            contrastive loss. The paper puts [`CLIP_SCORE_PROMPT`] before each caption.

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,), from 0 to 2.5.

    Raises:
        `ValueError`: if there are no clips or the two numbers differ.
    """
    if len(video_embeds) != len(text_embeds) or not len(video_embeds):
        raise ValueError(
            f"{len(video_embeds)} clips and {len(text_embeds)} captions: give one caption per clip, at least 1."
        )
    cosines = nn.functional.cosine_similarity(video_embeds.float(), text_embeds.float(), dim=-1)
    scores = CLIP_SCORE_WEIGHT * cosines.clamp(min=0).double().numpy()
    return float(scores.mean()), scores


def ref_clip_score(
    video_embeds: torch.Tensor, text_embeds: torch.Tensor, reference_embeds: Sequence[torch.Tensor]
) -> tuple[float, np.ndarray]:
    """
    RefCLIPScore (Hessel et al., 2021): the harmonic mean of [`clip_score`] and max(cos, 0) with the nearest reference.

    Args:
        video_embeds, text_embeds (`torch.Tensor`): as for [`clip_score`].
        reference_embeds (`Sequence[torch.Tensor]`): the references of each clip, (R, P).

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,).

    Raises:
        `ValueError`: if there are no clips, the numbers differ, or a clip has no reference.
    """
    _, with_video = clip_score(video_embeds, text_embeds)
    check_pairs(text_embeds.tolist(), [embeds.tolist() for embeds in reference_embeds])
    with_text = np.maximum(_nearest(text_embeds, reference_embeds), 0)
    total = with_video + with_text
    scores = np.divide(2 * with_video * with_text, total, out=np.zeros_like(total), where=total > 0)
    return float(scores.mean()), scores


def _nearest(embeds: torch.Tensor, alternatives: Sequence[torch.Tensor]) -> np.ndarray:
    """The cosine of each row with the nearest of its alternatives, (N,)."""
    cosines = [
        nn.functional.cosine_similarity(row.float(), others.float(), dim=-1).max()
        for row, others in zip(embeds, alternatives, strict=True)
    ]
    return torch.stack(cosines).double().numpy()
