"""What a captioner has to beat: captions that need no captioner, or a plain one, scored on the same clips.

Here is what works on captions and pooled features; [`baseline_models`] holds the captioners of transformers, and
`benchmarks/baselines/compare.py` trains and compares them all.
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
    Scores baselines beside a captioner: `report["baselines"]`.

    Args:
        hypotheses (`Sequence[str]`): the captioner's caption of each clip.
        references (`Sequence[Sequence[str]]`): the true captions of each clip.
        baselines (`Mapping[str, Sequence[str]]`): the captions of each baseline by its name, of the same clips in
            the same order.

    Returns:
        `dict[str, dict[str, Any]]`: for each baseline the keys of [`score_captions`], and under `gap` for CIDEr and
        the share of exact captions `[difference, low, high]`: the captioner's score minus the baseline's, with the
        95 % interval of [`paired_bootstrap`].

    Raises:
        `ValueError`: if a baseline has more or fewer captions than there are clips, or there are fewer than 2 clips.
    """
    for name, captions in {"the captioner": hypotheses, **baselines}.items():
        if len(captions) != len(references):
            raise ValueError(f"{name}: {len(captions)} captions of {len(references)} clips: give one for each clip")
    own = scores_per_clip(hypotheses, references)
    report = {}
    for name, captions in baselines.items():
        other = scores_per_clip(captions, references)
        gap = {score: list(paired_bootstrap(other[score], own[score])) for score in GAPS}
        report[name] = {**score_captions(captions, references), "gap": gap}
    return report


def pool_features(clips: ClipDataset) -> torch.Tensor:
    """
    Clips as vectors: the mean over the frames of the features that a frozen backbone's cache holds, cell by cell.

    Args:
        clips (`ClipDataset`): clips whose cache keeps features.

    Returns:
        `torch.Tensor`: (clips, cells x size) in float32.

    Raises:
        `ValueError`: if the cache keeps frames, not features.
    """
    if clips.cache.encode is None:
        raise ValueError(
            "these clips are kept as frames: a neighbour is looked for among a frozen backbone's features"
        )

    def pool(clip: dict[str, Any]) -> torch.Tensor:
        return clip["video_features"][clip["video_mask"].bool()].float().mean(dim=0).flatten()

    return torch.stack([pool(clips[index]) for index in range(len(clips))])


def nearest_neighbours(clips: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """
    For each clip the training clip whose features have the greatest cosine with its own.

    Each feature is first brought to mean 0 and standard deviation 1 over the training clips: most are far from 0
    whatever a clip shows, and without this any two clips are nearly parallel.

    Args:
        clips (`torch.Tensor`): (N, D), see [`pool_features`].
        training (`torch.Tensor`): (M, D), of the training clips.

    Returns:
        `torch.Tensor`: (N,), indices of training clips; of equally near ones the first.
    """
    mean, std = training.mean(dim=0), training.std(dim=0, correction=0).clamp(min=1e-6)
    near, known = (torch.nn.functional.normalize((each - mean) / std, dim=-1) for each in (clips, training))
    return (near @ known.T).argmax(dim=1)
