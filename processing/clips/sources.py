"""Tables and shards of captioned clips, beside the folder form of `processing.clips.rows`.

A folder may hold, for each split, `SPLIT.csv`, `SPLIT.tsv` or `SPLIT.jsonl` that name files relative to themselves,
Parquet files with the clips inside (`SPLIT-*.parquet`, also under `data/`), or WebDataset tars (`SPLIT-*.tar`:
`KEY.mp4` beside `KEY.json` or `KEY.txt`), in one piece or in shards. One such file may stand alone in place of a
folder. Columns are recognised by name and type, which the log tells, or given.
"""

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from pyarrow.parquet import read_schema

logger = logging.getLogger(__name__)
CAPTION_COLUMNS = ("captions", "references", "caption", "text", "sentence", "txt")
VIDEO_COLUMNS = ("video", "mp4", "gif", "webm", "mkv", "mov", "avi", "webp", "png", "clip")
PATH_COLUMNS = ("path", "video_path", "file", "filename", "file_name")
OPTIONAL_COLUMNS = ("caption_reversed", "kind")
TABLES = (".csv", ".tsv", ".jsonl")
HUB = "hf://"  # start of the paths of files on the Hub
BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".parquet": "parquet", ".tar": "webdataset"}


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


def find_files(folder: Path, split: str) -> list[Path]:
    """The table or shards of a split in a local folder, or the single file; none if it has no form above.

    Raises:
        DatasetError: If the split has two forms.
    """
    if folder.is_file():
        return [folder] if folder.suffix in BUILDERS and split == split_of_file(folder, split) else []
    by_suffix: dict[str, list[Path]] = {}
    split = glob.escape(split)
    for suffix in BUILDERS:
        # Tables beside the clips of a split may hold anything.
        inside = () if suffix in TABLES else (f"data/{split}-*{suffix}", f"{split}/*{suffix}")
        patterns = (f"{split}{suffix}", f"{split}-*{suffix}", *inside)
        if shards := sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            by_suffix[suffix] = shards
    if len(by_suffix) > 1:
        raise DatasetError(f"{folder}: {split} exists as {' and as '.join(sorted(by_suffix))}; keep one of them")
    return next(iter(by_suffix.values()), [])


def split_of_file(file: Path, split: str = "train") -> str:
    """The split of a single file: the one that its name begins with, as those of shards do, otherwise `train`."""
    beginning = file.stem.split("-")[0]
    return beginning if beginning in (split, "validation", "test") else "train"


def load_files(files: list[Path], *, streaming: bool, columns: Columns, captions_only: bool = False) -> Rows:
    """Load rows of the common form from a table or shards; shards of a stream stay shards.

    Args:
        files: From [`find_files`].
        streaming: Return an `IterableDataset`.
        columns: The columns to use.
        captions_only: For a stream: leave the clips out; those in Parquet are not even read.

    Raises:
        DatasetError: If they cannot be read, or lack a column.
    """
    suffix = files[0].suffix
    options: dict[str, Any] = {"delimiter": "\t"} if suffix == ".tsv" else {}
    try:
        if captions_only and suffix == ".parquet":
            options["columns"] = caption_columns(read_schema(files[0]).names, columns, str(files[0]))
        rows = datasets.load_dataset(
            BUILDERS[suffix],
            data_files={"rows": [glob.escape(str(path)) for path in files]},  # taken for patterns
            split="rows",
            streaming=streaming and suffix not in TABLES,
            **options,
        )
        if captions_only and suffix not in TABLES:
            return to_captions(rows, str(files[0]), columns=columns)
        rows = to_common_form(rows, str(files[0]), columns=columns, folder=files[0].parent)
        # A table names clips but holds none: it is read at once.
        return rows.to_iterable_dataset() if streaming and suffix in TABLES else rows
    except DatasetError:
        raise
    except Exception as error:  # of the library that reads the format, which does not name the file
        raise DatasetError(f"{files[0]}: {first_line(error.__cause__ or error)}") from error


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
    video = _choose(columns.video, names, _video_columns(names, features), name, "video_column", "clips")
    caption = caption_column(names, columns, name)
    logger.info(f"{name}: clips from column {video!r}, captions from {caption!r}")
    if isinstance(features.get(video), datasets.Video | datasets.Image):
        rows = rows.cast_column(video, type(features[video])(decode=False))
    if isinstance(rows, datasets.IterableDataset):
        rows = rows.decode(False)

    def convert(record: dict[str, Any], index: int) -> dict[str, Any]:
        where = f"{name}, row {index}"
        row = caption_row(_fields(record, caption, columns), where, others=columns.others)
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
        return {"captions": caption_row(_fields(record, caption, columns), f"{name}, row {index}")["captions"]}

    return rows.decode(False).map(
        convert, with_indices=True, remove_columns=[column for column in names if column != "captions"]
    )


def caption_column(names: list[str], columns: Columns, name: str) -> str:
    """The column that holds the captions, `json` if they are inside of it.

    Raises:
        DatasetError: If none is recognised.
    """
    known = [column for column in CAPTION_COLUMNS if column in names] or ["json"] * ("json" in names)
    return _choose(columns.caption, names, known, name, "caption_column", "captions")


def caption_columns(names: list[str], columns: Columns, name: str) -> list[str]:
    """The columns that [`to_captions`] needs: a row without a value in the first may have one in another."""
    caption = caption_column(names, columns, name)
    return [column for column in names if column == caption or column in CAPTION_COLUMNS]


def _fields(record: dict[str, Any], caption: str, columns: Columns) -> dict[str, Any]:
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


def _video_columns(names: list[str], features: Mapping[str, object]) -> list[str]:
    typed = [column for column in names if isinstance(features.get(column), datasets.Video)]
    return typed or [column for column in (*VIDEO_COLUMNS, *PATH_COLUMNS) if column in names]


def _choose(
    given: str | None, names: Sequence[str], known: Sequence[str], name: str, parameter: str, content: str
) -> str:
    """The column that was given, otherwise the first known one."""
    if given is not None and given not in names:
        raise DatasetError(f"{name}: {parameter}={given} is not a column; the columns are {', '.join(names)}")
    if given is None and not known:
        columns = ", ".join(names)
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
