"""The forms that captioned clips come in, beside the folder form of `processing.clips.rows`: tables, shards, the Hub.

A folder may hold, for each split, `SPLIT.csv`, `SPLIT.tsv` or `SPLIT.jsonl` that name files relative to them,
Parquet files with the clips inside (`SPLIT-*.parquet`, also under `data/`), or WebDataset tars (`SPLIT-*.tar`:
`KEY.mp4` beside `KEY.json` or `KEY.txt`); any of them in one piece or in shards. One such file may stand alone in
place of a folder. Columns are recognised by name and type, said in the log, and can be given.
"""

import glob
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from pyarrow.parquet import read_schema

logger = logging.getLogger("vidcap")
CAPTION_COLUMNS = ("captions", "references", "caption", "text", "sentence", "txt")
VIDEO_COLUMNS = ("video", "mp4", "gif", "webm", "mkv", "mov", "avi", "webp", "png", "clip")
PATH_COLUMNS = ("path", "video_path", "file", "filename", "file_name")
OPTIONAL_COLUMNS = ("caption_reversed", "kind")
TABLES = (".csv", ".tsv", ".jsonl")
HUB = "hf://"  # how the paths of files begin that are there
BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".parquet": "parquet", ".tar": "webdataset"}


class DatasetError(ValueError):
    """A data set that cannot be used, said in one line."""


@dataclass(frozen=True)
class Columns:
    """Names of columns that are not to be guessed, and of others that are kept, as text."""

    video: str | None = None
    caption: str | None = None
    others: tuple[str, ...] = ()


GUESSED = Columns()


def find_files(folder: Path, split: str) -> list[Path]:
    """The table or the shards of a split in a local folder, or the file alone; none if it is in no form above.

    Raises:
        DatasetError: If it is there in two forms.
    """
    if folder.is_file():
        return [folder] if folder.suffix in BUILDERS and split == split_of_file(folder, split) else []
    found: dict[str, list[Path]] = {}
    split = glob.escape(split)
    for suffix in BUILDERS:
        # Beside a split's clips there are other tables than such of clips.
        inside = () if suffix in TABLES else (f"data/{split}-*{suffix}", f"{split}/*{suffix}")
        patterns = (f"{split}{suffix}", f"{split}-*{suffix}", *inside)
        if shards := sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            found[suffix] = shards
    if len(found) > 1:
        raise DatasetError(f"{folder}: {split} is there as {' and as '.join(sorted(found))}; keep one of them")
    return next(iter(found.values()), [])


def split_of_file(file: Path, split: str = "train") -> str:
    """The split that a file stands for by itself: that which its name begins with (`split`, or a usual one) as the
    names of shards do, or else `train`."""
    beginning = file.stem.split("-")[0]
    return beginning if beginning in (split, "validation", "test") else "train"


def load_files(files: list[Path], *, streaming: bool, columns: Columns, captions_only: bool = False) -> Any:
    """Rows of the common form from a table or shards, see [`find_files`]; shards of a stream stay shards.

    Args:
        captions_only: Of a stream: leave the clips out, and in Parquet unread.

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
            data_files={"rows": [glob.escape(str(path)) for path in files]},  # which are taken for patterns
            split="rows",
            streaming=streaming and suffix not in TABLES,
            **options,
        )
        if captions_only and suffix not in TABLES:
            return to_captions(rows, str(files[0]), columns=columns)
        rows = to_common_form(rows, str(files[0]), columns=columns, folder=files[0].parent)
        # A table names clips and holds none: it is read at once.
        return rows.to_iterable_dataset() if streaming and suffix in TABLES else rows
    except DatasetError:
        raise
    except Exception as error:  # of whatever reads the format underneath, which does not name the file
        raise DatasetError(f"{files[0]}: {one_line(error.__cause__ or error)}") from error


def to_common_form(
    rows: Any,
    name: str,
    *,
    columns: Columns,
    folder: Path | None = None,
    check: Callable[[str, str], str] | None = None,
) -> Any:
    """Rows as `processing.clips.rows` describes them, from rows with a video and a caption column.

    Args:
        rows: A `Dataset` or an `IterableDataset`.
        name: What errors call it.
        columns: Those that are given.
        folder: Where files named by relative paths are.
        check: Given a path and its place, returns the path to read, or raises a DatasetError.

    Raises:
        DatasetError: If no column of clips or captions is found, or a row has none.
    """
    names = list(rows.column_names or next(iter(rows)))
    features = rows.features or {}
    video = _pick(columns.video, names, _video_columns(names, features), name, "video_column", "clips")
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
                raise DatasetError(f"{where}: {path} is a file of the Hub: name that data set itself, by its id")
        row["file_name"] = row["file_name"] or record.get("__key__") or row["video"]["path"] or f"row {index}"
        return row

    return rows.map(convert, with_indices=True, remove_columns=[each for each in names if each != "video"])


def to_captions(rows: datasets.IterableDataset, name: str, *, columns: Columns) -> datasets.IterableDataset:
    """The `captions` alone of the rows that [`to_common_form`] makes, in their order; no clip is looked at."""
    names = list(rows.column_names or next(iter(rows)))
    caption = caption_column(names, columns, name)

    def convert(record: dict[str, Any], index: int) -> dict[str, Any]:
        return {"captions": caption_row(_fields(record, caption, columns), f"{name}, row {index}")["captions"]}

    return rows.decode(False).map(
        convert, with_indices=True, remove_columns=[each for each in names if each != "captions"]
    )


def caption_column(names: list[str], columns: Columns, name: str) -> str:
    """Which of the columns holds the captions; `json`, if they are inside of that.

    Raises:
        DatasetError: If none is recognised.
    """
    found = [each for each in CAPTION_COLUMNS if each in names] or [each for each in ("json",) if each in names]
    return _pick(columns.caption, names, found, name, "caption_column", "captions")


def caption_columns(names: list[str], columns: Columns, name: str) -> list[str]:
    """What has to be read for [`to_captions`]: a row without a value in the first column may have one in another."""
    caption = caption_column(names, columns, name)
    return [each for each in names if each == caption or each in CAPTION_COLUMNS]


def _fields(record: dict[str, Any], caption: str, columns: Columns) -> dict[str, Any]:
    """What is known of a clip, its captions under a name of `CAPTION_COLUMNS` that comes first."""
    if caption == "json" and columns.caption is None:
        return {**record, **record["json"]}
    if caption == "captions":
        return record
    return {**{k: v for k, v in record.items() if k not in CAPTION_COLUMNS}, "captions": record[caption]}


def caption_row(record: dict[str, Any], where: str, *, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Captions, file name and what else is kept of a record; `where` is what errors call it."""
    column = next((name for name in CAPTION_COLUMNS if record.get(name) is not None), None)
    if column is None:
        raise DatasetError(f'{where}: no caption; put it under "caption", or several under "captions"')
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


def one_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _video_columns(names: list[str], features: dict[str, Any]) -> list[str]:
    typed = [each for each in names if isinstance(features.get(each), datasets.Video)]
    return typed or [each for each in (*VIDEO_COLUMNS, *PATH_COLUMNS) if each in names]


def _pick(given: str | None, names: list[str], found: list[str], name: str, option: str, what: str) -> str:
    if given is not None and given not in names:
        raise DatasetError(f"{name}: no column {given!r} (--{option}); there are {', '.join(names)}")
    if given is None and not found:
        raise DatasetError(f"{name}: no column of {what} is recognised; name one of {', '.join(names)} by --{option}")
    return given if given is not None else found[0]


def _clip(value: Any, folder: Path | None, where: str) -> dict[str, Any]:
    """The clip of one row: bytes, or the path of a file, which for a table is relative to it."""
    if isinstance(value, bytes):
        return {"path": None, "bytes": value}
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        return {"path": value.get("path"), "bytes": value.get("bytes")}
    if isinstance(value, str) and value:
        return {"path": os.path.join(folder, value) if folder is not None else value, "bytes": None}
    raise DatasetError(f"{where}: {value!r:.80} is no clip; give bytes, or the path of a file")
