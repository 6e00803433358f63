"""Confidence intervals: paired bootstrap for score differences, Wilson intervals for shares.

Guarantees: the same numbers for the same seed; scores whose means are those of [`score_captions`].

Limitations: the intervals cover the choice of clips, not the variation between training seeds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .metrics import score_each

CONFIDENCE = 0.95
_NORMAL_95 = 1.959964  # standard deviations on either side that contain 95 % of a normal distribution
_BATCH = 2**22  # draws at once; keeps the resampled scores below 100 MB


class Difference(NamedTuple):
    """`mean(b) - mean(a)` and its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, samples: int = 1000, seed: int = 0
) -> Difference:
    """
    Compare two captioners on the same clips (Koehn, 2004, https://aclanthology.org/W04-3250).

    Clips are drawn with replacement, the same for both captioners; the interval holds percentiles of the difference
    between their mean scores.

    Args:
        a (`Sequence[float]`): one score per clip, such as one of [`scores_per_clip`].
        b (`Sequence[float]`): the other captioner's scores, in the same order of clips.
        samples (`int`, *optional*, defaults to 1000): number of resamplings.
        seed (`int`, *optional*, defaults to 0): random seed.

    Returns:
        `Difference`: above 0 where `b` is better; beyond chance where the interval excludes 0.

    Raises:
        `ValueError`: if there are fewer than two clips, the two differ in length, or `samples` is below 1.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"scores of shapes {first.shape} and {second.shape}: give one score per clip, for the same clips"
        )
    if len(first) < 2:
        raise ValueError(f"scores of {len(first)} clips cannot be resampled: give at least 2")
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1; 1000 is usual")
    gains = second - first  # (N,): the difference of the means is the mean of the differences
    rng = np.random.default_rng(seed)
    rows = max(1, _BATCH // len(gains))
    sizes = [min(rows, samples - start) for start in range(0, samples, rows)]
    drawn = [gains[rng.integers(len(gains), size=(size, len(gains)))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(gains.mean()), float(low), float(high))


def share_interval(count: int, clips: int) -> tuple[float, float]:
    """
    The 95 % interval of a share of clips (Wilson, 1927, https://doi.org/10.2307/2276774).

    A bootstrap would give a share of 0 or 1 an interval without width, however few the clips.

    Args:
        count (`int`): number of clips in the share, 0 to `clips`.
        clips (`int`): number of all clips, at least 1.

    Returns:
        `tuple[float, float]`: lower and upper end, from 0 to 1.
    """
    share, spread = count / clips, _NORMAL_95**2 / clips
    middle = share + spread / 2
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / clips + spread / (4 * clips))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def scores_per_clip(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """
    CIDEr, exactness and distinctness of each clip's caption, for [`paired_bootstrap`].

    The share of distinct captions is the mean of `1 / (clips with this caption)`. It is not recounted in a
    resample: a clip drawn twice would count as a repeated caption there, to the disadvantage of the more varied
    captioner.

    Args:
        hypotheses (`Sequence[str]`): one caption per clip.
        references (`Sequence[Sequence[str]]`): one or more true captions per clip.

    Returns:
        `dict[str, np.ndarray]`: `cider` (times 100), `exact` and `distinct`, each (N,).

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    return score_each(hypotheses, references, metrics=("cider", "exact", "distinct"))
