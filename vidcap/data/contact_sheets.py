"""Contact sheets: three frames of some clips of a split, with their captions, in one picture.

Limitations: characters missing in Pillow's default font are drawn as boxes.
"""

import io
import random
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from processing import decode_video

from ..files import write_bytes_atomically

CLIPS, COLUMNS = 24, 3
SEED = 0
BOX = (96, 128)  # height and width of a frame, in pixels
GAP, MARGIN, LINE, LETTER_SIZE = 2, 12, 16, 12
CAPTIONS_SHOWN, LINES_SHOWN = 2, 3  # captions per clip, and lines per caption


def draw_clips(readable: Sequence[int]) -> list[int]:
    """Draw up to `CLIPS` of the clips with a fixed seed, and sort them."""
    return sorted(random.Random(SEED).sample(list(readable), min(CLIPS, len(readable))))


def save_contact_sheet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Save a picture with the first, middle and last frame of each clip above its captions.

    Args:
        rows: Rows as described in `processing.clips.rows`, at least one.
        path: The PNG file, which appears complete or not at all.

    Raises:
        ValueError: If there are no rows.
        VideoDecodeError: If a clip cannot be read.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one clip")
    height, width = BOX[0], 3 * (BOX[1] + GAP) - GAP
    font = ImageFont.load_default(size=LETTER_SIZE)
    texts = [_lines(row["captions"], int(width / font.getlength("n"))) for row in rows]
    # Each row of the sheet is as high as its longest text needs.
    heights = [
        height + LINE * max(map(len, texts[first : first + COLUMNS])) + MARGIN
        for first in range(0, len(rows), COLUMNS)
    ]
    columns = min(COLUMNS, len(rows))
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (row, lines) in enumerate(zip(rows, texts, strict=True)):
        left = MARGIN + index % COLUMNS * (width + MARGIN)
        top = MARGIN + sum(heights[: index // COLUMNS])
        clip = decode_video(row["video"], num_frames=3, fit=BOX)
        for place, frame in enumerate(clip.frames[clip.mask]):
            sheet.paste(_to_image(frame), (left + place * (BOX[1] + GAP), top))
        draw.multiline_text(
            (left, top + height), "\n".join(lines), font=font, fill="black", spacing=LINE - LETTER_SIZE
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes_atomically(path, buffer.getvalue())


def _lines(captions: Sequence[str], letters: int) -> list[str]:
    lines = []
    for caption in captions[:CAPTIONS_SHOWN]:
        lines += textwrap.wrap(caption, letters, max_lines=LINES_SHOWN, placeholder=" ...")
    if len(captions) > CAPTIONS_SHOWN:
        lines.append(f"and {len(captions) - CAPTIONS_SHOWN} more")
    return lines


def _to_image(frame: torch.Tensor) -> Image.Image:
    """A frame `(3, H, W)`, uint8, as a picture."""
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
