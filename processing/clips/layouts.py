"""Where the clips of a split lie in a local folder.

A folder holds, for each split, one of these:

- `SPLIT/metadata.jsonl` (`.csv`, `.tsv`) beside the clips, the `videofolder` form of `datasets`;
- `SPLIT/CLIP.txt` beside `SPLIT/CLIP.mp4`: the captions of this clip, one on each line;
- `SPLIT.csv`, `.tsv`, `.jsonl` or `.json`, which name files relative to themselves;
- Parquet files with the clips inside (`SPLIT-*.parquet`, also under `data/`), or WebDataset tars (`SPLIT-*.tar`:
  `KEY.mp4` beside `KEY.json` or `KEY.txt`), in one piece or in shards.

A split that has none is looked for in the folder itself: in a `metadata.jsonl` (`.csv`, `.tsv`) there, whose rows name
their split by the first folder of their clips or by a column `split`, and belong to `train` otherwise; or as numbered
tars or clips with .txt files, all `train`. `val`, `valid` and `dev` mean `validation`, `training` and `testing` mean
`train` and `test`. One table or shard may stand alone in place of a folder.
"""

import glob
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pyarrow.parquet import read_schema

from .file_names import CLIPS, SPELLINGS, SPLIT_NAMES
from .sources import PATH_COLUMNS, VIDEO_COLUMNS, DatasetError
from .tables import TABLES, read_records, split_of_record

SHARDS = (".parquet", ".tar")
METADATA = (".jsonl", ".csv", ".tsv")  # `metadata.json` is a name of many other things
SUFFIXES = (*TABLES, *SHARDS)


@dataclass(frozen=True)
class SplitFiles:
    """Files of a split.

    Args:
        files: A table, several of them, shards, or the text files beside the clips.
        clips: The clips of these text files.
        rows_of: The split whose rows are to be taken from a table of several.
    """

    files: list[Path]
    clips: list[Path] | None = None
    rows_of: str | None = None


def find_split(dataset: Path, split: str) -> SplitFiles | None:
    """The files of a split in a local folder, or the single file; `None` if there are none.

    Raises:
        DatasetError: If the split exists in two forms or under two names, or a table of several splits is broken.
    """
    if dataset.is_file():
        return SplitFiles([dataset]) if dataset.suffix in SUFFIXES and split == split_of_file(dataset, split) else None
    found = {name: files for name in SPELLINGS.get(split, (split,)) if (files := _find_named(dataset, name))}
    if len(found) > 1:
        raise DatasetError(f"{dataset}: {split} exists as {' and as '.join(found)}; keep one of them")
    return next(iter(found.values()), None) or _find_in_root(dataset, SPLIT_NAMES.get(split, split))


def split_of_file(file: Path, split: str = "train") -> str:
    """The split of a single file: the one that its name begins with, as those of shards do, otherwise `train`."""
    beginning = file.stem.split("-")[0]
    return beginning if beginning == split else SPLIT_NAMES.get(beginning, "train")


def text_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The clips of a folder, or its folders of frames, that have a text file of the same name, and these files.

    Raises:
        DatasetError: If a text file belongs to two clips.
    """
    if not folder.is_dir():
        return []
    texts: dict[str, Path] = {}
    clips: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        stem = unicodedata.normalize("NFC", path.stem)
        if path.suffix == ".txt" and path.is_file():
            texts[stem] = path
        elif path.suffix.lower() in CLIPS or path.is_dir():
            clips.setdefault(stem, []).append(path)
    for stem in texts.keys() & clips.keys():
        if len(clips[stem]) > 1:
            first, second = (path.name for path in clips[stem][:2])
            raise DatasetError(f"{texts[stem]}: lies beside both {first} and {second}; keep one of them")
    return [(clips[stem][0], text) for stem, text in texts.items() if stem in clips]


def describe_missing(dataset: Path, split: str) -> str:
    """What was looked for in a folder without this split, and what it holds, in a line."""
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in dataset.iterdir() if entry.name[0] != ".")
    held = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    return (
        f"{dataset}: no {split}/metadata.jsonl or .csv, no {split}.csv, {split}.jsonl, {split}.json, "
        f"{split}*.parquet or {split}*.tar, and no clips with .txt files (present: {held or 'nothing'})"
    )


def _find_named(folder: Path, name: str) -> SplitFiles | None:
    """The files of a split of this very name."""
    if tables := _metadata(folder / name):
        return SplitFiles(tables)
    by_suffix: dict[str, list[Path]] = {}
    escaped = glob.escape(name)
    for suffix in SUFFIXES:
        # Tables beside the clips of a split may hold anything.
        inside = () if suffix in TABLES else (f"data/{escaped}-*{suffix}", f"{escaped}/*{suffix}")
        patterns = (f"{escaped}{suffix}", f"{escaped}-*{suffix}", *inside)
        if shards := sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            by_suffix[suffix] = shards
    if len(by_suffix) > 1:
        by_suffix.pop(".json", None)  # often what a table was made from
    if set(by_suffix) == set(SHARDS) and not _holds_clips(by_suffix[".parquet"][0]):
        del by_suffix[".parquet"]  # facts beside the tars, as video2dataset writes them
    if len(by_suffix) > 1:
        raise DatasetError(f"{folder}: {name} exists as {' and as '.join(sorted(by_suffix))}; keep one of them")
    if by_suffix:
        return SplitFiles(next(iter(by_suffix.values())))
    return _pairs(folder / name)


def _find_in_root(folder: Path, split: str) -> SplitFiles | None:
    if tables := _metadata(folder):
        splits = {split_of_record(record, f"{tables[0]}, {place}") for place, record in read_records(tables[0])}
        return SplitFiles(tables, rows_of=split) if split in splits else None
    if split != "train":
        return None
    # The output of video2dataset and img2dataset.
    numbered = sorted(folder.glob("[0-9]*.tar"))
    return SplitFiles(numbered) if numbered else _pairs(folder)


def _metadata(folder: Path) -> list[Path]:
    tables = [path for suffix in METADATA if (path := folder / f"metadata{suffix}").is_file()]
    if len(tables) > 1:
        raise DatasetError(f"{folder} holds both {tables[0].name} and {tables[1].name}; keep one of them")
    return tables


def _pairs(folder: Path) -> SplitFiles | None:
    pairs = text_pairs(folder)
    return SplitFiles([text for _, text in pairs], clips=[clip for clip, _ in pairs]) if pairs else None


def _holds_clips(parquet: Path) -> bool:
    return not {*VIDEO_COLUMNS, *PATH_COLUMNS}.isdisjoint(read_schema(parquet).names)
