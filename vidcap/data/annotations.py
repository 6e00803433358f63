"""Published caption files, one small reader a format -> [`Annotation`]s of one form.

A mistake in a file is an [`AnnotationError`] that names file and line or entry; nothing is skipped. Captions are
passed on as they stand in the file, empty ones too: `cleaning.py` cleans and counts.

Given up: languages other than the English captions of VATEX, and what else the files hold beside captions.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .annotation_files import AnnotationError, csv_rows, get_value, list_entries, parse_json, read_json, text_lines

SPLIT_NAMES = {
    **{name: "train" for name in ("train", "training")},
    **{name: "validation" for name in ("validation", "validate", "val", "valid", "dev")},
    **{name: "test" for name in ("test", "testing")},
}


@dataclass(frozen=True)
class Annotation:
    """
    Captions of one clip.

    Args:
        source: The video: a URL, a file name or an id.
        captions: In the order of the file.
        split: `train`, `validation` or `test`; None where the file does not say.
        start, end: The part of the video that the captions speak of, in seconds; None for all of it.
        clip: Name or id of a file that holds just this part, as the data set names it; None where there is none.
        place: Where in the file it stands, for messages.
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
        """Whether the source can be asked for over http(s)."""
        return re.match(r"https?://", self.source, re.IGNORECASE) is not None


def read_annotations(path: Path, format: str) -> list[Annotation]:
    """Reads a caption file, and merges the captions of the same part of the same video.

    Args:
        path: The file.
        format: A key of `READERS`.

    Returns:
        One annotation a clip, in the order in which the clips appear first.

    Raises:
        AnnotationError: For a mistake in the file, a file without captions, and a clip that is in two splits.
        OSError: If the file cannot be read.
    """
    merged: dict[tuple[Any, ...], Annotation] = {}
    for each in READERS[format](path):
        _check_segment(path, each)
        key = (each.source, each.clip, each.start, each.end)
        known = merged.get(key)
        if known is not None and known.split != each.split:
            mistake = f"{each.source} is in the split {each.split}, at {known.place} in {known.split}"
            raise AnnotationError(path, each.place, mistake)
        merged[key] = each if known is None else replace(known, captions=known.captions + each.captions)
    if not merged:
        raise AnnotationError(path, "", "no captions")
    return list(merged.values())


def read_split_lists(paths: Sequence[Path]) -> dict[str, str]:
    """Reads lists of sources, one a line, as TGIF publishes them: `train.txt`, `val.txt`, `test.txt`.

    Returns:
        The split of each source.

    Raises:
        AnnotationError: If a list is not named like a split, or a source is in two of them.
        OSError: If a file cannot be read.
    """
    splits: dict[str, str] = {}
    for path in paths:
        split = _split(path, "", path.stem)
        for place, line in text_lines(path):
            if splits.setdefault(line.strip(), split) != split:
                raise AnnotationError(path, place, f"{line.strip()} is in the split {splits[line.strip()]} too")
    return splits


def _check_segment(path: Path, each: Annotation) -> None:
    if (each.start is None) != (each.end is None):
        raise AnnotationError(path, each.place, "start and end go together, one of them is missing")
    if each.start is not None and each.end is not None and not 0 <= each.start < each.end < float("inf"):
        raise AnnotationError(path, each.place, f"a part from {each.start} to {each.end} seconds is none")


def read_tgif(path: Path) -> Iterator[Annotation]:
    """Lines `url TAB caption` (https://github.com/raingo/TGIF-Release)."""
    for place, line in text_lines(path):
        url, tab, caption = line.partition("\t")
        if not tab or not url.strip():
            raise AnnotationError(path, place, f"not `URL TAB caption`: {line[:80]!r}")
        yield Annotation(url.strip(), (caption,), place=place)


def read_msrvtt(path: Path) -> Iterator[Annotation]:
    """`videos` and `sentences`, joined by `video_id`. Clips are files named by that id, cut already; the URLs are
    pages of a video site and not asked for."""
    content = read_json(path)
    sentences: dict[str, list[str]] = {}
    for place, entry in list_entries(path, get_value(path, "", content, "sentences", list), "sentences"):
        caption = get_value(path, place, entry, "caption", str)
        sentences.setdefault(get_value(path, place, entry, "video_id", str), []).append(caption)
    for place, entry in list_entries(path, get_value(path, "", content, "videos", list), "videos"):
        name = get_value(path, place, entry, "video_id", str)
        if name not in sentences:
            raise AnnotationError(path, place, f"no sentence of {name}")
        start, end = (float(get_value(path, place, entry, key, (int, float))) for key in ("start time", "end time"))
        split = _split(path, place, get_value(path, place, entry, "split", str))
        yield Annotation(name, tuple(sentences.pop(name)), split, start, end, clip=name, place=place)
    if sentences:
        raise AnnotationError(path, "sentences", f"{next(iter(sentences))} is none of the videos, or twice among them")


def read_msvd(path: Path) -> Iterator[Annotation]:
    """`AllVideoDescriptions.txt`: lines `ID_start_end caption`; those that begin with # are comments."""
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
    """`{ID: {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}`: one annotation a part."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise AnnotationError(path, "", "not an object of videos")
    for name, entry in content.items():
        times = get_value(path, name, entry, "timestamps", list)
        sentences = _texts(path, name, get_value(path, name, entry, "sentences", list))
        if len(times) != len(sentences):
            raise AnnotationError(path, name, f"{len(times)} timestamps for {len(sentences)} sentences")
        for number, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
            place = f"{name}, part {number}"
            if not (isinstance(span, list) and len(span) == 2 and all(isinstance(t, (int, float)) for t in span)):
                raise AnnotationError(path, place, f"timestamp {span!r} is not [start, end]")
            start, end = sorted(float(time) for time in span)  # some of the published ones are the wrong way round
            yield Annotation(name, (sentence,), None, start, end, place=place)


def read_charades(path: Path) -> Iterator[Annotation]:
    """CSV with `id` and `descriptions`, which `;` separates."""
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
            raise AnnotationError(path, place, f"no caption of the image {number}")
        yield Annotation(entry.get("coco_url") or name, tuple(captions.pop(number)), clip=name, place=place)
    if captions:
        raise AnnotationError(
            path, "annotations", f"{next(iter(captions))} is none of the images, or twice among them"
        )


def read_flickr30k(path: Path) -> Iterator[Annotation]:
    """Lines `name.jpg#0 TAB caption`: clips of one frame."""
    for place, line in text_lines(path):
        found = re.fullmatch(r"([^\t]+)#\d+\t(.*)", line)
        if found is None:
            raise AnnotationError(path, place, f"not `NAME#NUMBER TAB caption`: {line[:80]!r}")
        yield Annotation(found[1], (found[2],), place=place)


def read_jsonl(path: Path) -> Iterator[Annotation]:
    """Lines with `file_name` or `url`, `caption` or `captions`, and perhaps `split`, `start` and `end` in seconds."""
    for place, line in text_lines(path):
        yield _own(path, place, parse_json(path, place, line))


def read_csv(path: Path) -> Iterator[Annotation]:
    """The columns that `read_jsonl` has as keys; `captions` holds a JSON list, and rows of one clip are merged."""
    for place, row in csv_rows(path, ()):
        record: dict[str, Any] = {key: value for key, value in row.items() if value or key == "caption"}
        if "captions" in record:
            record["captions"] = parse_json(path, place, record["captions"])
        for key in ("start", "end"):
            if key in record:
                record[key] = parse_json(path, place, record[key])
        yield _own(path, place, record)


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
URL_FORMATS = ("tgif", "coco", "jsonl", "csv")  # they can name addresses of files; the others name files or ids only
SPLIT_FORMATS = ("msrvtt",)  # they say of every clip which split it is in


def _own(path: Path, place: str, record: Any) -> Annotation:
    if not isinstance(record, dict) or not (record.get("url") or record.get("file_name")):
        raise AnnotationError(path, place, 'no "file_name" and no "url"')
    names = {key: get_value(path, place, record, key, str) for key in ("file_name", "url") if record.get(key)}
    if ("caption" in record) == ("captions" in record):
        raise AnnotationError(path, place, 'give a "caption" or a list of "captions", and not both')
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
        # Of a part, `file_name` is the whole video.
        clip=names.get("file_name") if "url" in names and start is None else None,
        place=place,
    )


def _segment_of_name(path: Path, place: str, name: str) -> tuple[str, float, float]:
    found = re.fullmatch(r"(.+)_(\d+)_(\d+)", name)
    if found is None:
        raise AnnotationError(path, place, f"{name[:80]!r} is not ID_start_end")
    return found[1], float(found[2]), float(found[3])


def _split(path: Path, place: str, name: Any) -> str:
    if not isinstance(name, str) or name.lower() not in SPLIT_NAMES:
        raise AnnotationError(path, place, f"split {name!r} is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.lower()]


def _texts(path: Path, place: str, captions: list[Any]) -> tuple[str, ...]:
    for caption in captions:
        if not isinstance(caption, str):
            raise AnnotationError(path, place, f"caption {caption!r} is not text")
    return tuple(captions)
