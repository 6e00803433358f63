"""Image files, still or animated -> frames and times, through Pillow: GIF, WebP, PNG (APNG), JPEG, BMP.

The delays of an animation are read from the file's blocks without decoding a pixel; one pass then decodes up to the
last frame that was picked. Transparent images are composed over white and still photographs turned upright. A delay
of at most 10 ms counts as 100 ms, as in the common browsers, because encoders write 0 for "unset".

Limitations: the second image of a stereo JPEG, and an APNG's fallback picture for viewers that cannot animate, are
ignored.
"""

import struct
from array import array
from collections.abc import Iterator
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .video_frames_vidcap import (
    DecodeOptions,
    Timeline,
    VideoDecodeError,
    VideoFrames,
    assemble_clip,
    over_white,
    pick_frames,
)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
SHORTEST_DELAY, UNSET_DELAY = 10_000, 100_000  # microseconds, the unit of all delays here
MICROSECOND = 1e-6

# Raised by Pillow's decoders for damaged files.
PILLOW_ERRORS = (OSError, SyntaxError, EOFError, ValueError, struct.error, Image.DecompressionBombError)


def read_image_file(file: IO[bytes], source: str, options: DecodeOptions, *, still: bool = False) -> VideoFrames:
    """
    Read a clip from a seekable image file, which stays open; a still image is a clip of one frame.

    Args:
        still (`bool`, defaults to `False`): refuse animations.

    Raises:
        `VideoDecodeError`: if the file is truncated, damaged or beyond a limit, or an animation that is refused.
    """
    delays = array("q")
    try:
        for delay in _file_delays(file):
            delays.append(delay)
            options.check_length(len(delays), source)
    except EOFError as error:
        raise VideoDecodeError(source, f"truncated: the file ends after {len(delays)} complete frames") from error
    if still and len(delays) > 1:
        raise VideoDecodeError(source, "an animation among single frames; pass it as a clip of its own")
    try:
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            options.check_pixels(image.height, image.width, source)
            return _sample_image(image, delays, source, options)
    except VideoDecodeError:
        raise
    except PILLOW_ERRORS as error:
        raise _damaged(source, error) from error


def read_image(image: Image.Image, source: str, options: DecodeOptions) -> VideoFrames:
    """Read a clip from a Pillow image, animated or not, as [`read_image_file`]; it stays at its current frame."""
    options.check_pixels(image.height, image.width, source)
    current = image.tell()
    delays = array("q")
    try:
        if is_animated(image):
            hidden = _hidden_frames(image)
            options.check_length(image.n_frames, source)  # type: ignore[attr-defined]
            for index in range(hidden, image.n_frames):  # type: ignore[attr-defined]
                image.seek(index)
                image.load()  # the WebP reader knows a delay only now
                delays.append(round(image.info.get("duration", 0) * 1000))
        clip = _sample_image(image, delays, source, options)
        image.seek(current)
        return clip
    except VideoDecodeError:
        raise
    except PILLOW_ERRORS as error:
        raise _damaged(source, error) from error


def is_animated(image: Image.Image) -> bool:
    """Whether a Pillow image holds more than one frame; Pillow defines the attribute on some classes only."""
    return getattr(image, "is_animated", False)


def image_to_tensor(image: Image.Image, source: str) -> torch.Tensor:
    """The current frame of a Pillow image as uint8 RGB `(3, H, W)`, transparency composed over white.

    Raises:
        VideoDecodeError: If its shades have 32 bits, which define no white.
    """
    if image.mode.startswith("I;16"):  # Pillow itself would make all but the darkest 256 shades white
        shades = torch.from_numpy(np.asarray(image).astype(np.int32))
        return ((shades * 255 + 32767) // 65535).to(torch.uint8).expand(3, -1, -1)
    if image.mode in ("I", "F"):
        reason = f"shades of 32 bits (mode {image.mode}) do not define white; store the image with 8 or 16 bits"
        raise VideoDecodeError(source, reason)
    if image.has_transparency_data:
        return over_white(torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _damaged(source: str, error: Exception) -> VideoDecodeError:
    unknown = isinstance(error, UnidentifiedImageError)  # its message holds the address of a Python object
    return VideoDecodeError(source, f"a damaged image ({'its header cannot be read' if unknown else error})")


def _sample_image(image: Image.Image, delays: array, source: str, options: DecodeOptions) -> VideoFrames:
    """Sample an open image, given the delay of each frame, or none for a still image."""
    if delays:
        starts, now = array("q"), 0
        for delay in delays:
            starts.append(now)
            now += delay if delay > SHORTEST_DELAY else UNSET_DELAY
        timeline = Timeline(starts, now, MICROSECOND)
    else:
        timeline = Timeline([0], round(1 / MICROSECOND / options.frame_rate), MICROSECOND)
    picks = pick_frames(source, timeline, options)
    frames = _decode_frames(image, sorted(set(picks)), source) if delays else iter([_decode_still(image, source)])
    return assemble_clip(source, timeline, picks, frames, options)


def _decode_still(image: Image.Image, source: str) -> torch.Tensor:
    return image_to_tensor(ImageOps.exif_transpose(image), source)


def _decode_frames(image: Image.Image, indices: list[int], source: str) -> Iterator[torch.Tensor]:
    hidden = _hidden_frames(image)
    for index in indices:
        image.seek(index + hidden)
        yield image_to_tensor(image, source)


def _hidden_frames(image: Image.Image) -> int:
    """Number of Pillow's frames before the animation: an APNG may start with a fallback picture."""
    return int(image.info.get("default_image", False))


def _file_delays(file: IO[bytes]) -> Iterator[int]:
    """The delay of each frame of an animation, in microseconds; none for a still image. EOFError if truncated."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"GIF"):
        return _gif_delays(file)
    if head.startswith(b"RIFF"):
        return _webp_delays(file, 8 + int.from_bytes(head[4:8], "little"), size)
    if head.startswith(b"\x89PNG"):
        return _png_delays(file, size)
    return iter(())


def _gif_delays(file: IO[bytes]) -> Iterator[int]:
    """https://www.w3.org/Graphics/GIF/spec-gif89a.txt"""
    file.seek(10)
    _skip_gif_colours(file, _take(file, 3)[0])
    delay = 0
    # Some encoders omit the end mark `;`: a file that ends between two blocks is complete.
    while (mark := file.read(1)) not in (b"", b";"):
        if mark == b"!":
            label = _take(file, 1)
            block = _first_gif_block(file)
            if label == b"\xf9":
                delay = int.from_bytes(block[1:3], "little") * 10_000
        elif mark == b",":
            _skip_gif_colours(file, _take(file, 9)[8])
            _take(file, 1)
            _first_gif_block(file)
            yield delay
            delay = 0


def _skip_gif_colours(file: IO[bytes], flags: int) -> None:
    if flags & 0x80:
        _take(file, 3 * (2 << (flags & 7)))


def _first_gif_block(file: IO[bytes]) -> bytes:
    """Skip a chain of data blocks and return the first."""
    first = b""
    while size := _take(file, 1)[0]:
        block = _take(file, size)
        first = first or block
    return first


def _webp_delays(file: IO[bytes], end: int, size: int) -> Iterator[int]:
    """https://developers.google.com/speed/webp/docs/riff_container"""
    position = 12
    while position < end:
        file.seek(position)
        name, length = struct.unpack("<4sI", _take(file, 8))
        position += 8 + length
        if position > size:
            raise EOFError
        position += length % 2
        if name == b"ANMF":
            yield int.from_bytes(_take(file, 16)[12:15], "little") * 1000


def _png_delays(file: IO[bytes], size: int) -> Iterator[int]:
    """https://www.w3.org/TR/png-3/"""
    position, pending = 8, None
    while True:
        file.seek(position)
        length, name = struct.unpack(">I4s", _take(file, 8))
        position += 12 + length
        if position > size:
            raise EOFError
        if name in (b"fcTL", b"IEND") and pending is not None:
            yield pending
        if name == b"IEND":
            return
        if name == b"fcTL":
            numerator, denominator = struct.unpack(">HH", _take(file, 24)[20:])
            pending = numerator * 1_000_000 // (denominator or 100)


def _take(file: IO[bytes], size: int) -> bytes:
    """Exactly `size` bytes, or EOFError."""
    taken = file.read(size)
    if len(taken) < size:
        raise EOFError
    return taken
