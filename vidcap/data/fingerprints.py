"""Clips that look the same though their bytes differ: encoded anew, at another size or rate.

A clip's fingerprint is what little pictures of it show at a few moments, evenly spread over its length. Two clips
count as nearly the same where these differ by less than compression makes of one. Given up: a clip that is cut,
cropped, mirrored, bordered or brightened looks like another one.
"""

from collections.abc import Sequence

import torch

MOMENTS, SIDE = 4, 8  # pictures of a clip, and pixels a side of each
LIMIT = 3.0  # of 255, root mean square; what was measured stands in docs/log.md
_PAIRS_AT_ONCE = 1 << 24


def fingerprint(frames: torch.Tensor) -> torch.Tensor:
    """`(MOMENTS * 3 * SIDE * SIDE,)` from 0 to 255, of all frames of a clip `(T, 3, H, W)` as uint8."""
    moments = [int(len(frames) * (moment + 0.5) / MOMENTS) for moment in range(MOMENTS)]
    return torch.nn.functional.adaptive_avg_pool2d(frames[moments].float(), SIDE).flatten()


def near_pairs(
    ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], *, limit: float = LIMIT
) -> list[tuple[int, int, float]]:
    """Which of `ours` is nearly the same as which of `theirs`: both numbers and how much their fingerprints differ, as
    root mean square. All are compared with all, without more than some 100 MB."""
    if not ours or not theirs:
        return []
    known, pairs = torch.stack(list(theirs)), []
    rows = max(1, _PAIRS_AT_ONCE // len(known))
    for start in range(0, len(ours), rows):
        part = torch.stack(list(ours[start : start + rows]))
        # Differences themselves, not by way of products: those would lose what sets near ones apart.
        found = torch.cdist(part, known, compute_mode="donot_use_mm_for_euclid_dist") / part.shape[1] ** 0.5
        for row, column in (found < limit).nonzero().tolist():
            pairs.append((start + row, column, found[row, column].item()))
    return pairs
