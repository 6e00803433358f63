"""A folder or Hub data set of captioned clips -> rows of one form.

A row is `{"video": {"path", "bytes"}, "file_name", "captions": [...], "caption_reversed"?, "kind"?}`.
A local folder holds `train/metadata.jsonl`, `test/metadata.jsonl` and perhaps `validation/metadata.jsonl`, each line
with `file_name` and `caption`, or a list under `captions` or `references` (the `videofolder` form of `datasets`). Its
lines are read here, since their mistakes are to be named by file and line. Other forms are those of `sources.py`.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from .hub_files import OwnFiles, own_name
from .sources import (
    BUILDERS,
    GUESSED,
    HUB,
    Columns,
    DatasetError,
    caption_columns,
    caption_row,
    find_files,
    load_files,
    one_line,
    split_of_file,
    to_captions,
    to_common_form,
)

logger = logging.getLogger("vidcap")
SOURCE_COLUMN = "source"  # of rows of several data sets: the number of each row's own
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
) -> datasets.Dataset | datasets.IterableDataset:
    """Loads one split as rows of the form above.

    Args:
        dataset: A local folder, one of the files of `sources.py`, or a Hub id; only an id touches the network.
        split: Its name, `train`, `validation` or `test`.
        streaming: Return an `IterableDataset`. Its clips may be files on the Hub, see [`fetched`].
        columns: Names of columns that are not to be guessed; the folder form has fixed ones, beside those to keep.
        captions_only: Of a stream: rows with nothing but `captions`, in the same order also after the same shuffle.
            No clip is fetched or, in Parquet, read; tars are passed over.

    Raises:
        DatasetError: If the folder, the split, a metadata line or a caption is missing or broken.
    """
    if captions_only:
        return _open(dataset, split, streaming=True, columns=columns, captions_only=True).select_columns(["captions"])
    return _open(dataset, split, streaming=streaming, columns=columns)


def _open(dataset: str | Path, split: str, *, streaming: bool, columns: Columns, captions_only: bool = False) -> Any:
    folder = Path(dataset)
    if folder.is_dir():
        if not (folder / split / "metadata.jsonl").is_file() and (files := find_files(folder, split)):
            return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
        rows = datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others)))
        return rows.to_iterable_dataset() if streaming else rows
    if files := find_files(folder, split):
        return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
    if folder.is_file() and folder.suffix in BUILDERS:
        raise DatasetError(f"{dataset}: of a file of this name the split is {split_of_file(folder)}, not {split}")
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
            wanted = caption_columns(list(rows.column_names), columns, str(dataset))
            rows = datasets.load_dataset(str(dataset), split=split, streaming=True, columns=wanted)
    except DatasetError:
        raise
    except Exception as error:
        raise _out_of_reach(dataset, error) from error
    if captions_only:
        return to_captions(rows, str(dataset), columns=columns)
    return to_common_form(rows, str(dataset), columns=columns, check=OwnFiles(str(dataset)).check)


def has_split(dataset: str | Path, split: str) -> bool:
    """Whether a data set has that split."""
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
    """What is said of whatever the Hub's client or `datasets` raises, which each have errors of their own."""
    return DatasetError(f"{dataset}: neither a local folder nor a Hub data set within reach ({one_line(error)})")


def _is_hub_folder(dataset: str, split: str) -> bool:
    return HfApi().file_exists(dataset, f"{split}/metadata.jsonl", repo_type="dataset")


def _load_hub_folder(
    dataset: str, split: str, *, streaming: bool, columns: Columns
) -> datasets.Dataset | datasets.IterableDataset:
    """A Hub repository in the folder form above; `datasets` itself would leave out its GIF and WebP files."""
    if not streaming:
        folder = Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=f"{split}/*"))
        return datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others, hub=str(folder))))
    folder = Path(hf_hub_download(dataset, f"{split}/metadata.jsonl", repo_type="dataset")).parents[1]
    hub = f"{HUB}datasets/{dataset}@{folder.name}"  # of the same commit as the metadata
    return datasets.Dataset.from_list(
        list(_read_metadata(folder, split, columns.others, hub=hub))
    ).to_iterable_dataset()


def _read_metadata(
    folder: Path, split: str, others: tuple[str, ...] = (), *, hub: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a split; `hub` is where a data set of the Hub has its files, and must have all that it names."""
    path = folder / split / "metadata.jsonl"
    if not path.is_file():
        found = sorted(str(each.relative_to(folder)) for each in folder.glob("*/metadata.jsonl"))
        raise DatasetError(
            f"{folder}: no {split}/metadata.jsonl (found: {', '.join(found) or 'none'}); each of its lines holds a "
            f'"file_name" and a "caption"; {split}.csv, {split}.jsonl, {split}*.parquet and {split}*.tar would do, too'
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
                raise DatasetError(f'{where}: no "file_name"')
            row = caption_row(record, where, others=others)
            name = record["file_name"]
            clip = str(path.parent / name) if hub is None else f"{hub}/{split}/{own_name(name, where)}"
            row["video"] = {"path": clip, "bytes": None}
            count += 1
            yield row
    if not count:
        raise DatasetError(f"{path}: no clips")


def split_off_validation(
    rows: datasets.Dataset, *, share: float = 0.05, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Takes a random `share` of the clips (at least one) off the training rows, for validation."""
    if len(rows) < 2:
        raise DatasetError(f"{len(rows)} training clip: at least 2 are needed, one of them for validation")
    parts = rows.train_test_split(test_size=max(1, round(share * len(rows))), seed=seed)
    return parts["train"], parts["test"]


def join_sources(parts: Sequence[datasets.Dataset | None]) -> datasets.Dataset:
    """Rows of several data sets, one behind the other, each with the number of its own under `source`; a part may be
    missing."""
    numbered = []
    for number, rows in enumerate(parts):
        if rows is not None:
            numbers = datasets.Dataset.from_dict(
                {SOURCE_COLUMN: [number] * len(rows)},
                features=datasets.Features({SOURCE_COLUMN: datasets.Value("int32")}),
            )
            alike = rows.select_columns(list(COMMON_FORM)).cast(COMMON_FORM)
            numbered.append(datasets.concatenate_datasets([alike, numbers], axis=1))
    return datasets.concatenate_datasets(numbered)
