"""Finds the clips of annotations, checks that they are readable and moving, and cuts annotated parts from videos.

Guarantees: results are noted in a file by path, size and time of change, so that a second run decodes new clips only.

Limitations: parts have no sound and are encoded again (H.264), since a video can only be cut unchanged at key frames.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import av
import torch
from av.stream import Disposition

from modeling_vidcap.saving_vidcap import sha256_of
from processing.clips.file_names import CLIPS
from processing.support.progress import track
from processing.video_frames_vidcap import DecodeOptions, VideoDecodeError
from processing.video_io_vidcap import decode_video

from ..files import read_notes
from .annotations import Annotation

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

RULES_VERSION = 1  # raise with every change of the checks, so that older notes are ignored
SIDE = 96  # frames are compared at this size
NOISE = 8  # of 255; changes up to this size come from compression alone and cannot be seen
OVERHANG = 1.0  # seconds that a part may extend beyond its video, since published times are rounded


class ClipFolder:
    """The clips of a folder and its subfolders, by file name, by path within the folder, or by id.

    Args:
        folder: The folder to search.
    """

    def __init__(self, folder: Path):
        self.example = ""  # the name of any clip
        self._names: dict[str, set[Path]] = {}
        self._stems: dict[str, set[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in CLIPS and path.is_file():
                self.example = self.example or path.name
                for name in {path.name, path.relative_to(folder).as_posix()}:
                    self._names.setdefault(name, set()).add(path)
                self._stems.setdefault(path.stem, set()).add(path)

    def find(self, name: str) -> Path | None:
        """The clip of that name, otherwise the clip that differs in a common suffix alone.

        Raises:
            ValueError: If several clips match.
        """
        stem = name[: name.rfind(".")] if Path(name).suffix.lower() in CLIPS else name
        paths = sorted(self._names.get(name) or self._stems.get(stem) or ())
        if len(paths) > 1:
            raise ValueError(f"{name!r} matches both {paths[0]} and {paths[1]}; rename or remove one of them")
        return paths[0] if paths else None


def find_clip(annotation: Annotation, folder: ClipFolder) -> tuple[Path, bool] | None:
    """The file of an annotation, and whether the annotated part must be cut from it; None if it is missing."""
    cut = folder.find(annotation.clip) if annotation.clip else None
    if cut:
        return cut, False
    path = folder.find(file_name_of(annotation))
    return (path, annotation.start is not None) if path else None


def names_of(annotation: Annotation) -> list[str]:
    """The names under which [`find_clip`] looks for a clip; a common suffix may differ or be missing."""
    return list(dict.fromkeys(name for name in (annotation.clip, file_name_of(annotation)) if name))


def file_name_of(annotation: Annotation) -> str:
    """The name of a source's file; for a URL, the last part of its path."""
    source = annotation.source
    return PurePosixPath(unquote(urlsplit(source).path)).name if annotation.is_url else source


@dataclass(frozen=True)
class Task:
    """A file to check, after cutting it to the seconds from `start` to `end`; with `stills` it need not move."""

    path: Path
    start: float | None = None
    end: float | None = None
    stills: bool = False

    def key(self) -> str:
        """The facts on which an earlier check depends."""
        state = self.path.stat()
        fields = (RULES_VERSION, str(self.path), state.st_size, state.st_mtime_ns, self.start, self.end, self.stills)
        return json.dumps(fields)


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Either the file to use, its size in bytes, its hash and the usual suffix of its type, or the reason of refusal.
    """

    path: str = ""
    size: int = 0
    sha256: str = ""
    suffix: str = ""
    refused: str = ""
    detail: str = ""

    def holds(self) -> bool:
        """Whether the file, which may have been cut from a video, still exists."""
        return bool(self.refused) or (Path(self.path).is_file() and Path(self.path).stat().st_size == self.size)


def check_all(tasks: Iterable[Task], folder: Path, *, workers: int = 1) -> list[Check]:
    """Check files in threads.

    Args:
        tasks: The files.
        folder: Folder for the notes (`checks.jsonl`) and for parts cut from videos (`cut/`).
        workers: Files decoded at once.

    Returns:
        One result per task, in order.
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
    """Cuts, decodes and hashes one file; an unusable file is a result, not an error."""
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
    """The reason why a clip does not count as moving, empty if it moves.

    A clip that seems still in 16 frames is checked again in 256.
    """
    for num_frames in (16, 256):
        clip = decode_video(path, num_frames=num_frames, fit=(SIDE, SIDE))
        frames = clip.frames[clip.mask]  # (T, 3, H, W)
        problem = "" if stills else why_still(frames)
        if not problem or len(frames) < num_frames:
            break
    return problem


def why_still(frames: torch.Tensor) -> str:
    """The reason why frames `(T, 3, H, W)`, uint8, do not move, empty if they move."""
    if len(frames) == 1:
        return "it has one frame"
    # Frame by frame, since the differences of all at once take twice the memory of the frames.
    moves = any((frame.short() - frames[0].short()).abs().max() > NOISE for frame in frames[1:])
    return "" if moves else f"its {len(frames)} frames are equal"


def suffix_of(head: bytes, path: Path) -> str:
    """The usual suffix of a file that begins with `head` (64 bytes); for unknown types, its own."""
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
    """The video does not contain the annotated part."""


def cut_segment(path: Path, start: float, end: float, folder: Path) -> Path:
    """Cut a part of a video into an MP4 file without sound, unless an earlier run has done so.

    Args:
        path: The video.
        start, end: Seconds from its first frame; a frame shown at `start` belongs to the part, one shown at `end` does
            not.
        folder: Output folder; the file name is derived from the other arguments.

    Returns:
        The file.

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
        # The file may come from anyone's server, so it must not open other files.
        options = {"protocol_whitelist": "none"}
        with path.open("rb") as file, av.open(file, "r", metadata_errors="ignore", options=options) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoDecodeError(str(path), "not a video: it contains no moving picture")
            length = container.duration / av.time_base if container.duration else end
            if start >= length or end > length + OVERHANG:
                raise SegmentError(f"from {start:g} to {end:g} s, but the video lasts {length:.1f} s")
            with av.open(str(unfinished), "w", format="mp4") as output:
                _copy_frames(container, streams[0], output, (start, end))
        os.replace(unfinished, target)
    except (av.FFmpegError, IndexError) as error:  # PyAV raises IndexError for a stream that begins mid-file
        raise VideoDecodeError(str(path), f"it cannot be decoded from {start:g} to {end:g} s ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _copy_frames(
    container: "InputContainer", stream: "VideoStream", output: "OutputContainer", span: tuple[float, float]
) -> None:
    start, end = span
    target: VideoStream | None = None
    stream.codec_context.options = {"max_pixels": str(DecodeOptions.max_frame_pixels)}
    first, tick = stream.start_time or 0, stream.time_base or Fraction(1)
    container.seek(first + int(start / tick), stream=stream)  # moves to the key frame before
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            raise VideoDecodeError(container.name, f"damaged: no intact frame between {start:g} and {end:g} s")
        seconds = float((frame.pts - first) * tick)
        if seconds < start - 1e-6:
            continue
        if seconds >= end - 1e-6:
            break
        if target is None:
            options = {"crf": "18", "preset": "veryfast"}
            target = output.add_stream("libx264", rate=stream.average_rate or 25, options=options)
            target.height, target.width = frame.height // 2 * 2, frame.width // 2 * 2  # colour has half the resolution
            target.pix_fmt = "yuv420p"
            target.codec_context.time_base = Fraction(1, 90_000)  # fine enough for any frame rate
            target.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
            target.thread_count = 1  # for the same bytes on any machine
            if frame.rotation:
                target.set_display_rotation(frame.rotation)
        picture = frame.reformat(width=target.width, height=target.height, format="yuv420p")
        picture.pts, picture.time_base = round((seconds - start) * 90_000), Fraction(1, 90_000)
        picture.pict_type = 0  # lets the encoder choose key frames
        output.mux(target.encode(picture))
    if target is None:
        raise SegmentError(f"the video has no frame from {start:g} to {end:g} s")
    output.mux(target.encode())
