"""Any video a user may hold -> uint8 frames and presentation times.

[`decode_video`] reads one clip, [`split_batch`] splits an input into clips. A clip is

- a path (`str`, `pathlib.Path`, `file://`) to a video, an animated or still image, or a folder of images;
- an `http(s)://` URL, the only input for which anything is fetched;
- bytes, an open binary file, or the `{"path", "bytes"}` dict of `datasets.Video(decode=False)`;
- a torchcodec `VideoDecoder`, a Pillow image, a 4-D NumPy array or torch tensor;
- a list of Pillow images or of 3-D arrays, its frames.

Nothing is kept between two calls, so that workers of a data loader share no state.
"""

import os
import re
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from .image_files_vidcap import image_to_tensor, is_animated, read_image, read_image_file
from .video_files_vidcap import read_video_file
from .video_frames_vidcap import (
    DecodeOptions,
    Timeline,
    VideoDecodeError,
    VideoFrames,
    assemble_clip,
    over_white,
    pick_frames,
    resize_frames,
    stack_clip,
)

FRAME_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
CHUNK = 1 << 20  # bytes
WIDE = (torch.uint16, torch.uint32, torch.uint64)  # types that torch cannot compare


def decode_video(source: object, **options: Any) -> VideoFrames:
    """
    Read one clip.

    Args:
        source: any input that the docstring of this file lists.
        **options: the fields of [`DecodeOptions`], among them `num_frames=16` and `fit=None`.

    Returns:
        `VideoFrames`: uint8 frames `(T, 3, H, W)`, their times in seconds and the mask of the real ones.

    Raises:
        `VideoDecodeError`: if the clip cannot be read; the message is one line with its name and the reason.
        `TypeError`: for an unknown option.

    Example:

    ```python
    >>> clip = decode_video("clip.gif", num_frames=8, fit=(224, 224))
    >>> clip.frames.shape, clip.times[-1]
    ```
    """
    settings = DecodeOptions(**options)
    name = describe_source(source)
    try:
        return _decode(source, name, settings)
    except FileNotFoundError as error:
        raise VideoDecodeError(name, "no such file or folder") from error
    except OSError as error:
        raise VideoDecodeError(name, f"it cannot be read: {error.strerror or error}") from error


def split_batch(videos: object) -> list[Any]:
    """
    Split an input into clips for [`decode_video`].

    Args:
        videos: a clip, a list of clips of any kinds, or a 5-D array. A list of 3-D arrays or of still Pillow images is
            one clip; a list with an animated Pillow image in it is a list of clips.

    Raises:
        `ValueError`: if there is no clip.
    """
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("videos is an empty list: pass at least one clip")
        return [videos] if all(is_frame(item) for item in videos) else list(videos)
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    return [videos]


def is_frame(item: object) -> bool:
    """Whether an item of a list is a frame rather than a clip of its own."""
    if isinstance(item, Image.Image):
        return not is_animated(item)
    return isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3


def describe_source(source: object) -> str:
    """The name of a clip: its path or URL, otherwise the kind of object."""
    if isinstance(source, dict):
        return describe_source(source.get("path") or source.get("bytes"))
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return f"<array of shape {tuple(source.shape)}>"
    if isinstance(source, (list, tuple)):
        return f"<list of {len(source)} frames>"
    name = getattr(source, "filename", "") if isinstance(source, Image.Image) else getattr(source, "name", "")
    return name if name and isinstance(name, str) else f"<{type(source).__name__}>"


def _decode(source: Any, name: str, options: DecodeOptions) -> VideoFrames:
    if isinstance(source, dict):
        unknown = set(source) - {"path", "bytes"}
        if unknown or (source.get("path") is None and source.get("bytes") is None):
            raise VideoDecodeError(name, f"a dict needs 'path' or 'bytes' and nothing else, but has {list(source)}")
        return _decode(source["path"] if source.get("bytes") is None else source["bytes"], name, options)
    if isinstance(source, (str, os.PathLike)):
        return _decode_path(os.fspath(source), name, options)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_file(BytesIO(source), name, options)
    if isinstance(source, Image.Image):
        return read_image(source, name, options)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        if source.ndim != 4:
            raise VideoDecodeError(
                name,
                f"a clip is an array of 4 axes, (T, H, W, C) or (T, C, H, W), not of {source.ndim}; wrap a single "
                "image in a list, [image], and give a greyscale clip a channel axis, clip[..., None]",
            )
        return _decode_frames(source, name, options)
    if isinstance(source, (list, tuple)):
        if not all(is_frame(item) for item in source):
            raise VideoDecodeError(name, "a list that is one clip may hold only 3-D arrays and still Pillow images")
        return _decode_frames(source, name, options)
    if callable(getattr(source, "read", None)):  # Python has no base class that covers temporary files
        return _decode_stream(source, name, options)
    if any(
        base.__name__ == "VideoDecoder" and base.__module__.startswith("torchcodec.") for base in type(source).mro()
    ):
        return _decode_torchcodec(source, name, options)
    raise VideoDecodeError(
        name,
        "not a known kind of video; pass a path, a URL, bytes, an open binary file, an array (T, H, W, C) or "
        "(T, C, H, W), a list of frames, a Pillow image or a torchcodec VideoDecoder",
    )


def _decode_path(path: str, name: str, options: DecodeOptions) -> VideoFrames:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", path)
    if scheme and scheme[1].lower() in ("http", "https"):
        return _decode_url(path, options)
    if scheme and scheme[1].lower() == "file":
        url = urllib.parse.urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise VideoDecodeError(name, f"a file:// URL names a file of this machine, not of {url.netloc!r}")
        path = urllib.request.url2pathname(url.path)
    elif scheme:
        raise VideoDecodeError(
            name, f"{scheme[0]} is not supported; open the file yourself and pass the file object or bytes"
        )
    if os.path.isdir(path):
        return _decode_folder(path, name, options)
    check_regular(path)
    with open(path, "rb") as file:
        return _decode_file(file, name, options)


def _decode_url(url: str, options: DecodeOptions) -> VideoFrames:
    from .downloads_vidcap import DownloadError, download, make_client  # not needed, nor imported, for files

    with tempfile.TemporaryFile() as file:  # on disk, so that a large video does not fill the memory
        try:
            with make_client(options.timeout) as client:
                limit = options.max_download_bytes
                file.writelines(download(url, client, max_bytes=limit, limit="max_download_bytes"))
        except DownloadError as error:
            raise VideoDecodeError(url, str(error)) from error
        return _decode_file(file, url, options)


def check_regular(path: str | Path) -> None:
    """Raise a [`VideoDecodeError`] for a device, which may have no end, or a pipe, which may have no writer."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise VideoDecodeError(str(path), "neither a regular file nor a folder of images")


def frame_files(folder: str) -> list[Path]:
    """The images in a folder, one per frame, in natural order: `frame2` before `frame10`.

    Raises:
        `VideoDecodeError`: if there are none.
    """
    paths = [path for path in Path(folder).iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise VideoDecodeError(folder, f"the folder holds no images ({', '.join(FRAME_SUFFIXES)})")
    return sorted(paths, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], path.name


def _decode_file(file: IO[bytes], name: str, options: DecodeOptions) -> VideoFrames:
    """Read an open, seekable file from its beginning; the first bytes decide how."""
    file.seek(0)
    head = file.read(16)
    if not head:
        raise VideoDecodeError(name, "the file is empty")
    images = (b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
    if head.startswith(images) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return read_image_file(file, name, options)
    return read_video_file(file, name, options, _declared_size(file))


def _decode_stream(stream: IO[bytes], name: str, options: DecodeOptions) -> VideoFrames:
    """Read a file object of the user's."""
    if not isinstance(stream.read(0), bytes):
        raise VideoDecodeError(name, "a file in text mode; open it in binary mode, 'rb'")
    if stream.seekable():
        return _decode_file(stream, name, options)
    with tempfile.TemporaryFile() as file:
        while chunk := stream.read(CHUNK):
            file.write(chunk)
            if file.tell() > options.max_download_bytes:
                limit = options.max_download_bytes
                raise VideoDecodeError(name, f"more than {limit} bytes; raise max_download_bytes to read it")
        return _decode_file(file, name, options)


def _declared_size(file: IO[bytes]) -> int:
    """
    The size in bytes that a video file declares, to tell a cut-off download from a short clip; 0 if it declares none.

    MP4 and MOV: ISO/IEC 14496-12, section 4.2; AVI: the RIFF chunks of the OpenDML extension; Matroska and WebM: RFC
    8794, sections 4 to 6.
    """
    size, position = file.seek(0, 2), 0
    head = _read_at(file, 0, 64)
    if head[:4] == b"RIFF":
        while _read_at(file, position, 4) == b"RIFF":
            length = int.from_bytes(_read_at(file, position + 4, 4), "little")
            if length in (0, 0xFFFFFFFF):  # written before it was known
                return 0
            position += 8 + length
        return position - 8  # some writers count these 8 bytes twice
    if head[:4] == b"\x1aE\xdf\xa3":
        header, header_bytes = _matroska_number(head[4:12])
        segment = 4 + header_bytes + header
        length, length_bytes = _matroska_number(_read_at(file, segment + 4, 8))
        unknown = length == (1 << 7 * length_bytes) - 1
        return 0 if unknown else segment + 4 + length_bytes + length
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip"):
        while position + 8 <= size:
            box = _read_at(file, position, 16)
            length, kind = int.from_bytes(box[:4], "big"), box[4:8]
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:  # 0: up to the end of the file
                return 0
            position += length
            if kind in (b"moov", b"mdat", b"moof") and position > size:
                return position
    return 0


def _read_at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _matroska_number(data: bytes) -> tuple[int, int]:
    """A number of variable length, and the bytes it takes, which the position of its first bit tells."""
    count = 9 - data[0].bit_length() if data and data[0] else 8
    return int.from_bytes(data[:count], "big") & ((1 << 7 * count) - 1), count


def _decode_folder(folder: str, name: str, options: DecodeOptions) -> VideoFrames:
    """Read a folder of images."""
    paths = frame_files(folder)
    options.check_length(len(paths), name)
    timeline = Timeline(range(len(paths)), len(paths), 1 / options.frame_rate)
    picks = pick_frames(name, timeline, options)
    single = replace(options, num_frames=1)
    frames = (_read_still(paths[index], single) for index in sorted(set(picks)))
    return assemble_clip(name, timeline, picks, frames, options)


def _read_still(path: Path, options: DecodeOptions) -> torch.Tensor:
    check_regular(path)
    with path.open("rb") as file:
        return read_image_file(file, str(path), options, still=True).frames[0]


def _decode_frames(
    clip: Sequence[Image.Image | np.ndarray | torch.Tensor] | np.ndarray | torch.Tensor,
    name: str,
    options: DecodeOptions,
) -> VideoFrames:
    """Sample a sequence of frames in memory."""
    timeline = Timeline(range(len(clip)), len(clip), 1 / options.frame_rate)
    picks = pick_frames(name, timeline, options)
    frames = (_frame_to_tensor(clip[index], name, options) for index in sorted(set(picks)))
    return assemble_clip(name, timeline, picks, frames, options)


def _frame_to_tensor(
    frame: Image.Image | np.ndarray | torch.Tensor, name: str, options: DecodeOptions
) -> torch.Tensor:
    if isinstance(frame, Image.Image):
        return image_to_tensor(frame, name)
    return _array_to_tensor(frame, name, options)


def _array_to_tensor(array: np.ndarray | torch.Tensor, name: str, options: DecodeOptions) -> torch.Tensor:
    """A 3-D array in either channel order, with 1, 3 or 4 channels, as uint8 RGB `(3, H, W)`."""
    frame = array.detach().cpu() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
    first, last = frame.shape[0] in (1, 3, 4), frame.shape[2] in (1, 3, 4)
    channels_first = options.channels_first
    if channels_first is None:
        if first == last:
            doubt = "either axis could be the channels" if first else "no axis has 1, 3 or 4 channels"
            raise VideoDecodeError(
                name, f"frames of shape {tuple(frame.shape)}: {doubt}; tell which by input_data_format"
            )
        channels_first = first
    if not channels_first:
        frame = frame.permute(2, 0, 1)
    if frame.shape[0] not in (1, 3, 4) or not frame.numel():
        raise VideoDecodeError(
            name, f"frames of shape {tuple(array.shape)} must have 1, 3 or 4 channels, and a height and width above 0"
        )

    if frame.dtype in WIDE:
        frame = frame.to(torch.int64)
    elif frame.dtype == torch.bool:
        frame = frame.to(torch.uint8) * 255
    low, high = frame.min().item(), frame.max().item()
    if frame.is_floating_point():
        if not (low >= 0 and high <= 1):
            raise VideoDecodeError(name, f"float values from {low:g} to {high:g}; floats must lie in [0, 1]")
        frame = (frame.float() * 255).round()
    elif low < 0 or high > 255:
        raise VideoDecodeError(name, f"integer values from {low} to {high}; integers must lie in [0, 255]")
    frame = frame.to(torch.uint8)
    return over_white(frame) if frame.shape[0] == 4 else frame.expand(3, -1, -1)


def _decode_torchcodec(decoder: Any, name: str, options: DecodeOptions) -> VideoFrames:
    """Sample a torchcodec `VideoDecoder` at the moments of [`uniform_time_indices`], in seconds."""
    total, num_frames = len(decoder), options.num_frames
    if not total:
        raise VideoDecodeError(name, "it has no frames")
    try:
        # The first two and the last frame bound the moments. A frame stays until the next one comes; the duration that
        # torchcodec gives is the one in the file, which may be shorter.
        edges = decoder.get_frames_at([0, min(1, total - 1), total - 1])
        begin, second, last = (float(time) for time in edges.pts_seconds)
        end = last + float(edges.duration_seconds[-1])
        if num_frames is None or total <= num_frames:
            batch = decoder.get_frames_at(list(range(total)))
        elif num_frames == 1:
            batch = decoder.get_frames_played_at([(begin + end) / 2])
        else:
            start, stop = (begin + second) / 2, (last + end) / 2
            moments = [start + (stop - start) * step / (num_frames - 1) for step in range(num_frames)]
            batch = decoder.get_frames_played_at(moments)
    except RuntimeError as error:
        raise VideoDecodeError(name, f"torchcodec cannot decode it ({error})") from error
    frames = [resize_frames(_array_to_tensor(frame, name, options), options) for frame in batch.data]
    times = [float(time) - begin for time in batch.pts_seconds]
    return stack_clip(name, frames, times, end - begin, options)
