"""Records of any origin -> rows of the common form: the columns of clips and captions, and what is wrong with them.

Columns are recognised by name and type, which the log tells, or given.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets

logger = logging.getLogger(__name__)
CAPTION_COLUMNS = ("captions", "references", "caption", "text", "sentence", "txt", "description", "descriptions")
VIDEO_COLUMNS = ("video", "mp4", "gif", "webm", "mkv", "mov", "avi", "webp", "png", "clip")
PATH_COLUMNS = ("path", "video_path", "file", "filename", "file_name")
OPTIONAL_COLUMNS = ("caption_reversed", "kind")
HUB = "hf://"  # start of the paths of files on the Hub
COMMON_FORM = datasets.Features(
    {
        "video": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")},
        "file_name": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "caption_reversed": datasets.Value("string"),
        "kind": datasets.Value("string"),
    }
)


class DatasetError(ValueError):
    """A data set that cannot be used; the message is one line, or a list of clips."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use, by default guessed, and of others to keep as text."""

    video: str | None = None
    caption: str | None = None
    others: tuple[str, ...] = ()


GUESSED = Columns()
Rows: TypeAlias = "datasets.Dataset | datasets.IterableDataset"


def to_common_form(
    rows: Rows,
    name: str,
    *,
    columns: Columns,
    folder: Path | None = None,
    check: Callable[[str, str], str] | None = None,
) -> Rows:
    """Convert rows with a video and a caption column to the form of `processing.clips.rows`.

    Args:
        rows: The rows.
        name: Name of the data set, for errors.
        columns: The columns to use.
        folder: Folder of files named by relative paths.
        check: Returns the path to read, given a path and its place, or raises a DatasetError.

    Raises:
        DatasetError: If there is no column of clips or captions, or a row lacks one.
    """
    names = list(rows.column_names or next(iter(rows)))
    features = rows.features or {}
    video = video_column(names, columns, name, features)
    caption = caption_column(names, columns, name, video=video)
    logger.info(f"{name}: clips from column {video!r}, captions from {caption!r}")
    for column, feature in features.items():
        # Also those that are not used: `datasets` needs torchcodec to decode them.
        if isinstance(feature, datasets.Video | datasets.Image | datasets.Audio):
            rows = rows.cast_column(column, type(feature)(decode=False))
    if isinstance(rows, datasets.IterableDataset):
        rows = rows.decode(False)

    def convert(record: dict[str, Any], index: int) -> dict[str, Any]:
        where = f"{name}, row {index}"
        row = caption_row(to_fields(record, caption, columns), where, others=columns.others)
        row["video"] = _clip(record[video], folder, where)
        if row["video"]["bytes"] is None:
            path = row["video"]["path"]
            if check is not None:
                row["video"]["path"] = check(path, where)
            elif path.startswith(HUB):
                raise DatasetError(f"{where}: {path} is a file on the Hub; name its data set by its Hub id instead")
        row["file_name"] = row["file_name"] or record.get("__key__") or row["video"]["path"] or f"row {index}"
        return row

    return rows.map(convert, with_indices=True, remove_columns=[column for column in names if column != "video"])


def to_captions(rows: datasets.IterableDataset, name: str, *, columns: Columns) -> datasets.IterableDataset:
    """The `captions` alone of the rows of [`to_common_form`], in the same order; no clip is read."""
    names = list(rows.column_names or next(iter(rows)))
    caption = caption_column(names, columns, name)

    def convert(record: dict[str, Any], index: int) -> dict[str, Any]:
        return {"captions": caption_row(to_fields(record, caption, columns), f"{name}, row {index}")["captions"]}

    return rows.decode(False).map(
        convert, with_indices=True, remove_columns=[column for column in names if column != "captions"]
    )


def video_column(names: list[str], columns: Columns, name: str, features: Mapping[str, object] | None = None) -> str:
    """The column that holds the clips, or their paths.

    Raises:
        DatasetError: If none is recognised.
    """
    typed = [column for column in names if isinstance((features or {}).get(column), datasets.Video)]
    known = typed or [column for column in (*VIDEO_COLUMNS, *PATH_COLUMNS) if column in names]
    return choose(columns.video, names, known, name, "video_column", "clips")


def caption_column(names: list[str], columns: Columns, name: str, *, video: str | None = None) -> str:
    """The column that holds the captions, `json` if they are inside of it; never `video`, that of the clips.

    Raises:
        DatasetError: If none is recognised.
    """
    others = [column for column in names if column != video]
    known = [column for column in CAPTION_COLUMNS if column in others] or ["json"] * ("json" in others)
    offered = [column for column in others if column not in (*VIDEO_COLUMNS, *PATH_COLUMNS)]
    return choose(columns.caption, names, known, name, "caption_column", "captions", offered)


def caption_columns(names: list[str], columns: Columns, name: str) -> list[str]:
    """The columns that [`to_captions`] needs: a row without a value in the first may have one in another."""
    caption = caption_column(names, columns, name)
    return [column for column in names if column == caption or column in CAPTION_COLUMNS]


def to_fields(record: dict[str, Any], caption: str, columns: Columns) -> dict[str, Any]:
    """The fields of a record, its captions under the name that `CAPTION_COLUMNS` prefers."""
    if caption == "json" and columns.caption is None:
        return {**record, **record["json"]}
    if caption == "captions":
        return record
    return {**{k: v for k, v in record.items() if k not in CAPTION_COLUMNS}, "captions": record[caption]}


def caption_row(record: dict[str, Any], where: str, *, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Captions, file name and further columns of a record, whose place errors call `where`."""
    column = next((name for name in CAPTION_COLUMNS if record.get(name) is not None), None)
    if column is None:
        raise DatasetError(f'{where}: no caption; put one under "caption", or several under "captions"')
    captions = record[column] if isinstance(record[column], list) else [record[column]]
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise DatasetError(f"{where}: caption {caption!r} is empty or not text")
    if not captions:
        raise DatasetError(f"{where}: the list of captions is empty")
    row: dict[str, Any] = {"file_name": record.get("file_name"), "captions": captions}
    for name in OPTIONAL_COLUMNS:
        row[name] = record.get(name)
        if row[name] is not None and not isinstance(row[name], str):
            raise DatasetError(f"{where}: {name} {row[name]!r} is not text")
    for name in others:
        value = record.get(name)
        if isinstance(value, list | dict):
            raise DatasetError(f"{where}: {name} {value!r:.80} is neither text nor a number")
        row[name] = None if value is None else str(value)
    return row


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def choose(
    given: str | None,
    names: Sequence[str],
    known: Sequence[str],
    name: str,
    parameter: str,
    content: str,
    offered: Sequence[str] | None = None,
) -> str:
    """The column that was given, otherwise the first known one; `offered` are those that an error lists."""
    if given is not None and given not in names:
        raise DatasetError(f"{name}: {parameter}={given} is not a column; the columns are {', '.join(names)}")
    if given is None and not known:
        if not (offered := names if offered is None else offered):
            raise DatasetError(f"{name}: no column of {content}; the columns are {', '.join(names)}")
        columns = ", ".join(offered)
        raise DatasetError(f"{name}: no column of {content} recognised; pass {parameter}=NAME, one of {columns}")
    return given if given is not None else known[0]


def _clip(value: object, folder: Path | None, where: str) -> dict[str, Any]:
    """The clip of one row: bytes, or the path of a file, relative to the folder of a table."""
    if isinstance(value, bytes):
        return {"path": None, "bytes": value}
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        return {"path": value.get("path"), "bytes": value.get("bytes")}
    if isinstance(value, str) and value:
        return {"path": os.path.join(folder, value) if folder is not None else value, "bytes": None}
    raise DatasetError(f"{where}: {value!r:.80} is not a clip; give bytes, or the path of a file")
