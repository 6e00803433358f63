"""Which frames of a clip to look at: pure functions on presentation times, no files and no pixels.

Sampling is uniform over time. A frame stays on screen from its own presentation time to that of the next one; the
wanted moments are spread evenly from the middle of the first frame's stay to the middle of the last one's, and at each
of them the frame on screen is taken. The first and the last frame are therefore always seen, a frame that is held for
long is taken as often as its time on screen deserves, and at a constant frame rate this is plain rounding of evenly
spread indices.

A clip and the same clip played backwards give the same frames: index `i` of the one is index `total - 1 - i` of the
other. All arithmetic is on integers, so that this holds exactly. The one case no rule can serve is an odd `num_frames`
on an even number of equally long frames, where the exact middle falls between two frames (the later one is taken).

Where decoding takes long, frames can be moved to key frames near them, which need no others.

Training may look at other frames each time: one at random of each of as many stretches of the clip.

Given up: sampling by frames per second.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


def uniform_indices(total: int, num_frames: int | None) -> list[int]:
    """
    Spreads `num_frames` indices over a clip of equally long frames.

    Args:
        total (`int`): number of frames in the clip, at least 1.
        num_frames (`int`, *optional*): how many to take; `None` takes all. 1 gives the middle frame.

    Returns:
        `list[int]`: ascending indices; all of `range(total)` when the clip has no more than `num_frames` frames.

    Raises:
        `ValueError`: if `total` or `num_frames` is less than 1.
    """
    return uniform_time_indices(range(total), total, num_frames)


def uniform_time_indices(starts: Sequence[int], end: int, num_frames: int | None) -> list[int]:
    """
    Spreads `num_frames` moments over the time of a clip and takes the frame on screen at each.

    Args:
        starts (`Sequence[int]`): ascending presentation time of every frame, in any integer unit.
        end (`int`): the time at which the last frame leaves the screen, in the same unit.
        num_frames (`int`, *optional*): how many to take; `None` takes all. 1 gives the frame at half time.

    Returns:
        `list[int]`: ascending indices into `starts`. A clip with no more than `num_frames` frames gives every frame
        once; a longer one gives exactly `num_frames`, where a frame that is held for long may come more than once.

    Raises:
        `ValueError`: if there is no frame or `num_frames` is less than 1.
    """
    total = len(starts)
    if total < 1:
        raise ValueError("cannot sample from a clip without frames")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: pass at least 1, or None for all frames")
    if num_frames is None or total <= num_frames:
        return list(range(total))

    # Twice the middle of the first and of the last frame's stay, to stay within integers.
    first = starts[0] + starts[1]
    last = starts[-1] + end
    if num_frames == 1:
        first = last = starts[0] + end
    steps = max(num_frames - 1, 1)

    indices = []
    for step in range(num_frames):
        # The wanted moment is `moment / scale`. A frame whose stay begins exactly there is taken in the second half
        # only, which makes the picks of the reversed clip the mirror image of these.
        moment, scale = first * steps + (last - first) * step, 2 * steps
        if 2 * step < num_frames - 1:
            begun = bisect_left(starts, -(-moment // scale))
        else:
            begun = bisect_right(starts, moment // scale)
        indices.append(min(max(begun - 1, 0), total - 1))
    return indices


def snap_to_keys(indices: Sequence[int], starts: Sequence[int], keys: Sequence[int]) -> list[int]:
    """
    Takes a key frame in the place of a frame where one is near: it can be decoded without the frames before it.

    Args:
        indices (`Sequence[int]`): ascending indices into `starts`.
        starts (`Sequence[int]`): ascending presentation time of every frame, in any integer unit.
        keys (`Sequence[int]`): ascending presentation times of key frames, in the same unit.

    Returns:
        `list[int]`: as many indices, ascending. Each moves by less than half of the time to the next of them on that
        side, so that no two of them meet; the first does not move backwards, nor the last forwards.
    """
    times = [starts[index] for index in indices]
    snapped = []
    for place, (index, time) in enumerate(zip(indices, times, strict=True)):
        before, after = times[max(0, place - 1)], times[min(place + 1, len(times) - 1)]
        near = bisect_right(keys, time)
        nearest = min(keys[max(0, near - 1) : near + 1], key=lambda key: abs(key - time), default=time)
        key = nearest if before - time < 2 * (nearest - time) < after - time else time
        found = bisect_left(starts, key)
        snapped.append(found if starts[found] == key else index)  # a key frame may be cut away by an edit list
    return snapped


def segment_indices(total: int, num_frames: int, draws: Sequence[float]) -> list[int]:
    """
    Cuts a clip into `num_frames` stretches that follow one another and takes a random frame of each
    (TSN, Wang et al. 2016, https://arxiv.org/abs/1608.00859).

    Args:
        total (`int`): number of frames in the clip, at least 1.
        num_frames (`int`): how many to take, at least 1.
        draws (`Sequence[float]`): `num_frames + 1` random numbers in [0, 1): where the cuts are rounded to, then which
            frame each stretch gives.

    Returns:
        `list[int]`: ascending indices, none of them twice; all of `range(total)` when the clip has no more than
        `num_frames` frames.
    """
    if total <= num_frames:
        return list(range(total))
    shift, *places = draws
    # A stretch is at least one frame long, so that no two cuts fall on the same one, whatever they are shifted by.
    cuts = [0, *(int(i * total / num_frames + shift) for i in range(1, num_frames)), total]
    return [low + int(place * (high - low)) for (low, high), place in zip(pairwise(cuts), places, strict=True)]
