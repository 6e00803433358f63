"""What a decoded clip is, how it may be decoded, and the one error that reading a clip raises.

Every kind of input ends in [`sample_clip`]: it gets the timeline of a clip and a function that reads given frames,
picks the frames, brings them to the wanted size one by one (memory depends on the frames kept, never on the clip's
length) and returns a [`VideoFrames`].

Given up: alpha (composed over white, as browsers show a transparent GIF) and more than 8 bits a channel.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .frame_sampling_vidcap import snap_to_keys, uniform_time_indices


class VideoDecodeError(ValueError):
    """
    A clip cannot be read; the message is one line, `<source>: <reason>`.

    Args:
        source (`str`): name of the clip: its path or URL, or a description of an object in memory.
        reason (`str`): what is wrong with it and, where there is one, the next step.
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
    How a clip is read.

    Args:
        num_frames (`int`, *optional*, defaults to 16): frames to take, uniform over time; `None` takes all.
        fit (`tuple[int, int]`, *optional*): (height, width) of a box. Frames are scaled, up or down, to the largest
            size of the same aspect that fits into it; `None` keeps their display size.
        interpolation (`str`, defaults to `"bilinear"`): `"bilinear"` or `"bicubic"`, both with antialiasing.
        frame_rate (`float`, defaults to 25.0): frames per second of inputs that carry no times: arrays, lists and
            folders of images.
        channels_first (`bool`, *optional*): channel order of arrays; `None` infers it from the shape.
        threads (`int`, defaults to 1): decoding threads for one video; 0 means one per core. One is the kind choice
            inside data-loading workers, more are faster on a single long video.
        skip_loop_filter (`bool`, defaults to `False`): decode without smoothing the edges of blocks (H.264, HEVC, VP8,
            VP9): faster, and frames are a little off; other codecs take no notice.
        snap_to_keyframes (`bool`, defaults to `False`): of a video file, take a key frame in the place of a frame if
            it is nearer than half of the way to the next frame taken: little is decoded of a long video then.
        max_frame_pixels (`int`, defaults to 8192 * 8192): largest height x width of a frame that is decoded.
        max_clip_frames (`int`, defaults to 2,160,000): most frames a clip may have (10 hours at 60 frames a second).
        max_download_bytes (`int`, defaults to 1 GiB): most bytes taken from a URL or from a stream that cannot seek.
        timeout (`float`, defaults to 30.0): seconds a server may stay silent.

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
            raise ValueError(f"decoding_threads={self.threads}: pass 1 or more, or 0 for one a core")
        if not self.frame_rate > 0:
            raise ValueError(f"frame_rate={self.frame_rate}: pass frames per second, more than 0")

    def check_pixels(self, height: int, width: int, source: str) -> None:
        """Raises [`VideoDecodeError`] if a frame of `height` x `width` is beyond `max_frame_pixels`."""
        if height * width > self.max_frame_pixels:
            raise VideoDecodeError(
                source,
                f"frames of {width}x{height} have {height * width} pixels, the limit is {self.max_frame_pixels}; "
                "raise max_frame_pixels to read it",
            )

    def check_length(self, count: int, source: str) -> None:
        """Raises [`VideoDecodeError`] if `count` frames are beyond `max_clip_frames`."""
        if count > self.max_clip_frames:
            raise VideoDecodeError(
                source,
                f"more than {self.max_clip_frames} frames, which is the limit; raise max_clip_frames to read it",
            )


@dataclass
class VideoFrames:
    """
    The frames taken from one clip.

    Args:
        frames (`torch.Tensor` of shape `(T, 3, H, W)`, uint8): RGB, upright, in display aspect.
        times (`torch.Tensor` of shape `(T,)`, float32): presentation times in seconds from the clip's first frame.
        mask (`torch.Tensor` of shape `(T,)`, bool): False for the repeats of the last frame that fill up a short clip.
        duration (`float`): seconds from the first frame's presentation to the end of the last one's.
        source (`str`): name of the clip, for messages.
    """

    frames: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor
    duration: float
    source: str

    def padded(self, length: int) -> "VideoFrames":
        """The same clip with its last frame and time repeated, masked, up to `length` frames."""
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
    """
    When each frame of a clip is shown.

    Args:
        starts (`Sequence[int]`): ascending presentation times in units of `tick`.
        end (`int`): when the last frame leaves the screen, in units of `tick`.
        tick (`float`): seconds in a unit.
        keys (`Sequence[int]`): ascending presentation times of key frames, as far as they are known.
    """

    starts: Sequence[int]
    end: int
    tick: float
    keys: Sequence[int] = ()

    def seconds(self, index: int) -> float:
        """Presentation time of frame `index`, in seconds from the first frame."""
        return (self.starts[index] - self.starts[0]) * self.tick


def sample_clip(
    source: str, timeline: Timeline, read: Callable[[list[int]], Iterable[torch.Tensor]], options: DecodeOptions
) -> VideoFrames:
    """
    Takes the frames of a clip that `options` asks for.

    Args:
        source (`str`): name of the clip.
        timeline (`Timeline`): when each of its frames is shown.
        read (`Callable`): gives the uint8 frames `(3, H, W)` of ascending, distinct indices, in that order.
        options (`DecodeOptions`): how many frames, and their size.

    Returns:
        `VideoFrames`: `options.num_frames` frames, or all of them if that is `None`.

    Raises:
        `VideoDecodeError`: if there are no frames, or they differ in size.
    """
    if not timeline.starts:
        raise VideoDecodeError(source, "it has no frames")
    picks = uniform_time_indices(timeline.starts, timeline.end, options.num_frames)
    if options.snap_to_keyframes:
        picks = snap_to_keys(picks, timeline.starts, timeline.keys)
    distinct = sorted(set(picks))
    frames = {index: resize_frames(frame, options) for index, frame in zip(distinct, read(distinct), strict=True)}
    return assemble_clip(
        source,
        [frames[index] for index in picks],
        [timeline.seconds(index) for index in picks],
        (timeline.end - timeline.starts[0]) * timeline.tick,
        options,
    )


def assemble_clip(
    source: str, frames: Sequence[torch.Tensor], times: list[float], duration: float, options: DecodeOptions
) -> VideoFrames:
    """Stacks frames `(3, H, W)` and fills up to `options.num_frames`; see [`VideoFrames`] for the arguments."""
    sizes = sorted({tuple(frame.shape[-2:]) for frame in frames})
    if len(sizes) > 1:
        listed = " and ".join(f"{width}x{height}" for height, width in sizes[:2])
        raise VideoDecodeError(source, f"its frames differ in size ({listed}); make them equal first")
    clip = VideoFrames(
        frames=torch.stack(list(frames)),
        times=torch.tensor(times, dtype=torch.float32),
        mask=torch.ones(len(frames), dtype=torch.bool),
        duration=duration,
        source=source,
    )
    return clip.padded(options.num_frames or 0)


def fit_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the same aspect, at least 1x1, that fits into `box`, a (height, width) too."""
    scale = min(box[0] / height, box[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frames(frames: torch.Tensor, options: DecodeOptions) -> torch.Tensor:
    """Scales uint8 frames `(..., 3, H, W)` to fit into `options.fit`; those that fit exactly stay as they are."""
    height, width = frames.shape[-2:]
    if options.fit is None or fit_size(height, width, options.fit) == (height, width):
        return frames
    size = fit_size(height, width, options.fit)
    # As torchvision's `resize` does it, which takes seconds to import.
    images = frames.reshape(-1, 3, height, width)
    scaled = F.interpolate(images, size, mode=options.interpolation, antialias=True, align_corners=False)
    return scaled.reshape(*frames.shape[:-2], *size)


def over_white(frames: torch.Tensor) -> torch.Tensor:
    """Composes uint8 RGBA frames `(..., 4, H, W)` over white: `(..., 3, H, W)`."""
    colour, alpha = frames[..., :3, :, :].int(), frames[..., 3:, :, :].int()
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def centre_frames(clip: VideoFrames, size: tuple[int, int]) -> torch.Tensor:
    """Centres the frames of a clip on black of `size` (height, width): `(T, 3, height, width)`, uint8.

    Raises:
        ValueError: If they are larger.
    """
    height, width = clip.frames.shape[-2:]
    down, right = size[0] - height, size[1] - width
    if down < 0 or right < 0:
        raise ValueError(
            f"{clip.source}: frames of {width}x{height} are larger than size {size[1]}x{size[0]}; set do_resize=True, "
            "or do_pad=False to keep them as they are"
        )
    left, top = right // 2, down // 2
    return torch.nn.functional.pad(clip.frames, (left, right - left, top, down - top))
