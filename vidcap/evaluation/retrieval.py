"""Retrieval of clips by captions and of captions by clips, in the space of the contrastive loss."""

import statistics
from collections.abc import Sequence

import torch

from .scores.ptb_tokenizer import ptb_tokenize

RANKS = (1, 5, 10)


def retrieval_scores(
    video_embeds: torch.Tensor, text_embeds: torch.Tensor, captions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Recall at 1, 5 and 10 in both directions, as shares, and the median rank.

    Args:
        video_embeds, text_embeds: `(N, P)`, L2-normalised; row i of both belongs to clip i.
        captions: The N captions of `text_embeds`. Clips whose captions are equal after tokenisation are equally right
            answers.

    Returns:
        `{"text_to_video": {"r1", "r5", "r10", "median_rank"}, "video_to_text": {...}}`; rank 1 is the best.

    Raises:
        ValueError: The three lengths differ.
    """
    if not len(video_embeds) == len(text_embeds) == len(captions):
        raise ValueError(
            f"{len(video_embeds)} clips, {len(text_embeds)} texts and {len(captions)} captions: give one of each per "
            "clip"
        )
    sentences = [tuple(ptb_tokenize(caption)) or caption for caption in captions]
    number = {sentence: index for index, sentence in enumerate(dict.fromkeys(sentences))}
    ids = torch.tensor([number[sentence] for sentence in sentences])
    same = ids[:, None] == ids[None]  # (N, N)
    similarity = text_embeds.float() @ video_embeds.float().T  # (texts, clips)
    return {"text_to_video": _recalls(similarity, same), "video_to_text": _recalls(similarity.T, same)}


def _recalls(similarity: torch.Tensor, right: torch.Tensor) -> dict[str, float]:
    """Recall by the rank of each row's best right answer; wrong answers of equal similarity rank above it."""
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (N, 1)
    ranks = 1 + ((similarity >= best) & ~right).sum(dim=1)  # (N,)
    return {f"r{k}": (ranks <= k).float().mean().item() for k in RANKS} | {
        "median_rank": statistics.median(ranks.tolist())
    }
