"""A folder or Hub data set of captioned clips -> rows of one form.

A row is `{"video": {"path", "bytes"}, "file_name", "captions": [...], "caption_reversed"?, "kind"?}`. A local folder
holds `train/metadata.jsonl`, `test/metadata.jsonl` and perhaps `validation/metadata.jsonl`, each line with `file_name`
and `caption`, or a list under `captions` or `references` (the `videofolder` form of `datasets`). Its lines are read
here, so that errors name file and line. `sources.py` reads the other forms.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from .hub_files import OwnFiles, resolve_name
from .sources import (
    BUILDERS,
    GUESSED,
    HUB,
    Columns,
    DatasetError,
    Rows,
    caption_columns,
    caption_row,
    find_files,
    first_line,
    load_files,
    split_of_file,
    to_captions,
    to_common_form,
)

SOURCE_COLUMN = "source"  # number of the data set of a row, in rows of several
COMMON_FORM = datasets.Features(
    {
        "video": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")},
        "file_name": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "caption_reversed": datasets.Value("string"),
        "kind": datasets.Value("string"),
    }
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


def load_clips(
    dataset: str | Path,
    split: str,
    *,
    streaming: bool = False,
    columns: Columns = GUESSED,
    captions_only: bool = False,
) -> Rows:
    """Load one split as rows of the form above.

    Args:
        dataset: A local folder, a file that `sources.py` reads, or a Hub id; only an id touches the network.
        split: `train`, `validation` or `test`.
        streaming: Return an `IterableDataset`, whose clips may be files on the Hub, see [`fetch_clip`].
        columns: The columns to use; in the folder form they are fixed, except for those to keep.
        captions_only: Return a stream of rows with `captions` alone, in the same order, also after the same shuffle.
            No clip is fetched or, from Parquet, read.

    Raises:
        DatasetError: If the folder, the split, a metadata line or a caption is missing or broken.
    """
    if captions_only:
        return _open(dataset, split, streaming=True, columns=columns, captions_only=True).select_columns(["captions"])
    return _open(dataset, split, streaming=streaming, columns=columns)


def _open(dataset: str | Path, split: str, *, streaming: bool, columns: Columns, captions_only: bool = False) -> Rows:
    folder = Path(dataset)
    if folder.is_dir():
        if not (folder / split / "metadata.jsonl").is_file() and (files := find_files(folder, split)):
            return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
        rows = datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others)))
        return rows.to_iterable_dataset() if streaming else rows
    if files := find_files(folder, split):
        return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
    if folder.is_file() and folder.suffix in BUILDERS:
        raise DatasetError(f"{dataset}: the name of this file makes it the split {split_of_file(folder)}, not {split}")
    if folder.exists() or not HUB_ID.fullmatch(str(dataset)):
        raise DatasetError(
            f"{dataset}: no such folder; give a folder with {split}/metadata.jsonl, a file ({', '.join(BUILDERS)}), "
            "or a Hub id like user/name"
        )
    try:
        if _is_hub_folder(str(dataset), split):
            return _load_hub_folder(str(dataset), split, streaming=streaming, columns=columns)
        rows = datasets.load_dataset(str(dataset), split=split, streaming=streaming)
        if captions_only and rows.info.builder_name == "parquet":
            needed = caption_columns(list(rows.column_names), columns, str(dataset))
            rows = datasets.load_dataset(str(dataset), split=split, streaming=True, columns=needed)
    except DatasetError:
        raise
    except Exception as error:
        raise _out_of_reach(dataset, error) from error
    if captions_only:
        return to_captions(rows, str(dataset), columns=columns)
    return to_common_form(rows, str(dataset), columns=columns, check=OwnFiles(str(dataset)).check)


def has_split(dataset: str | Path, split: str) -> bool:
    """Whether a data set has a split."""
    folder = Path(dataset)
    if folder.is_dir():
        return (folder / split / "metadata.jsonl").is_file() or bool(find_files(folder, split))
    if folder.exists() or not HUB_ID.fullmatch(str(dataset)):
        return bool(find_files(folder, split))
    try:
        if _is_hub_folder(str(dataset), split):
            return True
        files = HfApi().list_repo_files(str(dataset), repo_type="dataset")
        if any(name.endswith("/metadata.jsonl") for name in files):
            return False
        return split in datasets.get_dataset_split_names(str(dataset))
    except Exception as error:
        raise _out_of_reach(dataset, error) from error


def _out_of_reach(dataset: str | Path, error: Exception) -> DatasetError:
    """The error in place of those of the Hub's client and of `datasets`, which have no common class."""
    return DatasetError(f"{dataset}: neither a local folder nor a Hub data set in reach ({first_line(error)})")


def _is_hub_folder(dataset: str, split: str) -> bool:
    return HfApi().file_exists(dataset, f"{split}/metadata.jsonl", repo_type="dataset")


def _load_hub_folder(dataset: str, split: str, *, streaming: bool, columns: Columns) -> Rows:
    """Load a Hub repository in the folder form; `datasets` itself would leave out its GIF and WebP files."""
    if not streaming:
        folder = Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=f"{split}/*"))
        return datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others, hub=str(folder))))
    folder = Path(hf_hub_download(dataset, f"{split}/metadata.jsonl", repo_type="dataset")).parents[1]
    hub = f"{HUB}datasets/{dataset}@{folder.name}"  # the commit of the metadata
    return datasets.Dataset.from_list(
        list(_read_metadata(folder, split, columns.others, hub=hub))
    ).to_iterable_dataset()


def _read_metadata(
    folder: Path, split: str, others: tuple[str, ...] = (), *, hub: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a split; `hub` is the path of a Hub data set, which may name files inside of it only."""
    path = folder / split / "metadata.jsonl"
    if not path.is_file():
        present = sorted(str(other.relative_to(folder)) for other in folder.glob("*/metadata.jsonl"))
        raise DatasetError(
            f"{folder}: no {split}/metadata.jsonl (present: {', '.join(present) or 'none'}); add one whose lines hold "
            f'a "file_name" and a "caption", or add {split}.csv, {split}.jsonl, {split}*.parquet or {split}*.tar'
        )
    count = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(f"{where}: not JSON ({error.msg})") from error
            if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
                raise DatasetError(f'{where}: no "file_name"; each line names the file of a clip')
            row = caption_row(record, where, others=others)
            name = record["file_name"]
            clip = str(path.parent / name) if hub is None else f"{hub}/{split}/{resolve_name(name, where)}"
            row["video"] = {"path": clip, "bytes": None}
            count += 1
            yield row
    if not count:
        raise DatasetError(f"{path}: the file lists no clips")


def split_off_validation(
    rows: datasets.Dataset, *, share: float = 0.05, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Move a random `share` of the training rows, at least one, to validation."""
    if len(rows) < 2:
        raise DatasetError(f"{len(rows)} training clip; at least 2 are needed, one of them for validation")
    parts = rows.train_test_split(test_size=max(1, round(share * len(rows))), seed=seed)
    return parts["train"], parts["test"]


def join_sources(parts: Sequence[datasets.Dataset | None]) -> datasets.Dataset:
    """Join rows of several data sets, any of which may be missing, with the number of its own under `source`."""
    numbered = []
    for number, rows in enumerate(parts):
        if rows is not None:
            numbers = datasets.Dataset.from_dict(
                {SOURCE_COLUMN: [number] * len(rows)},
                features=datasets.Features({SOURCE_COLUMN: datasets.Value("int32")}),
            )
            common = rows.select_columns(list(COMMON_FORM)).cast(COMMON_FORM)
            numbered.append(datasets.concatenate_datasets([common, numbers], axis=1))
    return datasets.concatenate_datasets(numbered)
