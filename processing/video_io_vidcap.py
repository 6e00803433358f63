"""Any video a user may hold -> uint8 frames and presentation times.

`decode_video` reads one clip, `split_batch` tells how many clips an input holds. A clip is

- a path (`str`, `pathlib.Path`, `file://`), to a video, an animated or still image, or a folder of images;
- an `http(s)://` URL, the only input for which anything is fetched;
- bytes, an open binary file, or the `{"path", "bytes"}` dict of `datasets.Video(decode=False)`;
- a torchcodec `VideoDecoder`, a Pillow image, a 4-D NumPy array or torch tensor;
- a list of Pillow images or of 3-D arrays, its frames.

Nothing is kept between two calls, so that workers of a data loader share no state.
"""

import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from .image_files_vidcap import image_to_tensor, is_animated, is_image_file, read_image, read_image_file
from .video_files_vidcap import read_video_file
from .video_frames_vidcap import (
    DecodeOptions,
    Timeline,
    VideoDecodeError,
    VideoFrames,
    assemble_clip,
    over_white,
    resize_frames,
    sample_clip,
)

FRAME_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
CHUNK = 1 << 20
WIDE = (torch.uint16, torch.uint32, torch.uint64)
KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"  # beside letters, digits and _.-


def decode_video(source: Any, **options: Any) -> VideoFrames:
    """
    Reads one clip.

    Args:
        source (`Any`): any input that the docstring of this file lists.
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
    name = describe(source)
    try:
        return _decode(source, name, settings)
    except FileNotFoundError as error:
        raise VideoDecodeError(name, "no such file or folder") from error
    except OSError as error:
        raise VideoDecodeError(name, f"it cannot be read: {error.strerror or error}") from error


def split_batch(videos: Any) -> list[Any]:
    """
    Splits an input into clips.

    Args:
        videos (`Any`): a clip, a list of clips of any kinds, or a 5-D array. A list of 3-D arrays or of still Pillow
            images is one clip; a list with an animated Pillow image in it is a list of clips.

    Returns:
        `list`: the clips, for [`decode_video`].

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


def describe(source: Any) -> str:
    """A name for a clip: its path or URL, or what kind of object it is."""
    if isinstance(source, dict):
        return describe(source.get("path") or source.get("bytes"))
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
            raise VideoDecodeError(name, f"a dict needs 'path' or 'bytes' and nothing else, it has {list(source)}")
        return _decode(source["path"] if source.get("bytes") is None else source["bytes"], name, options)
    if isinstance(source, (str, os.PathLike)):
        return _decode_path(os.fspath(source), name, options)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_file(BytesIO(source), name, options)
    if isinstance(source, Image.Image):
        return read_image(source, name, options)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _decode_array(source, name, options)
    if isinstance(source, (list, tuple)):
        if not all(is_frame(item) for item in source):
            raise VideoDecodeError(
                name, "a list that is one clip holds nothing but 3-D arrays and still Pillow images"
            )
        return _decode_frames(source, name, options)
    if callable(getattr(source, "read", None)):  # Python has no base class that covers temporary files
        return _decode_stream(source, name, options)
    if any(
        base.__name__ == "VideoDecoder" and base.__module__.startswith("torchcodec.") for base in type(source).mro()
    ):
        return _decode_torchcodec(source, name, options)
    raise VideoDecodeError(
        name,
        "not a kind of video known here; pass a path, a URL, bytes, an open binary file, an array (T, H, W, C) or "
        "(T, C, H, W), a list of frames, a Pillow image or a torchcodec VideoDecoder",
    )


def _decode_path(path: str, name: str, options: DecodeOptions) -> VideoFrames:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", path)
    if scheme and scheme[1].lower() in ("http", "https"):
        with tempfile.TemporaryFile() as file:
            _download(path, file, options)
            return _decode_file(file, name, options)
    if scheme and scheme[1].lower() == "file":
        url = urllib.parse.urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise VideoDecodeError(name, f"a file:// URL names a file of this machine, not of {url.netloc!r}")
        path = urllib.request.url2pathname(url.path)
    elif scheme:
        raise VideoDecodeError(name, f"{scheme[0]} is not fetched; open it yourself and pass the file object or bytes")
    if os.path.isdir(path):
        return _decode_folder(path, name, options)
    check_regular(path)
    with open(path, "rb") as file:
        return _decode_file(file, name, options)


def check_regular(path: str | Path) -> None:
    """Raises a [`VideoDecodeError`] for what is there but is no file: a device may have no end, a pipe no writer."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise VideoDecodeError(str(path), "neither a regular file nor a folder of images")


def frame_files(folder: str) -> list[Path]:
    """The images in a folder, one a frame, in natural order: `frame2` before `frame10`.

    Raises:
        `VideoDecodeError`: if there are none.
    """
    paths = [path for path in Path(folder).iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise VideoDecodeError(folder, f"the folder holds no images ({', '.join(FRAME_SUFFIXES)})")
    return sorted(paths, key=_natural_order)


def _decode_file(file: IO[bytes], name: str, options: DecodeOptions) -> VideoFrames:
    """Reads an open, seekable file, from its beginning; the first bytes decide how."""
    file.seek(0)
    head = file.read(16)
    if not head:
        raise VideoDecodeError(name, "the file is empty")
    if is_image_file(head):
        return read_image_file(file, name, options)
    return read_video_file(file, name, options)


def _decode_stream(stream: Any, name: str, options: DecodeOptions) -> VideoFrames:
    """Reads a file object of the user's."""
    if not isinstance(stream.read(0), bytes):
        raise VideoDecodeError(name, "a file in text mode; open it in binary mode, 'rb'")
    if stream.seekable():
        return _decode_file(stream, name, options)
    with tempfile.TemporaryFile() as file:
        _copy(stream, file, name, options)
        return _decode_file(file, name, options)


def _copy(stream: IO[bytes], file: IO[bytes], name: str, options: DecodeOptions) -> int:
    """Copies to a file on disk, so that a large video does not stay in memory; returns the number of bytes."""
    size = 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > options.max_download_bytes:
            limit = f"{options.max_download_bytes} bytes, which is the limit"
            raise VideoDecodeError(name, f"more than {limit}; raise max_download_bytes to read it")
        file.write(chunk)
    return size


def _download(url: str, file: IO[bytes], options: DecodeOptions) -> None:
    try:
        request = urllib.request.Request(in_ascii(url), headers={"User-Agent": "vidcap"})
        with urllib.request.urlopen(request, timeout=options.timeout) as response:
            announced = response.headers.get("Content-Length", "")
            expected = int(announced) if announced.isdigit() else 0
            size = _copy(response, file, url, options)
    except urllib.error.HTTPError as error:
        raise VideoDecodeError(url, f"the server answers {error.code} {error.reason}") from error
    except VideoDecodeError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # URLError and a time-out are OSErrors
        raise VideoDecodeError(url, f"it cannot be fetched: {error}") from error
    if size < expected:
        raise VideoDecodeError(url, f"the connection broke after {size} of {expected} bytes")


def in_ascii(url: str) -> str:
    """A URL as servers are asked for it (RFC 3986), from one as people write it: what is escaped stays as it is."""
    scheme, place, *rest = urllib.parse.urlsplit(url)
    if not place.isascii():
        user, at, host = place.rpartition("@")
        host, colon, port = host.partition(":")
        place = f"{user}{at}{host.encode('idna').decode()}{colon}{port}"
    return urllib.parse.urlunsplit((scheme, place, *(urllib.parse.quote(part, safe=KEPT_IN_URLS) for part in rest)))


def _decode_folder(folder: str, name: str, options: DecodeOptions) -> VideoFrames:
    """Reads a folder of images."""
    paths = frame_files(folder)
    options.check_length(len(paths), name)

    def read(indices: list[int]) -> Iterator[torch.Tensor]:
        for index in indices:
            check_regular(paths[index])
            with paths[index].open("rb") as file:
                alone = replace(options, num_frames=1)
                yield read_image_file(file, str(paths[index]), alone, still=True).frames[0]

    return sample_clip(name, Timeline(range(len(paths)), len(paths), 1 / options.frame_rate), read, options)


def _natural_order(path: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _decode_array(clip: np.ndarray | torch.Tensor, name: str, options: DecodeOptions) -> VideoFrames:
    if clip.ndim != 4:
        raise VideoDecodeError(
            name,
            f"a clip is an array of 4 axes, (T, H, W, C) or (T, C, H, W), not of {clip.ndim}; a single image goes "
            "into a list, [image], and a clip in shades of grey needs a channel axis, clip[..., None]",
        )
    return _decode_frames(clip, name, options)


def _decode_frames(clip: list | tuple | np.ndarray | torch.Tensor, name: str, options: DecodeOptions) -> VideoFrames:
    """Samples a sequence of frames in memory."""

    def read(indices: list[int]) -> Iterator[torch.Tensor]:
        for index in indices:
            frame = clip[index]
            if isinstance(frame, Image.Image):
                yield image_to_tensor(frame, name)
            else:
                yield _array_to_tensor(frame, name, options)

    return sample_clip(name, Timeline(range(len(clip)), len(clip), 1 / options.frame_rate), read, options)


def _array_to_tensor(array: np.ndarray | torch.Tensor, name: str, options: DecodeOptions) -> torch.Tensor:
    """A 3-D array in either channel order, with 1, 3 or 4 channels, as uint8 RGB `(3, H, W)`."""
    frame = array.detach().cpu() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
    first, last = frame.shape[0] in (1, 3, 4), frame.shape[2] in (1, 3, 4)
    channels_first = options.channels_first
    if channels_first is None:
        if first == last:
            doubt = "either axis could be the channels" if first else "no axis has 1, 3 or 4 channels"
            raise VideoDecodeError(
                name, f"frames of shape {tuple(frame.shape)}: {doubt}; say which with input_data_format"
            )
        channels_first = first
    if not channels_first:
        frame = frame.permute(2, 0, 1)
    if frame.shape[0] not in (1, 3, 4) or not frame.numel():
        raise VideoDecodeError(name, f"frames of shape {tuple(array.shape)} do not have 1, 3 or 4 channels and pixels")

    if frame.dtype in WIDE:  # which torch cannot compare
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
    if frame.shape[0] == 4:
        return over_white(frame)
    return frame.expand(3, -1, -1)


def _decode_torchcodec(decoder: Any, name: str, options: DecodeOptions) -> VideoFrames:
    """Samples a torchcodec `VideoDecoder`; the moments are those of `uniform_time_indices`, in seconds."""
    total, wanted = len(decoder), options.num_frames
    if not total:
        raise VideoDecodeError(name, "it has no frames")
    try:
        # The first two and the last frame bound the moments. A frame stays until the next one comes; the duration that
        # torchcodec gives is the one in the file, which may be shorter.
        edges = decoder.get_frames_at([0, min(1, total - 1), total - 1])
        begin, second, last = (float(time) for time in edges.pts_seconds)
        end = last + float(edges.duration_seconds[-1])
        if wanted is None or total <= wanted:
            batch = decoder.get_frames_at(list(range(total)))
        elif wanted == 1:
            batch = decoder.get_frames_played_at([(begin + end) / 2])
        else:
            start, stop = (begin + second) / 2, (last + end) / 2
            moments = [start + (stop - start) * step / (wanted - 1) for step in range(wanted)]
            batch = decoder.get_frames_played_at(moments)
    except RuntimeError as error:
        raise VideoDecodeError(name, f"torchcodec cannot decode it ({error})") from error
    frames = [resize_frames(_array_to_tensor(frame, name, options), options) for frame in batch.data]
    times = [float(time) - begin for time in batch.pts_seconds]
    return assemble_clip(name, frames, times, end - begin, options)


def is_frame(item: Any) -> bool:
    """Whether an item of a list is a frame rather than a clip of its own."""
    if isinstance(item, Image.Image):
        return not is_animated(item)
    return isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3
