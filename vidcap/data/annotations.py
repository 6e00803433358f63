"""Readers of published caption files, one per format.

Guarantees: a mistake in a file is an [`AnnotationError`] that names file and line or entry; nothing is skipped.
Captions are returned unchanged, empty ones too; `cleaning.py` cleans and counts them.

Limitations: of VATEX the English captions only; other contents of the files are ignored.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from processing.clips.file_names import SPLIT_NAMES

from .annotation_files import AnnotationError, csv_rows, get_value, list_entries, parse_json, read_json, text_lines


@dataclass(frozen=True)
class Annotation:
    """
    Captions of one clip.

    Args:
        source: The video: a URL, a file name or an id.
        captions: In the order of the file.
        split: `train`, `validation` or `test`; None if the file does not name it.
        start, end: The part of the video that the captions describe, in seconds; None for the whole video.
        clip: Name or id, in the data set, of a file with just this part; None if there is none.
        place: Line or entry of the file, for messages.
    """

    source: str
    captions: tuple[str, ...]
    split: str | None = None
    start: float | None = None
    end: float | None = None
    clip: str | None = None
    place: str = field(default="", compare=False)

    @property
    def is_url(self) -> bool:
        """Whether the source can be fetched over http(s)."""
        return re.match(r"https?://", self.source, re.IGNORECASE) is not None


def read_annotations(path: Path, format: str) -> list[Annotation]:
    """Read a caption file, and merge the captions of the same part of the same video.

    Args:
        path: The file.
        format: A key of `READERS`.

    Returns:
        One annotation per clip, in the order of first appearance.

    Raises:
        AnnotationError: For a mistake in the file, a file without captions, or a clip in two splits.
        OSError: If the file cannot be read.
    """
    merged: dict[tuple[Any, ...], Annotation] = {}
    for annotation in READERS[format](path):
        _check_segment(path, annotation)
        key = (annotation.source, annotation.clip, annotation.start, annotation.end)
        known = merged.get(key)
        if known is not None and known.split != annotation.split:
            mistake = (
                f"{annotation.source} is in the split {annotation.split} here, but in {known.split} at {known.place}; "
                "keep one of them"
            )
            raise AnnotationError(path, annotation.place, mistake)
        merged[key] = annotation if known is None else replace(known, captions=known.captions + annotation.captions)
    if not merged:
        raise AnnotationError(path, "", "contains no captions")
    return list(merged.values())


def read_split_lists(paths: Sequence[Path]) -> dict[str, str]:
    """Read lists of sources, one per line, such as TGIF's `train.txt`, `val.txt`, `test.txt`.

    Returns:
        The split of each source.

    Raises:
        AnnotationError: If a list is not named after a split, or a source is in two lists.
        OSError: If a file cannot be read.
    """
    splits: dict[str, str] = {}
    for path in paths:
        split = _split(path, "", path.stem)
        for place, line in text_lines(path):
            if splits.setdefault(line.strip(), split) != split:
                other = splits[line.strip()]
                raise AnnotationError(path, place, f"{line.strip()} is in the list of {other} too; keep one of them")
    return splits


def _check_segment(path: Path, annotation: Annotation) -> None:
    start, end = annotation.start, annotation.end
    if (start is None) != (end is None):
        raise AnnotationError(path, annotation.place, "has only one of start and end; give both")
    if start is not None and end is not None and not 0 <= start < end < float("inf"):
        raise AnnotationError(path, annotation.place, f"the part from {start} to {end} seconds is empty or invalid")


def read_tgif(path: Path) -> Iterator[Annotation]:
    """Lines `url TAB caption` (https://github.com/raingo/TGIF-Release)."""
    for place, line in text_lines(path):
        url, tab, caption = line.partition("\t")
        if not tab or not url.strip():
            raise AnnotationError(path, place, f"not `URL TAB caption`: {line[:80]!r}")
        yield Annotation(url.strip(), (caption,), place=place)


def read_msrvtt(path: Path) -> Iterator[Annotation]:
    """`videos` and `sentences`, joined by `video_id`.

    Clips are files named by that id, already cut; the URLs are pages of a video site and not fetched.
    """
    content = read_json(path)
    sentences: dict[str, list[str]] = {}
    for place, entry in list_entries(path, get_value(path, "", content, "sentences", list), "sentences"):
        caption = get_value(path, place, entry, "caption", str)
        sentences.setdefault(get_value(path, place, entry, "video_id", str), []).append(caption)
    for place, entry in list_entries(path, get_value(path, "", content, "videos", list), "videos"):
        name = get_value(path, place, entry, "video_id", str)
        if name not in sentences:
            raise AnnotationError(path, place, f"{name} has no sentence")
        start, end = (float(get_value(path, place, entry, key, (int, float))) for key in ("start time", "end time"))
        split = _split(path, place, get_value(path, place, entry, "split", str))
        yield Annotation(name, tuple(sentences.pop(name)), split, start, end, clip=name, place=place)
    if sentences:
        raise AnnotationError(path, "sentences", f"{next(iter(sentences))} is not among the videos, or occurs twice")


def read_msvd(path: Path) -> Iterator[Annotation]:
    """`AllVideoDescriptions.txt`: lines `ID_start_end caption`; lines that begin with # are comments."""
    for place, line in text_lines(path):
        if line.startswith("#"):
            continue
        name, _, caption = line.partition(" ")
        source, start, end = _segment_of_name(path, place, name)
        yield Annotation(source, (caption,), None, start, end, clip=name, place=place)


def read_vatex(path: Path) -> Iterator[Annotation]:
    """A list of `{"videoID": "ID_start_end", "enCap": [...]}`."""
    for place, entry in list_entries(path, read_json(path), ""):
        name = get_value(path, place, entry, "videoID", str)
        source, start, end = _segment_of_name(path, place, name)
        captions = _texts(path, place, get_value(path, place, entry, "enCap", list))
        yield Annotation(source, captions, None, start, end, clip=name, place=place)


def read_activitynet(path: Path) -> Iterator[Annotation]:
    """`{ID: {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}`: one annotation per part."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise AnnotationError(path, "", "not a JSON object with one key per video")
    for name, entry in content.items():
        times = get_value(path, name, entry, "timestamps", list)
        sentences = _texts(path, name, get_value(path, name, entry, "sentences", list))
        if len(times) != len(sentences):
            raise AnnotationError(path, name, f"{len(times)} timestamps for {len(sentences)} sentences")
        for number, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
            place = f"{name}, part {number}"
            if not (isinstance(span, list) and len(span) == 2 and all(isinstance(t, (int, float)) for t in span)):
                raise AnnotationError(path, place, f"timestamp {span!r} is not [start, end]")
            start, end = sorted(float(time) for time in span)  # some published ones are reversed
            yield Annotation(name, (sentence,), None, start, end, place=place)


def read_charades(path: Path) -> Iterator[Annotation]:
    """CSV with `id` and `descriptions`, separated by `;`."""
    for place, row in csv_rows(path, ("id", "descriptions")):
        yield Annotation(row["id"], tuple(row["descriptions"].split(";")), place=place)


def read_coco(path: Path) -> Iterator[Annotation]:
    """`images` and `annotations`, joined by the image's id: clips of one frame."""
    content = read_json(path)
    captions: dict[Any, list[str]] = {}
    for place, entry in list_entries(path, get_value(path, "", content, "annotations", list), "annotations"):
        caption = get_value(path, place, entry, "caption", str)
        captions.setdefault(get_value(path, place, entry, "image_id", (int, str)), []).append(caption)
    for place, entry in list_entries(path, get_value(path, "", content, "images", list), "images"):
        number, name = get_value(path, place, entry, "id", (int, str)), get_value(path, place, entry, "file_name", str)
        if number not in captions:
            raise AnnotationError(path, place, f"image {number} has no caption")
        yield Annotation(entry.get("coco_url") or name, tuple(captions.pop(number)), clip=name, place=place)
    if captions:
        raise AnnotationError(
            path, "annotations", f"image {next(iter(captions))} is not among the images, or occurs twice"
        )


def read_flickr30k(path: Path) -> Iterator[Annotation]:
    """Lines `name.jpg#0 TAB caption`: clips of one frame."""
    for place, line in text_lines(path):
        match = re.fullmatch(r"([^\t]+)#\d+\t(.*)", line)
        if match is None:
            raise AnnotationError(path, place, f"not `NAME#NUMBER TAB caption`: {line[:80]!r}")
        yield Annotation(match[1], (match[2],), place=place)


def read_jsonl(path: Path) -> Iterator[Annotation]:
    """Lines with `file_name` or `url`, `caption` or `captions`, optionally `split`, `start` and `end` in seconds."""
    for place, line in text_lines(path):
        yield _annotation(path, place, parse_json(path, place, line))


def read_csv(path: Path) -> Iterator[Annotation]:
    """CSV whose columns are the keys of `read_jsonl`; `captions` contains a JSON list."""
    for place, row in csv_rows(path, ()):
        record: dict[str, Any] = {key: value for key, value in row.items() if value or key == "caption"}
        if "captions" in record:
            record["captions"] = parse_json(path, place, record["captions"])
        for key in ("start", "end"):
            if key in record:
                record[key] = parse_json(path, place, record[key])
        yield _annotation(path, place, record)


READERS: dict[str, Callable[[Path], Iterator[Annotation]]] = {
    "tgif": read_tgif,
    "msrvtt": read_msrvtt,
    "msvd": read_msvd,
    "vatex": read_vatex,
    "activitynet": read_activitynet,
    "charades": read_charades,
    "coco": read_coco,
    "flickr30k": read_flickr30k,
    "jsonl": read_jsonl,
    "csv": read_csv,
}
STILL_FORMATS = ("coco", "flickr30k")  # their clips are images
URL_FORMATS = ("tgif", "coco", "jsonl", "csv")  # may contain URLs of files; the others only file names or ids
SPLIT_FORMATS = ("msrvtt",)  # name the split of every clip


def _annotation(path: Path, place: str, record: object) -> Annotation:
    """The annotation of one record of the package's own formats."""
    if not isinstance(record, dict) or not (record.get("url") or record.get("file_name")):
        raise AnnotationError(path, place, 'has neither "file_name" nor "url"')
    names = {key: get_value(path, place, record, key, str) for key in ("file_name", "url") if record.get(key)}
    if ("caption" in record) == ("captions" in record):
        raise AnnotationError(path, place, 'must have either a "caption" or a list of "captions"')
    captions = get_value(path, place, record, "captions", list) if "captions" in record else [record["caption"]]
    split = record.get("split")
    start, end = (
        float(get_value(path, place, record, key, (int, float))) if record.get(key) is not None else None
        for key in ("start", "end")
    )
    return Annotation(
        names.get("url") or names["file_name"],
        _texts(path, place, captions),
        None if split is None else _split(path, place, split),
        start,
        end,
        # For a part of a video, `file_name` is the whole video.
        clip=names.get("file_name") if "url" in names and start is None else None,
        place=place,
    )


def _segment_of_name(path: Path, place: str, name: str) -> tuple[str, float, float]:
    match = re.fullmatch(r"(.+)_(\d+)_(\d+)", name)
    if match is None:
        raise AnnotationError(
            path, place, f"{name[:80]!r} does not have the form ID_start_end, with start and end in seconds"
        )
    return match[1], float(match[2]), float(match[3])


def _split(path: Path, place: str, name: object) -> str:
    if not isinstance(name, str) or name.lower() not in SPLIT_NAMES:
        raise AnnotationError(path, place, f"unknown split {name!r}; use one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.lower()]


def _texts(path: Path, place: str, captions: list[Any]) -> tuple[str, ...]:
    for caption in captions:
        if not isinstance(caption, str):
            raise AnnotationError(path, place, f"caption {caption!r} is not a string")
    return tuple(captions)
