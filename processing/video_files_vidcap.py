"""Video files -> frames and times, through PyAV, which carries its own FFmpeg.

A file is read through once without decoding, to learn when each frame is shown, and is then decoded forward to the
last frame that was picked: decoding jumps to a later key frame where one helps, and skips frames that no other frame
refers to unless they were picked. Where this fast way does not lead exactly to the picked frames, decoding starts
again, plainly. Frames are scaled while they are converted to RGB and one decoded frame is held at a time, so that
memory does not grow with the length of the video. Rotation and non-square pixels are applied.

Guarantees: a picked frame that is missing, or that the decoder calls damaged, is an error, never a silent repeat; only
the given file is read: a playlist cannot pull in other files or URLs.

Limitations: no mirroring in the display matrix, no interlacing, no sound; damage that the decoder conceals goes
unnoticed.
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
from typing import IO

import av
import torch
from av import Packet, VideoFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .video_frames_vidcap import (
    DecodeOptions,
    Timeline,
    VideoDecodeError,
    VideoFrames,
    assemble_clip,
    fit_size,
    over_white,
    pick_frames,
)

# Accurate rounding and full chroma cost little on small frames and bring swscale close to "convert, then resize".
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR | _EXACT, "bicubic": Interpolation.BICUBIC | _EXACT}
UNINDEXED = ("mpeg", "mpegts")  # a jump in these lands anywhere near the time asked for
SHOWING_NOTHING = ("mpeg4", "vp8", "vp9")  # codecs in which a packet may rightly have no frame of its own


class _FastWayFailed(Exception):
    """The fast way through a file did not lead exactly to the picked frames."""


@dataclass
class _Index:
    stamps: array  # ascending presentation times of all frames, in ticks
    end: int  # time at which the last frame leaves the screen, in ticks
    tick: Fraction  # seconds per tick
    keys: array  # ascending presentation times of the frames at which decoding can begin
    seekable: bool  # whether decoding can jump to them
    by_time: bool  # whether decoded frames carry these times; otherwise the n-th frame has the n-th time
    declared: int  # number of frames according to the header, 0 if it does not say


def read_video_file(file: IO[bytes], source: str, options: DecodeOptions, declared_size: int) -> VideoFrames:
    """
    Read a clip from a seekable video file, which stays open.

    Args:
        declared_size (`int`): the size in bytes that the file declares, 0 if it declares none.

    Raises:
        `VideoDecodeError`: if the file is truncated, damaged, not a video, without frames or beyond a limit.
    """
    index = _checked_index(file, source, options, declared_size)
    keys = index.keys if index.by_time else ()
    timeline = Timeline(index.stamps, index.end, float(index.tick), keys)
    picks = pick_frames(source, timeline, options)
    try:
        frames = _decode(file, source, index, [index.stamps[pick] for pick in sorted(set(picks))], options)
        return assemble_clip(source, timeline, picks, frames, options)
    except av.FFmpegError as error:
        raise VideoDecodeError(source, f"damaged: it cannot be decoded ({error.strerror})") from error


def _checked_index(file: IO[bytes], source: str, options: DecodeOptions, declared_size: int) -> _Index:
    """The index of a file that is as long as it declares; otherwise the error that tells how much can be read."""
    size = file.seek(0, 2)
    missing = max(0, declared_size - size)
    present = f"{size} of {size + missing} bytes are present"
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
    return index


class _NamelessFile:
    """
    An open file without its name, whose ending FFmpeg would trust more than the content. It has a position of its own,
    so that several can read one file in turns.
    """

    def __init__(self, file: IO[bytes], lock: AbstractContextManager[object]):
        self.file, self.lock, self.position = file, lock, 0

    def read(self, size: int = -1) -> bytes:
        with self.lock:
            self.file.seek(self.position)
            data = self.file.read(size)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            with self.lock:
                offset += self.file.seek(0, 2)
        self.position = offset + (self.position if whence == 1 else 0)
        return self.position

    def tell(self) -> int:
        return self.position


def _open(file: IO[bytes], lock: AbstractContextManager[object] | None = None) -> InputContainer:
    nameless = _NamelessFile(file, lock or nullcontext())
    return av.open(nameless, "r", metadata_errors="ignore", options={"protocol_whitelist": "none"})


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
    The packets that hold data, then `None` for the decoder to give out the frames it holds back. An AVI has empty
    packets that mean "repeat the last frame", which a decoder would take for the end.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError as error:  # raised by PyAV for a packet of a stream that was absent at the start
        raise VideoDecodeError(source, "damaged: a new stream begins in the middle of it") from error
    yield None


def _index_file(file: IO[bytes], source: str, options: DecodeOptions) -> _Index:
    """Read through the file without decoding."""
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
        seekable = container.format.name not in UNINDEXED
        end = (stream.start_time or 0) + (stream.duration or 0) if seekable else 0  # without an index, an estimate

    stamps, keys = array("q", sorted(stamps)), array("q", sorted(keys))
    if by_time and keys:
        # A recording that starts in the middle: frames before the first key frame cannot be decoded.
        stamps = stamps[bisect_left(stamps, keys[0]) :]
    if stamps and end <= stamps[-1]:
        gap = stamps[-1] - stamps[-2] if len(stamps) > 1 else 0
        end = stamps[-1] + (stay or gap or 1)
    return _Index(stamps, end, tick, keys, seekable, by_time, declared)


def _decode(
    file: IO[bytes], source: str, index: _Index, stamps: list[int], options: DecodeOptions
) -> list[torch.Tensor]:
    """The frames shown at the ascending times `stamps`: the fast way where it leads there, otherwise plainly."""
    if index.by_time and index.keys:
        try:
            return _decode_in_parts(file, source, index, stamps, options)
        except (_FastWayFailed, av.FFmpegError):
            pass  # plain decoding tells a file that is unusual from one that is damaged
    return list(_decode_plainly(file, source, index, stamps, options))


def _decode_in_parts(
    file: IO[bytes], source: str, index: _Index, stamps: list[int], options: DecodeOptions
) -> list[torch.Tensor]:
    """
    As [`_decode_fast`], in threads, each on its share of the key frames. FFmpeg's own threads would not do: they
    decode ahead, so that it could not be told frame by frame which to skip.
    """
    threads = options.threads or os.cpu_count() or 1
    if threads == 1 or not index.seekable:
        return list(_decode_fast(file, source, index, stamps, options))
    shares = _shares(stamps, index.keys, threads)
    lock = Lock()
    with ThreadPoolExecutor(len(shares)) as pool:
        parts = pool.map(lambda share: list(_decode_fast(file, source, index, share, options, lock)), shares)
        return [frame for part in parts for frame in part]


def _shares(stamps: list[int], keys: Sequence[int], count: int) -> list[list[int]]:
    """Cut ascending times before key frames into at most `count` consecutive lists of about equal decoding time."""
    parts = [list(part) for _, part in groupby(stamps, key=lambda stamp: bisect_right(keys, stamp))]
    costs = [part[-1] - keys[max(0, bisect_right(keys, part[-1]) - 1)] + 1 for part in parts]
    total, before = sum(costs), 0
    shares: list[list[int]] = [[] for _ in range(count)]
    for part, cost in zip(parts, costs, strict=True):
        shares[count * (2 * before + cost) // (2 * total)] += part  # the share into which its middle falls
        before += cost
    return [share for share in shares if share]


def _decode_fast(
    file: IO[bytes],
    source: str,
    index: _Index,
    stamps: list[int],
    options: DecodeOptions,
    lock: AbstractContextManager[object] | None = None,
) -> Iterator[torch.Tensor]:
    """Decode the frames shown at the ascending times `stamps` and as few others as possible; or `_FastWayFailed`."""
    pending, needed = deque(stamps), set(stamps)
    with _open(file, lock) as container:
        stream = _video_stream(container, source, options)
        context, convert = stream.codec_context, _FrameConverter(stream, source, options)
        keys = index.keys if index.seekable else index.keys[:1]
        target, furthest, entered = keys[0], keys[0], False
        for packet in _packets(container, stream, source):
            if packet is not None:
                if packet.pts is None:
                    raise _FastWayFailed
                if not entered and not packet.is_keyframe:
                    continue
                if not entered and packet.pts < target:
                    keys = keys[:1]  # the jump fell short: no more jumps
                entered = True
                furthest = max(furthest, packet.pts)
                # Applies to the next packet. A frame that others refer to is decoded in any case.
                context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            for frame in context.decode(packet):
                if frame.pts is None or frame.pts > pending[0] or (frame.pts == pending[0] and frame.is_corrupt):
                    raise _FastWayFailed
                if frame.pts == pending[0]:
                    yield convert(frame)
                    pending.popleft()
                if not pending:
                    return
            target = keys[bisect_right(keys, pending[0]) - 1]
            if target > furthest:
                container.seek(target, stream=stream)
                furthest, entered = target, False
    raise _FastWayFailed


def _decode_plainly(
    file: IO[bytes], source: str, index: _Index, stamps: list[int], options: DecodeOptions
) -> Iterator[torch.Tensor]:
    """
    Decode everything from the start to the last of the ascending times `stamps`. Where a packet shows nothing, as
    some codecs allow, the frame before it is on screen.
    """
    pending, count, failed = deque(stamps), 0, False
    shown: VideoFrame | None = None

    def require_intact(frame: VideoFrame | None) -> VideoFrame:
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
        convert = _FrameConverter(stream, source, options)
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
                    yield convert(require_intact(frame if stamp == pending[0] else shown))
                    pending.popleft()
                if not pending:
                    return
                shown = frame
                count += 1
        while pending:
            yield convert(require_intact(shown))
            pending.popleft()


class _FrameConverter:
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
