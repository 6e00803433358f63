"""Lists of captioned clips in text files: CSV, TSV, JSON, JSON lines, and captions in .txt files beside the clips.

Guarantees: cells of CSV and TSV are text, whatever they look like; a mistake names file and line or entry. UTF-8 with
or without a byte order mark is read, and UTF-16 with one.
"""

import csv
import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from .file_names import SPLIT_NAMES
from .hub_files import resolve_name
from .sources import (
    CAPTION_COLUMNS,
    COMMON_FORM,
    HUB,
    PATH_COLUMNS,
    VIDEO_COLUMNS,
    Columns,
    DatasetError,
    caption_column,
    caption_row,
    to_fields,
    video_column,
)

logger = logging.getLogger(__name__)
TABLES = (".csv", ".tsv", ".jsonl", ".json")
DELIMITERS = (",", ";", "\t", "|")  # Excel writes the second in many countries
_ROWS_AT_ONCE = 20_000  # in memory as objects


def decode_text(data: bytes, where: str) -> str:
    """The text of a file.

    Raises:
        DatasetError: If it is in another encoding.
    """
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{where}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and fields of each row of a table.

    Raises:
        DatasetError: If it is no table, or a row is broken.
    """
    text = decode_text(path.read_bytes(), str(path))
    if path.suffix in (".csv", ".tsv"):
        yield from _csv_records(path, text)
    elif path.suffix == ".json":
        yield from _json_records(path, text)
    else:
        yield from _json_lines(path, text)


def read_rows(
    path: Path, columns: Columns, *, split: str | None = None, hub: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a table in the common form; clips are named relative to it.

    Args:
        path: The table.
        columns: The columns to use.
        split: Keep the rows of this split alone, see [`split_of_record`].
        hub: Path of a Hub data set, which may name files inside its split's folder only.

    Raises:
        DatasetError: As from [`read_records`], and for a missing column, clip or caption.
    """
    video, count = "", 0
    folder = str(path.parent) if hub is None else f"{hub}/{path.parent.name}"
    for place, record in read_records(path):
        where, names = f"{path}, {place}", [name for name in record if name]
        if not video:
            video = _video_column(path, names, columns)
            caption = caption_column(names, columns, str(path), video=video)
            if (video, caption) not in (("file_name", "caption"), ("file_name", "captions")):
                logger.info(f"{path}: clips from column {video!r}, captions from {caption!r}")
        if split is not None and split_of_record(record, where) != split:
            continue
        name = record.get(video)
        if not isinstance(name, str) or not name:
            raise DatasetError(f'{where}: no "{video}"; each row names the file of a clip')
        if name.startswith(HUB):
            raise DatasetError(f"{where}: {name} is a file on the Hub; name its data set by its Hub id instead")
        fields = record if columns.caption is None else to_fields(record, caption, columns)
        row = caption_row(fields, where, others=columns.others)
        clip = _existing(folder, name) if hub is None else f"{folder}/{resolve_name(name, where)}"
        count += 1
        yield row | {"video": {"path": clip, "bytes": None}, "file_name": row["file_name"] or clip}
    if not count:
        raise DatasetError(f"{path}: the file lists no clips")


def split_of_record(record: dict[str, Any], where: str) -> str:
    """The split of a row of a table of several: of its column `split`, of its clip's folder, otherwise `train`."""
    if name := record.get("split"):
        if name not in SPLIT_NAMES:
            raise DatasetError(f"{where}: unknown split {name!r}; use one of {', '.join(SPLIT_NAMES)}")
        return SPLIT_NAMES[name]
    clips = (record[column] for column in (*VIDEO_COLUMNS, *PATH_COLUMNS) if isinstance(record.get(column), str))
    folders = (clip.split("/", 1)[0] for clip in clips if "/" in clip)
    return next((SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES), "train")


def read_text_pairs(pairs: Iterable[tuple[Path, Path]]) -> Iterator[dict[str, Any]]:
    """Rows of clips and the text files with their captions, one on each line.

    Raises:
        DatasetError: If a text file is empty, or not text.
    """
    for clip, text in pairs:
        lines = decode_text(text.read_bytes(), str(text)).splitlines()
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise DatasetError(f"{text}: no caption; write one on each line, or remove the file")
        row = caption_row({"captions": captions, "file_name": clip.name}, str(text))
        yield row | {"video": {"path": str(clip), "bytes": None}}


def to_dataset(rows: Iterable[dict[str, Any]], others: tuple[str, ...] = ()) -> datasets.Dataset:
    """Rows in the common form as a data set, a part at a time, since millions of objects would fill the memory."""
    features = datasets.Features({**COMMON_FORM, **{name: datasets.Value("string") for name in others}})
    remaining = iter(rows)
    parts = []
    while part := list(islice(remaining, _ROWS_AT_ONCE)):
        parts.append(datasets.Dataset.from_list(part, features=features))
    return datasets.concatenate_datasets(parts)


def _video_column(path: Path, names: list[str], columns: Columns) -> str:
    # In the folder form of `datasets`, whatever other columns there are.
    own = path.stem == "metadata" and columns.video is None and "file_name" in names
    return "file_name" if own else video_column(names, columns, str(path))


def _existing(folder: str, name: str) -> str:
    """The path, in the spelling of accents that the disk has: macOS takes names apart, other systems do not."""
    path = os.path.join(folder, name)
    if name.isascii() or os.path.exists(path):
        return path
    spellings = (os.path.join(folder, unicodedata.normalize(form, name)) for form in ("NFC", "NFD"))
    return next((spelling for spelling in spellings if os.path.exists(spelling)), path)


def _csv_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = "\t" if path.suffix == ".tsv" else _delimiter(text.partition("\n")[0])
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                columns = ", ".join(reader.fieldnames or ())
                raise DatasetError(f"{path}, {place}: more or fewer fields than the columns {columns}")
            yield place, row
    except csv.Error as error:
        # `line_num` is that of the row before.
        raise DatasetError(f"{path}, line {reader.line_num + 1}: not CSV ({error})") from error


def _delimiter(header: str) -> str:
    """The separator that makes most known columns of a header, then most columns."""
    known = {*VIDEO_COLUMNS, *PATH_COLUMNS, *CAPTION_COLUMNS}

    def columns(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(known.intersection(names)), len(names)

    return max(DELIMITERS, key=columns)


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, {where}: not JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{path}, {where}: not an object with the file and the caption of a clip")
        yield where, record


def _json_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # an object on each line, under another suffix
            yield from _json_lines(path, text)
            return
        raise DatasetError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise DatasetError(
            f"{path}: not a list of objects with the file and the caption of a clip; annotations in another published "
            "form must be prepared first"
        )
    yield from ((f"entry {number}", record) for number, record in enumerate(content))
