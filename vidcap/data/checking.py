"""Is the clip of an annotation there, readable and moving? And the part of a video that an annotation speaks of, cut.

What was checked is noted in a file, by path, size and time of change, so that a second run decodes new clips only.

Given up: sound; a part is encoded anew (H.264), since a video can only be cut unchanged at its key frames.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import av
import torch
from av.stream import Disposition

from modeling_vidcap.saving_vidcap import sha256_of
from processing.support.progress import track
from processing.video_frames_vidcap import DecodeOptions, VideoDecodeError
from processing.video_io_vidcap import decode_video

from .annotations import Annotation
from .notes import read_notes

MOVING = (".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
SUFFIXES = (*MOVING, ".bmp", ".jpeg", ".jpg", ".png", ".webp")
RULES_VERSION = 1  # to be raised with every change of what is refused, so that older notes are not believed
SIDE = 96  # frames are compared at this size
NOISE = 8  # of 255: what compression alone makes of a picture that stands still; what moves by less cannot be seen
OVERHANG = 1.0  # seconds that a part may reach beyond the end of its video, as rounded times do


class ClipFolder:
    """The clips of a folder and its subfolders, found by file name, by path within the folder, or by id.

    Args:
        folder: Where to look.
    """

    def __init__(self, folder: Path):
        self._names: dict[str, set[Path]] = {}
        self._stems: dict[str, set[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                for name in {path.name, path.relative_to(folder).as_posix()}:
                    self._names.setdefault(name, set()).add(path)
                self._stems.setdefault(path.stem, set()).add(path)

    def find(self, name: str) -> Path | None:
        """The clip of that name, with that or, where there is none, with another of the common endings.

        Raises:
            ValueError: If it may be either of several clips.
        """
        stem = name[: name.rfind(".")] if Path(name).suffix.lower() in SUFFIXES else name
        found = sorted(self._names.get(name) or self._stems.get(stem) or ())
        if len(found) > 1:
            raise ValueError(f"{name!r} may be {found[0]} or {found[1]}; rename or remove one of them")
        return found[0] if found else None


def find_clip(each: Annotation, folder: ClipFolder) -> tuple[Path, bool] | None:
    """The file of an annotation, and whether it is longer than the part that is spoken of; None if it is not there."""
    ready = folder.find(each.clip) if each.clip else None
    if ready:
        return ready, False
    path = folder.find(file_name_of(each))
    return (path, each.start is not None) if path else None


def file_name_of(each: Annotation) -> str:
    """The name of a source's file: of a URL, the last part of its path."""
    return PurePosixPath(unquote(urlsplit(each.source).path)).name if each.is_url else each.source


@dataclass(frozen=True)
class Task:
    """A file to check, cut to the seconds from `start` to `end` before; `stills`: it need not move."""

    path: Path
    start: float | None = None
    end: float | None = None
    stills: bool = False

    def key(self) -> str:
        """What must not have changed for an older check to hold."""
        state = self.path.stat()
        fields = (RULES_VERSION, str(self.path), state.st_size, state.st_mtime_ns, self.start, self.end, self.stills)
        return json.dumps(fields)


@dataclass(frozen=True)
class Check:
    """What a check found: the file to use, its size in bytes, its hash and the usual ending of its kind; or why it is
    refused."""

    path: str = ""
    size: int = 0
    sha256: str = ""
    suffix: str = ""
    refused: str = ""
    detail: str = ""

    def holds(self) -> bool:
        """Whether the file, which may be one that was cut, is still there."""
        return bool(self.refused) or (Path(self.path).is_file() and Path(self.path).stat().st_size == self.size)


def check_all(tasks: Iterable[Task], folder: Path, *, workers: int = 1) -> list[Check]:
    """Checks files, in threads.

    Args:
        tasks: What to check.
        folder: Keeps the notes (`checks.jsonl`) and the parts that were cut (`cut/`).
        workers: Files decoded at once.

    Returns:
        One result a task, in their order.
    """
    notes = folder / "checks.jsonl"
    known = {}
    for note in read_notes(notes, ("key", *Check.__dataclass_fields__)):
        key = note.pop("key")
        known[key] = Check(**note)
    keys = {task: task.key() for task in tasks}
    missing = [task for task, key in keys.items() if key not in known or not known[key].holds()]
    with ThreadPoolExecutor(workers) as pool, notes.open("a", encoding="utf-8") as file:
        try:
            results = pool.map(lambda task: check(task, folder / "cut"), missing)
            bar = track(results, "checking clips", total=len(missing))
            for task, result in zip(missing, bar, strict=True):
                known[keys[task]] = result
                file.write(json.dumps({"key": keys[task], **asdict(result)}) + "\n")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [known[keys[task]] for task in tasks]


def check(task: Task, cut_folder: Path) -> Check:
    """Cuts, decodes and hashes one file. A file that cannot be used is a result, not an error."""
    path = task.path
    try:
        if task.start is not None and task.end is not None:
            path = cut_segment(path, task.start, task.end, cut_folder)
        if problem := _problem_of(path, stills=task.stills):
            return Check(refused="still", detail=problem)
    except SegmentError as error:
        return Check(refused="segment", detail=str(error))
    except VideoDecodeError as error:
        return Check(refused="unreadable", detail=error.reason)
    with path.open("rb") as file:
        head = file.read(64)
    return Check(str(path), path.stat().st_size, sha256_of(path), suffix_of(head, path))


def _problem_of(path: Path, *, stills: bool) -> str:
    """Why a clip does not count as moving, empty if it does. A movement between 16 frames shows in 256."""
    for num_frames in (16, 256):
        clip = decode_video(path, num_frames=num_frames, fit=(SIDE, SIDE))
        frames = clip.frames[clip.mask]  # (T, 3, H, W)
        problem = "" if stills else why_still(frames)
        if not problem or len(frames) < num_frames:
            break
    return problem


def why_still(frames: torch.Tensor) -> str:
    """Why frames `(T, 3, H, W)` in uint8 do not move, empty if they do."""
    if len(frames) == 1:
        return "it has one frame"
    # Frame by frame: the differences of all at once would take twice the memory of the frames.
    moves = any((frame.short() - frames[0].short()).abs().max() > NOISE for frame in frames[1:])
    return "" if moves else f"its {len(frames)} frames are equal"


def suffix_of(head: bytes, path: Path) -> str:
    """The usual ending of a file that begins with `head` (64 bytes); its own where the bytes do not tell."""
    for magic, suffix in ((b"GIF8", ".gif"), (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"BM", ".bmp")):
        if head.startswith(magic):
            return suffix
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"AVI ": ".avi"}.get(head[8:12], path.suffix.lower())
    if head[:4] == b"\x1aE\xdf\xa3":
        return ".webm" if b"webm" in head else ".mkv"
    if head[4:8] == b"ftyp":
        return ".mov" if head[8:12] == b"qt  " else ".mp4"
    return path.suffix.lower()


class SegmentError(ValueError):
    """The video does not hold the part that an annotation speaks of."""


def cut_segment(path: Path, start: float, end: float, folder: Path) -> Path:
    """Writes a part of a video as an MP4 file of its own, without sound, or finds it written.

    Args:
        path: The video.
        start, end: In seconds from its first frame; a frame that is shown at `start` belongs to the part, one shown at
            `end` does not.
        folder: Where it goes, under a name made of these three.

    Raises:
        SegmentError: If the video ends before `start`, or more than a second before `end`.
        VideoDecodeError: If the video cannot be read.
    """
    name = hashlib.sha256(json.dumps([Task(path).key(), start, end]).encode()).hexdigest()[:32]
    target = folder / f"{name}.mp4"
    if target.is_file():
        return target
    folder.mkdir(exist_ok=True)
    unfinished = target.with_suffix(".part")
    try:
        # No other file is opened, whatever this one may name: it may come from a stranger's server.
        options = {"protocol_whitelist": "none"}
        with path.open("rb") as file, av.open(file, "r", metadata_errors="ignore", options=options) as container:
            streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoDecodeError(str(path), "not a video: there is no moving picture in it")
            length = container.duration / av.time_base if container.duration else end
            if start >= length or end > length + OVERHANG:
                raise SegmentError(f"from {start:g} to {end:g} s, but the video is {length:.1f} s long")
            with av.open(str(unfinished), "w", format="mp4") as output:
                _copy_frames(container, streams[0], output, (start, end))
        os.replace(unfinished, target)
    except (av.FFmpegError, IndexError) as error:  # PyAV's answer to a stream that begins in the middle of a file
        raise VideoDecodeError(str(path), f"it cannot be decoded from {start:g} to {end:g} s ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _copy_frames(container: Any, stream: Any, output: Any, span: tuple[float, float]) -> None:
    (start, end), target = span, None
    stream.codec_context.options = {"max_pixels": str(DecodeOptions.max_frame_pixels)}
    first, tick = stream.start_time or 0, stream.time_base
    container.seek(first + int(start / tick), stream=stream)  # lands on the key frame before
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            raise VideoDecodeError(container.name, f"damaged: no sound picture between {start:g} and {end:g} s")
        seconds = float((frame.pts - first) * tick)
        if seconds < start - 1e-6:
            continue
        if seconds >= end - 1e-6:
            break
        if target is None:
            options = {"crf": "18", "preset": "veryfast"}
            target = output.add_stream("libx264", rate=stream.average_rate or 25, options=options)
            target.height, target.width = frame.height // 2 * 2, frame.width // 2 * 2  # colour has half the size
            target.pix_fmt = "yuv420p"
            target.codec_context.time_base = Fraction(1, 90_000)  # for frames at any distance
            target.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
            target.thread_count = 1  # the same bytes on any machine
            if frame.rotation:
                target.set_display_rotation(frame.rotation)
        picture = frame.reformat(width=target.width, height=target.height, format="yuv420p")
        picture.pts, picture.time_base = round((seconds - start) * 90_000), Fraction(1, 90_000)
        picture.pict_type = 0  # the encoder chooses its own key frames
        output.mux(target.encode(picture))
    if target is None:
        raise SegmentError(f"from {start:g} to {end:g} s there is no frame")
    output.mux(target.encode())
