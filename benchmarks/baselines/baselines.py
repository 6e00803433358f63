"""Baselines that work on captions and pooled features, and scores of any baseline beside a captioner's.

`baseline_models` contains the captioners of transformers; `benchmarks/baselines/compare.py` trains and compares all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from processing.clips.clip_dataset import ClipDataset
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip
from vidcap.evaluation.scores.metrics import score_captions

GAPS = ("cider", "exact")


def score_baselines(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], baselines: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """
    Scores baselines beside a captioner, for `report["baselines"]`.

    Args:
        hypotheses (`Sequence[str]`): the captioner's caption of each clip.
        references (`Sequence[Sequence[str]]`): the true captions of each clip.
        baselines (`Mapping[str, Sequence[str]]`): the captions of each baseline by name, in the same order of clips.

    Returns:
        `dict[str, dict[str, Any]]`: for each baseline the keys of [`score_captions`], and `gap`, with
        `[difference, low, high]` for CIDEr and the share of exact captions: the captioner's score minus the
        baseline's, with the 95 % interval of [`paired_bootstrap`].

    Raises:
        `ValueError`: if the numbers of captions and clips differ, or there are fewer than 2 clips.
    """
    for name, captions in {"the captioner": hypotheses, **baselines}.items():
        if len(captions) != len(references):
            raise ValueError(f"{name}: {len(captions)} captions for {len(references)} clips; give one per clip")
    own = scores_per_clip(hypotheses, references)
    report = {}
    for name, captions in baselines.items():
        other = scores_per_clip(captions, references)
        gap = {score: list(paired_bootstrap(other[score], own[score])) for score in GAPS}
        report[name] = {**score_captions(captions, references), "gap": gap}
    return report


def pool_features(clips: ClipDataset) -> torch.Tensor:
    """
    Averages the cached features of a frozen backbone over the frames of each clip, per cell.

    Args:
        clips (`ClipDataset`): clips whose cache contains features.

    Returns:
        `torch.Tensor`: (clips, cells x size) in float32.

    Raises:
        `ValueError`: if the cache contains frames, not features.
    """
    if clips.cache.encode is None:
        raise ValueError("the cache of these clips contains frames; use a frozen backbone, whose features are cached")

    def pool(clip: dict[str, Any]) -> torch.Tensor:
        return clip["video_features"][clip["video_mask"].bool()].float().mean(dim=0).flatten()

    return torch.stack([pool(clips[index]) for index in range(len(clips))])


def nearest_neighbours(clips: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """
    Finds for each clip the training clip of the greatest cosine between their features.

    Each feature is first standardised over the training clips, since most are far from 0 for any clip and would make
    all clips nearly parallel.

    Args:
        clips (`torch.Tensor`): (N, D), see [`pool_features`].
        training (`torch.Tensor`): (M, D), of the training clips.

    Returns:
        `torch.Tensor`: (N,), indices of training clips; of equally near ones the first.
    """
    mean, std = training.mean(dim=0), training.std(dim=0, correction=0).clamp(min=1e-6)
    queries, known = (torch.nn.functional.normalize((split - mean) / std, dim=-1) for split in (clips, training))
    return (queries @ known.T).argmax(dim=1)
