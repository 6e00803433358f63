"""Video files -> frames and times, through PyAV, which carries its own FFmpeg.

A file is read through once without decoding, to know when each frame is shown, and is then decoded forward to the last
frame needed: a later key frame is jumped to where one helps, and frames that no other frame refers to are left out
unless they are wanted. Whatever of this does not lead exactly to the wanted frames is answered by decoding again,
plainly. Frames are scaled while they are converted to RGB and one decoded frame is held at a time, so that memory does
not grow with the length of the video. Rotation and non-square pixels are applied.

A wanted frame that is missing, or that the decoder calls damaged, is an error, never a silent repeat; damage that the
decoder conceals is not noticed. Only the given file is read: a playlist
cannot pull in other files or URLs.

Given up: mirroring in the display matrix, interlacing, sound.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from threading import Lock
from typing import IO, Any

import av
import torch
from av import Packet, VideoFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .byte_streams_vidcap import NamelessFile, declared_size
from .video_frames_vidcap import (
    DecodeOptions,
    Timeline,
    VideoDecodeError,
    VideoFrames,
    fit_size,
    over_white,
    sample_clip,
)

# Accurate rounding and full chroma cost little on small frames and bring swscale close to "convert, then resize".
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
UNINDEXED = ("mpeg", "mpegts")  # their times are searched for: a jump lands anywhere near the wanted one
SHOWING_NOTHING = ("mpeg4", "vp8", "vp9")  # codecs in which a packet may rightly have no frame of its own
INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR | _EXACT, "bicubic": Interpolation.BICUBIC | _EXACT}


class _Missed(Exception):
    """The fast way through a file did not lead exactly to the wanted frames."""


@dataclass
class _Index:
    """
    Args:
        stamps (`array`): ascending presentation times of all frames, in ticks.
        end (`int`): when the last frame leaves the screen, in ticks.
        tick (`Fraction`): seconds in a tick.
        keys (`array`): ascending presentation times of the frames at which decoding can begin.
        indexed (`bool`): whether one can jump to them.
        by_time (`bool`): whether decoded frames carry these times; if not, the n-th frame has the n-th time.
        declared (`int`): number of frames by the file's header, 0 if it does not say.
    """

    stamps: array
    end: int
    tick: Fraction
    keys: array
    indexed: bool
    by_time: bool
    declared: int


def read_video_file(file: IO[bytes], source: str, options: DecodeOptions) -> VideoFrames:
    """
    Reads a clip from a video file.

    Args:
        file (binary file object, seekable): read from its beginning, left open.
        source (`str`): name of the clip, for messages.
        options (`DecodeOptions`): how many frames, their size, and the limits.

    Returns:
        `VideoFrames`: the frames and their times.

    Raises:
        `VideoDecodeError`: if the file is truncated, damaged, not a video, without frames or beyond a limit.
    """
    size = file.seek(0, 2)
    missing = max(0, declared_size(file, size) - size)
    present = f"{size} of {size + missing} bytes are there"
    try:
        index = _index_file(file, source, options)
    except (av.FFmpegError, VideoDecodeError) as error:
        if missing:
            raise VideoDecodeError(source, f"truncated: no frame can be read ({present})") from error
        if isinstance(error, VideoDecodeError):
            raise
        if isinstance(error, EOFError):
            raise VideoDecodeError(source, "it has no frames") from error
        file.seek(0)
        start = file.read(12)
        raise VideoDecodeError(source, f"not a video ({error.strerror}); it begins with {start!r}") from error
    if missing:
        readable = f"{len(index.stamps)} of {index.declared}" if index.declared else str(len(index.stamps))
        raise VideoDecodeError(source, f"truncated: {readable} frames can be read ({present})")

    def read(indices: list[int]) -> list[torch.Tensor]:
        wanted = [index.stamps[i] for i in indices]
        if index.by_time and index.keys:
            try:
                return _read_in_parts(file, source, index, wanted, options)
            except (_Missed, av.FFmpegError):
                pass  # the plain way tells a file that is unusual from one that is damaged
        return list(_read_plainly(file, source, index, wanted, options))

    try:
        keys = index.keys if index.by_time else ()
        return sample_clip(source, Timeline(index.stamps, index.end, float(index.tick), keys), read, options)
    except av.FFmpegError as error:
        raise VideoDecodeError(source, f"damaged: it cannot be decoded ({error.strerror})") from error


def _open(file: IO[bytes], lock: AbstractContextManager[Any] | None = None) -> InputContainer:
    return av.open(
        NamelessFile(file, lock or nullcontext()),
        "r",
        metadata_errors="ignore",
        options={"protocol_whitelist": "none"},
    )


def _video_stream(container: InputContainer, source: str, options: DecodeOptions, *, threads: int = 1) -> VideoStream:
    """The first stream of moving pictures; cover art does not count."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        content = "only sound" if container.streams.audio else "no picture"
        raise VideoDecodeError(source, f"not a video: there is {content} in this {container.format.long_name} file")
    context = streams[0].codec_context
    if context is None:
        raise VideoDecodeError(source, "there is no decoder for its video stream; convert it to H.264 first")
    options.check_pixels(context.height, context.width, source)
    context.thread_count = threads
    context.thread_type = "AUTO"
    context.options = {"max_pixels": str(options.max_frame_pixels)}  # a frame may be larger than the header says
    if options.skip_loop_filter:
        context.options |= {"skip_loop_filter": "all"}
    return streams[0]


def _packets(container: InputContainer, stream: VideoStream, source: str) -> Iterator[Packet | None]:
    """
    The packets that hold data, then `None` for the decoder to give out what it holds back. An AVI has empty packets
    that mean "the last frame once more", which a decoder would take for the end.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError as error:  # PyAV's answer to a packet of a stream that was not there at the start
        raise VideoDecodeError(source, "damaged: a new stream begins in the middle of it") from error
    yield None


def _index_file(file: IO[bytes], source: str, options: DecodeOptions) -> _Index:
    """Reads through the file without decoding."""
    stamps, keys = array("q"), array("q")
    timed, ascending = True, True
    latest, stay = 0, 0
    with _open(file) as container:
        stream = _video_stream(container, source, options)
        for packet in _packets(container, stream, source):
            if packet is None:
                break
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
            if packet.is_discard:  # cut away by the file's edit list, though others may refer to it
                continue
            stamp = packet.pts
            if stamp is None:
                timed = False
                stamp = stamps[-1] + (packet.duration or 1) if stamps else 0
            if not stamps or stamp >= latest:
                latest, stay = stamp, packet.duration or 0
            ascending = ascending and stamp == latest
            stamps.append(stamp)
            options.check_length(len(stamps), source)
        # Times that ascend although the decoder reorders frames are those of decoding: common in AVI, seen in MP4.
        by_time = timed and not (ascending and stream.codec_context.has_b_frames)
        tick, declared = stream.time_base or Fraction(1), stream.frames
        stated_end = (stream.start_time or 0) + (stream.duration or 0)
        indexed = container.format.name not in UNINDEXED
        if not indexed:
            stated_end = 0  # an estimate

    stamps, keys = array("q", sorted(stamps)), array("q", sorted(keys))
    if by_time and keys:
        # A recording that starts in the middle: what is shown before the first key frame cannot be decoded.
        stamps = stamps[bisect_left(stamps, keys[0]) :]
    end = stated_end
    if stamps and end <= stamps[-1]:
        gap = stamps[-1] - stamps[-2] if len(stamps) > 1 else 0
        end = stamps[-1] + (stay or gap or 1)
    return _Index(stamps, end, tick, keys, indexed, by_time, declared)


def _read_in_parts(
    file: IO[bytes], source: str, index: _Index, wanted: list[int], options: DecodeOptions
) -> list[torch.Tensor]:
    """
    As [`_read_fast`], in threads, each on its share of the way from one key frame to the next. FFmpeg's own threads
    would not do: they decode ahead, so that it could not be told frame by frame which may be left out.
    """
    threads = options.threads or os.cpu_count() or 1
    if threads == 1 or not index.indexed:
        return list(_read_fast(file, source, index, wanted, options))
    shares = _shares(wanted, index.keys, threads)
    lock = Lock()
    with ThreadPoolExecutor(len(shares)) as pool:
        read = pool.map(lambda share: list(_read_fast(file, source, index, share, options, lock)), shares)
        return [frame for frames in read for frame in frames]


def _shares(wanted: list[int], keys: Sequence[int], count: int) -> list[list[int]]:
    """
    Cuts the ascending times `wanted` before key frames into at most `count` lists that follow one another, so that
    each has about as long a time to decode.
    """
    parts = [list(part) for _, part in groupby(wanted, key=lambda stamp: bisect_right(keys, stamp))]
    costs = [part[-1] - keys[max(0, bisect_right(keys, part[-1]) - 1)] + 1 for part in parts]
    total, before = sum(costs), 0
    shares: list[list[int]] = [[] for _ in range(count)]
    for part, cost in zip(parts, costs, strict=True):
        shares[count * (2 * before + cost) // (2 * total)] += part  # the share in which the middle of it falls
        before += cost
    return [share for share in shares if share]


def _read_fast(
    file: IO[bytes],
    source: str,
    index: _Index,
    wanted: list[int],
    options: DecodeOptions,
    lock: AbstractContextManager[Any] | None = None,
) -> Iterator[torch.Tensor]:
    """Decodes the frames shown at the ascending times `wanted`, no more than it must, or raises `_Missed`."""
    pending, needed = deque(wanted), set(wanted)
    with _open(file, lock) as container:
        stream = _video_stream(container, source, options)
        context, paint = stream.codec_context, _Painter(stream, source, options)
        keys = index.keys if index.indexed else index.keys[:1]
        target, furthest, entered = keys[0], keys[0], False
        for packet in _packets(container, stream, source):
            if packet is not None:
                if packet.pts is None:
                    raise _Missed
                if not entered and not packet.is_keyframe:
                    continue
                if not entered and packet.pts < target:
                    keys = keys[:1]  # the jump fell short: no more jumps
                entered = True
                furthest = max(furthest, packet.pts)
                # Holds for the next packet. A frame that others refer to is decoded in any case.
                context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            for frame in context.decode(packet):
                if frame.pts is None or frame.pts > pending[0] or (frame.pts == pending[0] and frame.is_corrupt):
                    raise _Missed
                if frame.pts == pending[0]:
                    yield paint(frame)
                    pending.popleft()
                if not pending:
                    return
            target = keys[bisect_right(keys, pending[0]) - 1]
            if target > furthest:
                container.seek(target, stream=stream)
                furthest, entered = target, False
    raise _Missed


def _read_plainly(
    file: IO[bytes], source: str, index: _Index, wanted: list[int], options: DecodeOptions
) -> Iterator[torch.Tensor]:
    """
    Decodes everything from the start up to the last of the ascending times `wanted`. Where a packet shows nothing, as
    some codecs have it, the frame before it is on screen.
    """
    pending, count, failed = deque(wanted), 0, False
    shown: VideoFrame | None = None

    def sound(frame: VideoFrame | None) -> VideoFrame:
        repeats = frame is shown and (failed or stream.codec_context.name not in SHOWING_NOTHING)
        if frame is None or frame.is_corrupt or repeats:
            number, at = bisect_left(index.stamps, pending[0]) + 1, (pending[0] - index.stamps[0]) * float(index.tick)
            raise VideoDecodeError(
                source,
                f"damaged: frame {number} of {len(index.stamps)}, at {at:.2f} s, cannot be decoded; "
                f"{count} frames before it can",
            )
        return frame

    with _open(file) as container:
        stream = _video_stream(container, source, options, threads=options.threads)
        paint = _Painter(stream, source, options)
        for packet in _packets(container, stream, source):
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                failed = True
                continue
            for frame in frames:
                stamp = frame.pts if index.by_time else index.stamps[min(count, len(index.stamps) - 1)]
                if stamp is None:
                    continue
                while pending and stamp >= pending[0]:
                    yield paint(sound(frame if stamp == pending[0] else shown))
                    pending.popleft()
                if not pending:
                    return
                shown = frame
                count += 1
        while pending:
            yield paint(sound(shown))
            pending.popleft()


class _Painter:
    """Turns the decoded frames of one clip into uint8 RGB tensors `(3, H, W)` of one size, upright."""

    def __init__(self, stream: VideoStream, source: str, options: DecodeOptions):
        self.source = source
        self.options = options
        self.aspect = stream.sample_aspect_ratio or Fraction(1)
        self.size: tuple[int, int] | None = None  # (height, width) before rotation
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> torch.Tensor:
        turns = round(frame.rotation / 90) % 4  # counter-clockwise quarters
        if self.size is None:
            self.size = self._target_size(frame, turns)
        alpha = any(component.is_alpha for component in frame.format.components)
        picture = self.reformatter.reformat(
            frame,
            height=self.size[0],
            width=self.size[1],
            format="rgba" if alpha else "rgb24",
            interpolation=INTERPOLATIONS[self.options.interpolation],
            threads=1,
        )
        pixels = torch.from_numpy(picture.to_ndarray()).permute(2, 0, 1)  # (C, H, W)
        return torch.rot90(over_white(pixels) if alpha else pixels, turns, (1, 2))

    def _target_size(self, frame: VideoFrame, turns: int) -> tuple[int, int]:
        height, width = frame.height, max(1, round(frame.width * self.aspect))
        self.options.check_pixels(height, width, self.source)
        if self.options.fit is None:
            return height, width
        box_height, box_width = self.options.fit
        return fit_size(height, width, (box_width, box_height) if turns % 2 else (box_height, box_width))
