"""Which frames of a clip to take, how to decode them, and the one error that reading a clip raises.

Every kind of input is read in the same four steps: its index gives a [`Timeline`], [`pick_frames`] chooses among its
frames, the reader decodes those and no others, and [`assemble_clip`] scales and stacks them. Memory depends on the
frames that are kept, never on the length of the clip.

Sampling is uniform over time. A frame stays on screen from its own presentation time to that of the next one; the
moments are spread evenly from the middle of the first frame's stay to the middle of the last one's, and each takes
the frame on screen. The first and the last frame are therefore always seen, and at a constant frame rate this is
plain rounding of evenly spread indices. A clip and the same clip played backwards give the same frames: index `i` of
one is index `total - 1 - i` of the other. All arithmetic is on integers, so that this holds exactly; the one exception
is an odd `num_frames` on an even number of equally long frames, whose exact middle falls between two frames (the later
one is taken).

Limitations: no sampling by frames per second, no alpha (composed over white, as browsers show a transparent GIF), and
8 bits per channel.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F


class VideoDecodeError(ValueError):
    """
    A clip that cannot be read; the message is one line, `<source>: <reason>`.

    Args:
        source (`str`): name of the clip: its path or URL, or a description of an object in memory.
        reason (`str`): the fault and, where there is one, the next step.
    """

    def __init__(self, source: str, reason: str):
        # Both go to `args`: an exception that crosses a process boundary is built again from them.
        super().__init__(source, reason)
        self.source = source
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True)
class DecodeOptions:
    """
    Options for reading a clip.

    Args:
        num_frames (`int`, *optional*, defaults to 16): frames to take, uniform over time; `None` takes all.
        fit (`tuple[int, int]`, *optional*): (height, width) of a box. Frames are scaled, up or down, to the largest
            size of the same aspect that fits into it; `None` keeps their display size.
        interpolation (`str`, defaults to `"bilinear"`): `"bilinear"` or `"bicubic"`, both antialiased.
        frame_rate (`float`, defaults to 25.0): frames per second of inputs that carry no times: arrays, lists and
            folders of images.
        channels_first (`bool`, *optional*): channel order of arrays; `None` infers it from the shape.
        threads (`int`, defaults to 1): decoding threads per video; 0 means one per core. One suits data-loading
            workers, more are faster on a single long video.
        skip_loop_filter (`bool`, defaults to `False`): skip the smoothing of block edges (H.264, HEVC, VP8, VP9):
            faster, with slightly different frames; other codecs ignore it.
        snap_to_keyframes (`bool`, defaults to `False`): replace a frame of a video file by a key frame that is nearer
            than half the way to the next frame taken, so that little of a long video is decoded.
        max_frame_pixels (`int`, defaults to 8192 * 8192): most pixels (height x width) of a frame.
        max_clip_frames (`int`, defaults to 2,160,000): most frames of a clip (10 hours at 60 frames per second).
        max_download_bytes (`int`, defaults to 1 GiB): most bytes read from a URL or from a stream that cannot seek.
        timeout (`float`, defaults to 30.0): seconds that a server may stay silent.

    Raises:
        `ValueError`: for a value out of range.
    """

    num_frames: int | None = 16
    fit: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    frame_rate: float = 25.0
    channels_first: bool | None = None
    threads: int = 1
    skip_loop_filter: bool = False
    snap_to_keyframes: bool = False
    max_frame_pixels: int = 8192 * 8192
    max_clip_frames: int = 10 * 3600 * 60
    max_download_bytes: int = 1 << 30
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames}: pass at least 1, or None for all frames")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r}: pass 'bilinear' or 'bicubic'")
        if self.threads < 0:
            raise ValueError(f"decoding_threads={self.threads}: pass 1 or more, or 0 for one per core")
        if not self.frame_rate > 0:
            raise ValueError(f"frame_rate={self.frame_rate}: pass a number of frames per second above 0")

    def check_pixels(self, height: int, width: int, source: str) -> None:
        """Raise [`VideoDecodeError`] if a frame of `height` x `width` exceeds `max_frame_pixels`."""
        if height * width > self.max_frame_pixels:
            raise VideoDecodeError(
                source,
                f"frames of {width}x{height} have {height * width} pixels, more than "
                f"max_frame_pixels={self.max_frame_pixels}; raise max_frame_pixels to read the clip",
            )

    def check_length(self, count: int, source: str) -> None:
        """Raise [`VideoDecodeError`] if `count` frames exceed `max_clip_frames`."""
        if count > self.max_clip_frames:
            raise VideoDecodeError(
                source, f"more than {self.max_clip_frames} frames; raise max_clip_frames to read the clip"
            )


@dataclass
class VideoFrames:
    """
    The frames taken from one clip.

    Args:
        frames (`torch.Tensor` of shape `(T, 3, H, W)`, uint8): RGB, upright, in display aspect.
        times (`torch.Tensor` of shape `(T,)`, float32): presentation times in seconds from the clip's first frame.
        mask (`torch.Tensor` of shape `(T,)`, bool): False for repeats of the last frame that pad a short clip.
        duration (`float`): seconds from the start of the first frame to the end of the last one.
        source (`str`): name of the clip, for messages.
    """

    frames: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor
    duration: float
    source: str

    def padded(self, length: int) -> "VideoFrames":
        """The clip, padded to `length` frames by its last frame and time; the padding is masked."""
        missing = length - len(self.frames)
        if missing <= 0:
            return self
        return VideoFrames(
            frames=torch.cat([self.frames, self.frames[-1:].expand(missing, -1, -1, -1)]),
            times=torch.cat([self.times, self.times[-1:].expand(missing)]),
            mask=torch.cat([self.mask, torch.zeros(missing, dtype=torch.bool)]),
            duration=self.duration,
            source=self.source,
        )


@dataclass(frozen=True)
class Timeline:
    """Presentation times of the frames of a clip, in units of `tick`."""

    starts: Sequence[int]  # ascending
    end: int  # time at which the last frame leaves the screen
    tick: float  # seconds per unit
    keys: Sequence[int] = ()  # ascending times of key frames, where known


def pick_frames(source: str, timeline: Timeline, options: DecodeOptions) -> list[int]:
    """Ascending indices of the frames that `options` asks for, some more than once; [`VideoDecodeError`] if none."""
    if not timeline.starts:
        raise VideoDecodeError(source, "it has no frames")
    picks = uniform_time_indices(timeline.starts, timeline.end, options.num_frames)
    return snap_to_keys(picks, timeline.starts, timeline.keys) if options.snap_to_keyframes else picks


def assemble_clip(
    source: str, timeline: Timeline, picks: Sequence[int], frames: Iterable[torch.Tensor], options: DecodeOptions
) -> VideoFrames:
    """Scales and stacks the decoded uint8 frames `(3, H, W)` of the distinct picks, which come in ascending order."""
    scaled = {i: resize_frames(frame, options) for i, frame in zip(sorted(set(picks)), frames, strict=True)}
    first = timeline.starts[0]
    times = [(timeline.starts[index] - first) * timeline.tick for index in picks]
    duration = (timeline.end - first) * timeline.tick
    return stack_clip(source, [scaled[index] for index in picks], times, duration, options)


def stack_clip(
    source: str, frames: Sequence[torch.Tensor], times: list[float], duration: float, options: DecodeOptions
) -> VideoFrames:
    """Stack frames `(3, H, W)` and pad them to `options.num_frames`; [`VideoDecodeError`] if they differ in size."""
    sizes = sorted({tuple(frame.shape[-2:]) for frame in frames})
    if len(sizes) > 1:
        examples = " and ".join(f"{width}x{height}" for height, width in sizes[:2])
        raise VideoDecodeError(source, f"its frames differ in size ({examples}); bring them to one size first")
    clip = VideoFrames(
        frames=torch.stack(list(frames)),
        times=torch.tensor(times, dtype=torch.float32),
        mask=torch.ones(len(frames), dtype=torch.bool),
        duration=duration,
        source=source,
    )
    return clip.padded(options.num_frames or 0)


def uniform_indices(total: int, num_frames: int | None) -> list[int]:
    """As [`uniform_time_indices`], for a clip of `total` equally long frames."""
    return uniform_time_indices(range(total), total, num_frames)


def uniform_time_indices(starts: Sequence[int], end: int, num_frames: int | None) -> list[int]:
    """
    Spread `num_frames` moments over the time of a clip and take the frame on screen at each.

    The ascending times `starts` and the `end` of the last frame are in one integer unit. A clip with at most
    `num_frames` frames gives every frame once; a longer one gives exactly `num_frames` ascending indices, where a
    frame that is held for long may be repeated. `None` takes all frames. A `ValueError` if there is no frame or
    `num_frames` is less than 1.
    """
    total = len(starts)
    if total < 1:
        raise ValueError("cannot sample from a clip without frames")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: pass at least 1, or None for all frames")
    if num_frames is None or total <= num_frames:
        return list(range(total))

    # Twice the middle of the first and of the last frame's stay, to remain within integers.
    first = starts[0] + starts[1]
    last = starts[-1] + end
    if num_frames == 1:
        first = last = starts[0] + end
    steps = max(num_frames - 1, 1)

    indices = []
    for step in range(num_frames):
        # The moment is `moment / scale`. A frame whose stay begins exactly there is taken in the second half only,
        # which makes the picks of the reversed clip the mirror image of these.
        moment, scale = first * steps + (last - first) * step, 2 * steps
        if 2 * step < num_frames - 1:
            begun = bisect_left(starts, -(-moment // scale))
        else:
            begun = bisect_right(starts, moment // scale)
        indices.append(min(max(begun - 1, 0), total - 1))
    return indices


def snap_to_keys(indices: Sequence[int], starts: Sequence[int], keys: Sequence[int]) -> list[int]:
    """
    Replace frames by key frames near them, which decode without the frames before them.

    Each of the ascending `indices` into `starts` moves by less than half the time to its neighbour on that side, so
    that no two meet; the first does not move backwards, nor the last forwards.
    """
    times = [starts[index] for index in indices]
    snapped = []
    for position, (index, time) in enumerate(zip(indices, times, strict=True)):
        before, after = times[max(0, position - 1)], times[min(position + 1, len(times) - 1)]
        near = bisect_right(keys, time)
        nearest = min(keys[max(0, near - 1) : near + 1], key=lambda key: abs(key - time), default=time)
        key = nearest if before - time < 2 * (nearest - time) < after - time else time
        frame = bisect_left(starts, key)
        snapped.append(frame if starts[frame] == key else index)  # an edit list may cut a key frame away
    return snapped


def segment_indices(total: int, num_frames: int, draws: Sequence[float]) -> list[int]:
    """
    Cut a clip into `num_frames` consecutive segments and take a random frame of each
    (TSN, Wang et al. 2016, https://arxiv.org/abs/1608.00859).

    Of the `num_frames + 1` random numbers in [0, 1), the first shifts the rounding of the cuts, the others choose the
    frame of each segment. Indices ascend without repeats; a clip with at most `num_frames` frames gives them all.
    """
    if total <= num_frames:
        return list(range(total))
    shift, *positions = draws
    # A segment is at least one frame long, so that no two cuts coincide, whatever the shift.
    cuts = [0, *(int(i * total / num_frames + shift) for i in range(1, num_frames)), total]
    return [low + int(where * (high - low)) for (low, high), where in zip(pairwise(cuts), positions, strict=True)]


def fit_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the same aspect, at least 1x1, that fits into `box`, (height, width) too."""
    scale = min(box[0] / height, box[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frames(frames: torch.Tensor, options: DecodeOptions) -> torch.Tensor:
    """Scale uint8 frames `(..., 3, H, W)` to fit into `options.fit`; frames that fit exactly stay as they are."""
    height, width = frames.shape[-2:]
    if options.fit is None or fit_size(height, width, options.fit) == (height, width):
        return frames
    size = fit_size(height, width, options.fit)
    # As torchvision's `resize` does, which takes seconds to import.
    images = frames.reshape(-1, 3, height, width)
    scaled = F.interpolate(images, size, mode=options.interpolation, antialias=True, align_corners=False)
    return scaled.reshape(*frames.shape[:-2], *size)


def over_white(frames: torch.Tensor) -> torch.Tensor:
    """Compose uint8 RGBA frames `(..., 4, H, W)` over white: `(..., 3, H, W)`."""
    colour, alpha = frames[..., :3, :, :].int(), frames[..., 3:, :, :].int()
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def centre_frames(clip: VideoFrames, size: tuple[int, int]) -> torch.Tensor:
    """Centre the frames of a clip on black of `size` (height, width): `(T, 3, height, width)`, uint8.

    Raises:
        ValueError: If the frames are larger.
    """
    height, width = clip.frames.shape[-2:]
    down, right = size[0] - height, size[1] - width
    if down < 0 or right < 0:
        raise ValueError(
            f"{clip.source}: frames of {width}x{height} are larger than size {size[1]}x{size[0]}; set do_resize=True, "
            "or do_pad=False to keep them as they are"
        )
    left, top = right // 2, down // 2
    return F.pad(clip.frames, (left, right - left, top, down - top))
