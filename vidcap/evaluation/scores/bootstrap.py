"""How far the difference between two captioners could be chance: paired bootstrap over the clips they were tested on.

Promises: the same numbers for the same seed; scores whose means are those of [`score_captions`]. Gives up: what
another training seed would change, which no resampling of clips can tell.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .metrics import score_each

CONFIDENCE = 0.95
_NORMAL_95 = 1.959964  # standard deviations that hold 95 % of a normal distribution
_BATCH = 2**22  # draws at once: what is resampled together stays below 100 MB


class Difference(NamedTuple):
    """`mean(b) - mean(a)` and its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, samples: int = 1000, seed: int = 0
) -> Difference:
    """
    Compares two captioners on the same clips by drawing clips with replacement, the same for both (Koehn, 2004,
    https://aclanthology.org/W04-3250), and taking percentiles of the difference of their mean scores.

    Args:
        a (`Sequence[float]`): a score for each clip, such as one of [`scores_per_clip`].
        b (`Sequence[float]`): those of the other captioner, in the same order of clips.
        samples (`int`, *optional*, defaults to 1000): how often the clips are drawn anew.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Returns:
        `Difference`: above 0 where `b` is better; a difference is beyond chance where its interval leaves out 0.

    Raises:
        `ValueError`: if there are fewer than two clips, the two differ in length, or `samples` is below 1.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"scores of shapes {first.shape} and {second.shape}: give one a clip, of the same clips")
    if len(first) < 2:
        raise ValueError(f"{len(first)} clip: at least 2 are needed to draw from")
    if samples < 1:
        raise ValueError(f"samples={samples}: at least 1 is needed, 1000 are usual")
    gains = second - first  # (N,): of a mean, the difference is the mean of the differences
    rng = np.random.default_rng(seed)
    rows = max(1, _BATCH // len(gains))
    sizes = [min(rows, samples - start) for start in range(0, samples, rows)]
    drawn = [gains[rng.integers(len(gains), size=(size, len(gains)))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(gains.mean()), float(low), float(high))


def share_interval(count: int, clips: int) -> tuple[float, float]:
    """
    The 95 % interval of a share of clips (Wilson, 1927, https://doi.org/10.2307/2276774). Drawing clips anew would
    give a share of 0 or 1 an interval without width, however few the clips.

    Args:
        count (`int`): the clips that count, of 0 to `clips`.
        clips (`int`): all of them, at least 1.

    Returns:
        `tuple[float, float]`: its ends, from 0 to 1.
    """
    share, spread = count / clips, _NORMAL_95**2 / clips
    middle = share + spread / 2
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / clips + spread / (4 * clips))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def scores_per_clip(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """
    What each clip contributes to a score of [`score_captions`].

    The share of distinct captions is the mean of `1 / (clips with this caption)`. It is not counted anew among drawn
    clips: there a clip that was drawn twice would pass for a repeated caption, and the more varied captioner would
    lose the most by it.

    Args:
        hypotheses (`Sequence[str]`): a caption for each clip.
        references (`Sequence[Sequence[str]]`): one or more true captions for each clip.

    Returns:
        `dict[str, np.ndarray]`: `cider` (times 100), `exact` and `distinct`, each (N,).

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    return score_each(hypotheses, references, metrics=("cider", "exact", "distinct"))
