"""Readers of published caption files, one per format.

Guarantees: a mistake in a file is an [`AnnotationError`] that names file and line or entry. That of a single row is
kept in [`BadRows`], and leaves out this row alone; nothing is skipped in silence. Captions are returned unchanged,
empty ones too; `cleaning.py` cleans and counts them.

Limitations: of VATEX the English captions only; other contents of the files are ignored.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from processing.clips.file_names import SPLIT_NAMES

from .annotation_files import (
    STRICT,
    AnnotationError,
    BadRows,
    csv_rows,
    get_value,
    list_entries,
    parse_json,
    read_json,
    text_lines,
)

MSVD_NAMES = "youtube_mapping.txt"


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


def read_annotations(path: Path, format: str, bad: BadRows = STRICT) -> list[Annotation]:
    """Read a caption file, and merge the captions of the same part of the same video.

    Args:
        path: The file.
        format: A key of `READERS`.
        bad: Takes up the mistakes of single rows, such as a clip in two splits; by default the first one is raised.

    Returns:
        One annotation per clip, in the order of first appearance.

    Raises:
        AnnotationError: For a mistake in the file as a whole, or a file without a usable caption.
        OSError: If the file cannot be read.
    """
    merged: dict[tuple[Any, ...], Annotation] = {}
    for annotation in READERS[format](path, bad):
        key = (annotation.source, annotation.clip, annotation.start, annotation.end)
        with bad:
            _check_segment(path, annotation)
            _check_split(path, annotation, merged.get(key, annotation))
            known = merged.get(key)
            captions = annotation.captions if known is None else known.captions + annotation.captions
            merged[key] = replace(known or annotation, captions=captions)
    if not merged:
        raise bad.mistakes[0] if bad.mistakes else AnnotationError(path, "", "contains no captions")
    return list(merged.values())


def read_split_lists(paths: Sequence[Path]) -> dict[str, str]:
    """Read lists of sources, one per line, such as TGIF's `train.txt`, `val.txt`, `test.txt`.

    A list may also be named `train_list.txt`, or be one of MSVD's files `sents_train_lc_nopunc.txt`.

    Returns:
        The split of each source, or of each clip with just an annotated part.

    Raises:
        AnnotationError: If a list is not named after a split, or a source is in two lists.
        OSError: If a file cannot be read.
    """
    splits: dict[str, str] = {}
    for path in paths:
        split = split_of_name(path) or _split(path, "", path.stem)
        names = read_msvd_names(path.parent)
        for place, line in text_lines(path):
            source = line.partition("\t")[0].strip()
            source = names.get(source, source)
            if splits.setdefault(source, split) != split:
                raise AnnotationError(
                    path, place, f"{source} is in the list of {splits[source]} too; keep one of them"
                )
    return splits


def split_of_name(path: Path) -> str | None:
    """The split that a word of a file's name names; `None` if none or several do."""
    splits = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", path.stem.lower()) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _check_split(path: Path, annotation: Annotation, known: Annotation) -> None:
    if known.split != annotation.split:
        mistake = (
            f"{annotation.source} is in the split {annotation.split} here, but in {known.split} at {known.place}; "
            "keep one of them"
        )
        raise AnnotationError(path, annotation.place, mistake)


def _check_segment(path: Path, annotation: Annotation) -> None:
    start, end = annotation.start, annotation.end
    if (start is None) != (end is None):
        raise AnnotationError(path, annotation.place, "has only one of start and end; give both")
    if start is not None and end is not None and not 0 <= start < end < float("inf"):
        raise AnnotationError(path, annotation.place, f"the part from {start} to {end} seconds is empty or invalid")


def read_tgif(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """Lines `url TAB caption` (https://github.com/raingo/TGIF-Release)."""
    for place, line in text_lines(path, bad):
        with bad:
            url, tab, caption = line.partition("\t")
            if not tab or not url.strip():
                raise AnnotationError(path, place, f"not `URL TAB caption`: {line[:80]!r}")
            yield Annotation(url.strip(), (caption,), place=place)


def read_msrvtt(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """`videos` and `sentences`, joined by `video_id`.

    Clips are files named by that id, already cut; the URLs are pages of a video site and not fetched.
    """
    content = read_json(path)
    sentences: dict[str, list[str]] = {}
    for place, entry in list_entries(path, get_value(path, "", content, "sentences", list), "sentences"):
        with bad:
            caption = get_value(path, place, entry, "caption", str)
            sentences.setdefault(get_value(path, place, entry, "video_id", str), []).append(caption)
    for place, entry in list_entries(path, get_value(path, "", content, "videos", list), "videos"):
        with bad:
            name = get_value(path, place, entry, "video_id", str)
            captions = tuple(sentences.pop(name, ()))
            if not captions:
                raise AnnotationError(path, place, f"{name} has no sentence")
            start, end = (
                float(get_value(path, place, entry, f"{side} time", (int, float))) for side in ("start", "end")
            )
            split = _split(path, place, get_value(path, place, entry, "split", str))
            yield Annotation(name, captions, split, start, end, clip=name, place=place)
    for name in sentences:
        with bad:
            raise AnnotationError(path, "sentences", f"{name} is not among the videos, or occurs twice")


def read_msvd(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """MSVD in either form.

    `AllVideoDescriptions.txt`: lines `ID_start_end caption`; lines that begin with # are comments. Files such as
    `sents_train_lc_nopunc.txt`, or a folder of them: lines `vidN TAB caption`. Their name gives the split, and
    `youtube_mapping.txt` beside them, if it exists, the `ID_start_end` of each `vidN`.
    """
    if path.is_dir():
        files = sorted(path.glob("sents_*.txt"))
        if not files:
            raise AnnotationError(path, "", "holds no sents_*.txt; name a file")
        for file in files:
            yield from (replace(found, place=f"{file.name}, {found.place}") for found in read_msvd(file, bad))
        return
    names = read_msvd_names(path.parent)
    for place, line in text_lines(path, bad):
        if line.startswith("#"):
            continue
        with bad:
            if (numbered := re.fullmatch(r"(vid\d+)\t(.*)", line)) is None:
                name, _, caption = line.partition(" ")
                source, start, end = _segment_of_name(path, place, name)
                yield Annotation(source, (caption,), None, start, end, clip=name, place=place)
            elif not names:
                yield Annotation(numbered[1], (numbered[2],), split_of_name(path), place=place)
            elif numbered[1] not in names:
                raise AnnotationError(path, place, f"{numbered[1]} is not in {MSVD_NAMES}")
            else:
                name = names[numbered[1]]
                source, start, end = _segment_of_name(path, place, name)
                yield Annotation(source, (numbered[2],), split_of_name(path), start, end, clip=name, place=place)


def read_msvd_names(folder: Path) -> dict[str, str]:
    """`ID_start_end` of each `vidN` of MSVD; empty if the folder does not hold the file of these names."""
    path = folder / MSVD_NAMES
    names = {}
    for place, line in text_lines(path) if path.is_file() else ():
        clip, _, number = line.partition(" ")
        if not number.strip():
            raise AnnotationError(path, place, f"not `ID_start_end vidN`: {line[:80]!r}")
        names[number.strip()] = clip
    return names


def read_vatex(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """A list of `{"videoID": "ID_start_end", "enCap": [...]}`."""
    for place, entry in list_entries(path, read_json(path), ""):
        with bad:
            name = get_value(path, place, entry, "videoID", str)
            source, start, end = _segment_of_name(path, place, name)
            captions = _texts(path, place, get_value(path, place, entry, "enCap", list))
            yield Annotation(source, captions, None, start, end, clip=name, place=place)


def read_activitynet(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """`{ID: {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}`: one annotation per part.

    YouCook2 is published in this form too.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise AnnotationError(path, "", "not a JSON object with one key per video")
    for name, entry in content.items():
        with bad:
            times = get_value(path, name, entry, "timestamps", list)
            sentences = get_value(path, name, entry, "sentences", list)
            if len(times) != len(sentences):
                raise AnnotationError(path, name, f"{len(times)} timestamps for {len(sentences)} sentences")
            yield from _activitynet_parts(path, name, times, sentences, bad)


def _activitynet_parts(
    path: Path, name: str, times: list[Any], sentences: list[Any], bad: BadRows
) -> Iterator[Annotation]:
    for number, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
        place = f"{name}, part {number}"
        with bad:
            if not (isinstance(span, list) and len(span) == 2 and all(isinstance(t, (int, float)) for t in span)):
                raise AnnotationError(path, place, f"timestamp {span!r} is not [start, end]")
            start, end = sorted(float(time) for time in span)  # some published ones are reversed
            yield Annotation(name, _texts(path, place, [sentence]), None, start, end, place=place)


def read_charades(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """CSV with `id` and `descriptions`, separated by `;`."""
    for place, row in csv_rows(path, ("id", "descriptions"), bad):
        yield Annotation(row["id"], tuple(row["descriptions"].split(";")), place=place)


def read_coco(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """`images` and `annotations`, joined by the image's id: clips of one frame."""
    content = read_json(path)
    captions: dict[Any, list[str]] = {}
    for place, entry in list_entries(path, get_value(path, "", content, "annotations", list), "annotations"):
        with bad:
            caption = get_value(path, place, entry, "caption", str)
            captions.setdefault(get_value(path, place, entry, "image_id", (int, str)), []).append(caption)
    for place, entry in list_entries(path, get_value(path, "", content, "images", list), "images"):
        with bad:
            number = get_value(path, place, entry, "id", (int, str))
            texts = tuple(captions.pop(number, ()))
            if not texts:
                raise AnnotationError(path, place, f"image {number} has no caption")
            name = get_value(path, place, entry, "file_name", str)
            yield Annotation(entry.get("coco_url") or name, texts, clip=name, place=place)
    for number in captions:
        with bad:
            raise AnnotationError(path, "annotations", f"image {number} is not among the images, or occurs twice")


def read_flickr30k(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """Lines `name.jpg#0 TAB caption`: clips of one frame. Flickr8k is published in this form too."""
    for place, line in text_lines(path, bad):
        with bad:
            match = re.fullmatch(r"([^\t]+)#\d+\t(.*)", line)
            if match is None:
                raise AnnotationError(path, place, f"not `NAME#NUMBER TAB caption`: {line[:80]!r}")
            # One image of Flickr8k bears the name of a second download in one of its five lines: `X.jpg.1`.
            name = re.sub(r"(\.jpe?g)\.\d+$", r"\1", match[1])
            yield Annotation(name, (match[2],), place=place)


def read_jsonl(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """Lines with `file_name` or `url`, `caption` or `captions`, optionally `split`, `start` and `end` in seconds."""
    for place, line in text_lines(path, bad):
        with bad:
            yield _annotation(path, place, parse_json(path, place, line))


def read_csv(path: Path, bad: BadRows) -> Iterator[Annotation]:
    """CSV whose columns are the keys of `read_jsonl`; `captions` contains a JSON list."""
    for place, row in csv_rows(path, (), bad):
        record: dict[str, Any] = {key: value for key, value in row.items() if value or key == "caption"}
        with bad:
            for key in ("captions", "start", "end"):
                if key in record:
                    record[key] = parse_json(path, place, record[key])
            yield _annotation(path, place, record)


READERS: dict[str, Callable[[Path, BadRows], Iterator[Annotation]]] = {
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
ARCHIVED_FORMATS = ("coco",)  # published with archives of their files, so URLs are fetched only if that is asked for
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
