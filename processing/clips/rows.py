"""A folder, file or Hub data set of captioned clips -> rows of one form.

A row is `{"video": {"path", "bytes"}, "file_name", "captions": [...], "caption_reversed"?, "kind"?}`. `layouts.py`
says where the clips of a local folder lie. A repository on the Hub is read in the folder form, `SPLIT/metadata.jsonl`
with `file_name` and `caption`, or a list under `captions` or `references`; in other forms by `datasets`.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from pyarrow.parquet import read_schema

from .file_names import SPELLINGS
from .hub_files import OwnFiles
from .layouts import SUFFIXES, SplitFiles, describe_missing, find_split, split_of_file
from .sources import (
    COMMON_FORM,
    GUESSED,
    HUB,
    Columns,
    DatasetError,
    Rows,
    caption_columns,
    first_line,
    to_captions,
    to_common_form,
)
from .tables import TABLES, read_rows, read_text_pairs, to_dataset
from .tars import load_tars

SOURCE_COLUMN = "source"  # number of the data set of a row, in rows of several
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
        dataset: A local folder, a table or shard, or a Hub id; only an id touches the network.
        split: `train`, `validation` or `test`.
        streaming: Return an `IterableDataset`, whose clips may be files on the Hub, see [`fetch_clip`].
        columns: The columns to use; by default recognised.
        captions_only: Return a stream of rows with `captions` alone, in the same order, also after the same shuffle.
            No clip is fetched or, from Parquet, read.

    Raises:
        DatasetError: If the folder, the split, a metadata line or a caption is missing or broken.
    """
    if captions_only:
        return _open(dataset, split, streaming=True, columns=columns, captions_only=True).select_columns(["captions"])
    return _open(dataset, split, streaming=streaming, columns=columns)


def _open(dataset: str | Path, split: str, *, streaming: bool, columns: Columns, captions_only: bool = False) -> Rows:
    path = Path(dataset)
    if path.exists() or not HUB_ID.fullmatch(str(dataset)):
        files = _find_local(path, split)
        return _load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
    try:
        if name := _hub_folder(str(dataset), split):
            return _load_hub_folder(str(dataset), name, streaming=streaming, columns=columns)
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
    path = Path(dataset)
    if path.exists() or not HUB_ID.fullmatch(str(dataset)):
        return find_split(path, split) is not None
    try:
        if _hub_folder(str(dataset), split):
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


def _find_local(path: Path, split: str) -> SplitFiles:
    if files := find_split(path, split):
        return files
    if path.is_dir():
        raise DatasetError(describe_missing(path, split))
    if path.is_file() and path.suffix in SUFFIXES:
        raise DatasetError(f"{path}: the name of this file makes it the split {split_of_file(path)}, not {split}")
    problem = f"files of type {path.suffix!r} are not read" if path.is_file() else "no such folder"
    raise DatasetError(
        f"{path}: {problem}; give a folder with {split}/metadata.jsonl, a file ({', '.join(SUFFIXES)}), or a Hub id "
        "like user/name"
    )


def _load_files(found: SplitFiles, *, streaming: bool, columns: Columns, captions_only: bool = False) -> Rows:
    """Rows of the common form from the files of a split; shards of a stream stay shards.

    Raises:
        DatasetError: If they cannot be read, or lack a column.
    """
    files = found.files
    if found.clips is not None or files[0].suffix in TABLES:
        # They name clips but hold none, and are read at once.
        if found.clips is not None:
            rows = read_text_pairs(zip(found.clips, files, strict=True))
        else:
            rows = (row for path in files for row in read_rows(path, columns, split=found.rows_of))
        loaded = to_dataset(rows, columns.others)
        return loaded.to_iterable_dataset() if streaming else loaded
    try:
        return _load_shards(files, streaming=streaming, columns=columns, captions_only=captions_only)
    except DatasetError:
        raise
    except Exception as error:  # of the library that reads the format, which does not name the file
        raise DatasetError(f"{files[0]}: {first_line(error.__cause__ or error)}") from error


def _load_shards(files: list[Path], *, streaming: bool, columns: Columns, captions_only: bool) -> Rows:
    """Rows of Parquet files or tars; with `captions_only` the clips are not even read."""
    if files[0].suffix == ".tar":
        return load_tars(files, streaming=streaming, columns=columns, captions_only=captions_only)
    name, options = str(files[0]), {}
    if captions_only:
        options["columns"] = caption_columns(read_schema(files[0]).names, columns, name)
    rows = datasets.load_dataset(
        "parquet",
        data_files={"rows": [glob.escape(str(path)) for path in files]},  # taken for patterns
        split="rows",
        streaming=streaming,
        **options,
    )
    if captions_only:
        return to_captions(rows, name, columns=columns)
    return to_common_form(rows, name, columns=columns, folder=files[0].parent)


def _hub_folder(dataset: str, split: str) -> str | None:
    """The folder of a split in a Hub repository of the folder form; `None` if there is none."""
    names = SPELLINGS.get(split, (split,))
    exists = HfApi().file_exists
    # The name that the project uses first: each question is a request.
    for name in sorted(names, key=lambda name: name != split):
        if exists(dataset, f"{name}/metadata.jsonl", repo_type="dataset"):
            return name
    return None


def _load_hub_folder(dataset: str, name: str, *, streaming: bool, columns: Columns) -> Rows:
    """Load a Hub repository in the folder form; `datasets` itself would leave out its GIF and WebP files."""
    if not streaming:
        folder = Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=f"{name}/*"))
        return to_dataset(read_rows(folder / name / "metadata.jsonl", columns, hub=str(folder)), columns.others)
    metadata = Path(hf_hub_download(dataset, f"{name}/metadata.jsonl", repo_type="dataset"))
    hub = f"{HUB}datasets/{dataset}@{metadata.parents[1].name}"  # the commit of the metadata
    return to_dataset(read_rows(metadata, columns, hub=hub), columns.others).to_iterable_dataset()


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
