"""A captioned clip as pictures: a strip of its frames, an animation, and many clips on one sheet."""

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..files import write_bytes_atomically

_FRAMES_SHOWN = 8
_WIDEST = 4  # a frame's width in a strip, in its heights; wider ones are made lower
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
        seconds: How long the frames last together, for playing them.
        controls: The captions under controls, by the control's name.
        draw: Its place in a random order of all clips: those that come first are a fair sample.
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


def contact_sheet(examples: Sequence[ReportExample], path: str | os.PathLike[str], *, columns: int = 1) -> None:
    """Draw clips as strips of frames with their captions below, as one PNG picture.

    Args:
        examples: The clips, row by row. Where a caption is wrong, the truth stands below it.
        path: The file to write.
        columns: Strips side by side.

    Raises:
        ValueError: There are no examples, `columns` is less than 1 or an example's frames are no uint8 (T, H, W, 3).
    """
    if not examples:
        raise ValueError("a contact sheet needs at least one example")
    if columns < 1:
        raise ValueError(f"columns={columns}: at least one column is needed")
    strips = [draw_strip(example, height=80) for example in examples]
    font = ImageFont.load_default(size=15)
    width = max(strip.width for strip in strips)
    letters = int(width / font.getlength("n"))
    captions = []
    for example in examples:
        lines = textwrap.wrap(example.hypothesis, letters) or ["(empty caption)"]
        if not example.exact:
            lines = [*lines, *textwrap.wrap(f"WRONG, truth: {example.references[0]}", letters)]
        captions.append(lines)
    line, margin = 20, 16
    cells = [strip.height + 4 + line * len(lines) for strip, lines in zip(strips, captions, strict=True)]
    rows = [max(cells[first : first + columns]) + margin for first in range(0, len(cells), columns)]
    sheet = Image.new("RGB", (columns * (width + margin) + margin, sum(rows) + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (example, strip, lines) in enumerate(zip(examples, strips, captions, strict=True)):
        x, y = margin + i % columns * (width + margin), margin + sum(rows[: i // columns])
        sheet.paste(strip, (x, y))
        colour = "#1f2328" if example.exact else "#b42318"
        draw.multiline_text((x, y + strip.height + 4), "\n".join(lines), font=font, fill=colour, spacing=3)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes_atomically(path, buffer.getvalue())


def draw_strip(example: ReportExample, *, height: int) -> Image.Image:
    """Up to eight frames of a clip, evenly spread from the first to the last, side by side."""
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
    # Equal frames would be merged, and with all of them equal no animation be left, without `minimize_size=False`.
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=60, method=4
    )
    return buffer.getvalue()


def encode_gif(example: ReportExample, *, most_bytes: int = 100_000) -> bytes:
    """The clip as a GIF of at most 16 frames; of 160 pixels a side, or fewer where it would be too large.

    Args:
        example: The clip.
        most_bytes: That are allowed.

    Raises:
        ValueError: Not even 32 pixels a side fit.
    """
    for side in (_ANIMATION_SIDE, 128, 96, 64, 32):
        pictures = [picture.quantize(_GIF_COLOURS) for picture in _pictures(example, side)]
        duration = _frame_duration(example, len(pictures))
        buffer = io.BytesIO()
        pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
        if buffer.tell() <= most_bytes:
            return buffer.getvalue()
    raise ValueError(f"{example.file_name}: no GIF of it fits into {most_bytes} bytes; allow more")


def _pictures(example: ReportExample, side: int) -> list[Image.Image]:
    """The frames of an animation, fitted into a square."""
    pictures = [Image.fromarray(frame) for frame in _frames(example, _ANIMATION_FRAMES)]
    for picture in pictures:
        picture.thumbnail((side, side))
    return pictures


def _frame_duration(example: ReportExample, count: int) -> int:
    """Milliseconds for each of `count` frames."""
    if not example.seconds:
        return _DEFAULT_FRAME
    return min(max(round(1000 * example.seconds / count), _SHORTEST_FRAME), _LONGEST_FRAME)


def _frames(example: ReportExample, count: int) -> np.ndarray:
    """At most `count` frames, evenly spread from the first to the last."""
    frames = np.asarray(example.frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"{example.file_name}: frames are {frames.dtype} of shape {frames.shape}; uint8 (T, H, W, 3) is needed"
        )
    return frames[np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))]
