"""Pictures of a captioned clip: a strip of its frames, and animations."""

import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

_FRAMES_SHOWN = 8
_WIDEST = 4  # greatest width of a frame in a strip, in heights of the strip
_ANIMATION_FRAMES, _ANIMATION_SIDE = 16, 160
_GIF_COLOURS = 64
_SHORTEST_FRAME, _LONGEST_FRAME = 40, 1000  # milliseconds
_DEFAULT_FRAME = 125


@dataclass
class ReportExample:
    """A captioned clip to show.

    Attributes:
        file_name: The clip's name in its data set.
        frames: uint8 RGB (T, H, W, 3), T at least 1.
        hypothesis: The model's caption.
        references: The true captions, at least one.
        exact: Whether the caption equals a reference.
        score: The caption's CIDEr, times 100.
        seconds: Duration of the frames together, for animations.
        controls: The captions under controls, by the control's name.
        draw: Position in a random order of all clips, whose first ones are a random sample.
    """

    file_name: str
    frames: np.ndarray | torch.Tensor
    hypothesis: str
    references: list[str]
    exact: bool
    score: float | None = None
    seconds: float | None = None
    controls: dict[str, str] = field(default_factory=dict)
    draw: int = 0


def draw_strip(example: ReportExample, *, height: int) -> Image.Image:
    """Up to eight frames of a clip side by side, evenly spaced from the first to the last."""
    frames = _frames(example, _FRAMES_SHOWN)
    scale = min(height / frames.shape[1], _WIDEST * height / frames.shape[2])
    width, lower = (max(1, round(scale * side)) for side in (frames.shape[2], frames.shape[1]))
    strip = Image.new("RGB", (len(frames) * (width + 2) - 2, height), "white")
    for place, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((width, lower), Image.Resampling.BICUBIC)
        strip.paste(picture, (place * (width + 2), (height - lower) // 2))
    return strip


def encode_animation(example: ReportExample) -> bytes | None:
    """The clip as an animated WebP of at most 16 frames and 160 pixels a side; `None` for a clip of one frame."""
    pictures = _pictures(example, _ANIMATION_SIDE)
    if len(pictures) == 1:
        return None
    duration = _frame_duration(example, len(pictures))
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=60, method=4
    )
    return buffer.getvalue()


def encode_gif(example: ReportExample, *, most_bytes: int = 100_000) -> bytes:
    """The clip as a GIF of at most 16 frames and 160 pixels a side, fewer if it is too large.

    Args:
        example: The clip.
        most_bytes: Largest allowed size.

    Raises:
        ValueError: A GIF of 32 pixels a side is still too large.
    """
    for side in (_ANIMATION_SIDE, 128, 96, 64, 32):
        pictures = [picture.quantize(_GIF_COLOURS) for picture in _pictures(example, side)]
        duration = _frame_duration(example, len(pictures))
        buffer = io.BytesIO()
        pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
        if buffer.tell() <= most_bytes:
            return buffer.getvalue()
    raise ValueError(f"{example.file_name} does not fit into a GIF of {most_bytes} bytes: raise most_bytes")


def _pictures(example: ReportExample, side: int) -> list[Image.Image]:
    """The frames of an animation, scaled to fit a square."""
    pictures = [Image.fromarray(frame) for frame in _frames(example, _ANIMATION_FRAMES)]
    for picture in pictures:
        picture.thumbnail((side, side))
    return pictures


def _frame_duration(example: ReportExample, count: int) -> int:
    """Duration of each of `count` frames in milliseconds."""
    if not example.seconds:
        return _DEFAULT_FRAME
    return min(max(round(1000 * example.seconds / count), _SHORTEST_FRAME), _LONGEST_FRAME)


def _frames(example: ReportExample, count: int) -> np.ndarray:
    """At most `count` frames, evenly spaced from the first to the last."""
    frames = np.asarray(example.frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"{example.file_name}: frames of type {frames.dtype} and shape {frames.shape} cannot be shown; give uint8 "
            "of shape (T, H, W, 3)"
        )
    return frames[np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))]
