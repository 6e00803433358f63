"""Files of a data set's folder that no split uses, so that nothing that lies there is ignored in silence."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import datasets

from processing.clips.file_names import SPLIT_NAMES
from processing.clips.layouts import SplitFiles, find_split
from processing.support.progress import plural

# Beside the clips of most data sets: pages about them, and what the commands of this package keep.
ABOUT = (
    "readme",
    "license",
    "licence",
    "manifest.json",
    "refused.jsonl",
    "checks.jsonl",
    "scores.jsonl",
    "demo_data.",
)
KEPT = ("fetched", "cut")
NAMED = 6  # items of the line


def unused_files(dataset: str | Path, splits: Mapping[str, object]) -> list[str]:
    """Name what lies in a local folder, or beside a single file, and belongs to none of these splits.

    Args:
        dataset: A data set in any form; one on the Hub has nothing unused.
        splits: The rows of each split that is used, from `load_clips`; rows that are not a `Dataset`, such as streams,
            are taken to use all of their folder.

    Returns:
        Items such as "val2/ (10 files)", "3 .mp4 in train/" and "notes.txt".
    """
    root = Path(dataset)
    if root.is_file():
        return sorted(
            path.name
            for path in root.parent.iterdir()
            if path.suffix == root.suffix and path != root and path.stem.split("-")[0] in SPLIT_NAMES
        )
    found = {split: files for split in splits if root.is_dir() and (files := find_split(root, split))}
    used, whole = set(), set()
    for split, files in found.items():
        rows = splits[split]
        used |= set(map(os.path.abspath, [*files.files, *(files.clips or ())]))
        if isinstance(rows, datasets.Dataset):
            used |= _paths(rows)
        elif files.files[0].parent != root:
            whole.add(os.path.abspath(files.files[0].parent))
        elif _names_clips(files):
            return []  # of which nothing is known
    return _describe(root, used, whole) if found else []


def describe_unused(dataset: str | Path, items: list[str]) -> str:
    """A line on these items."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    hint = "; name their folder to use them" if Path(dataset).is_file() else ""
    return f"not used: {', '.join(items[:NAMED])}{more}{hint}"


def _names_clips(files: SplitFiles) -> bool:
    return files.clips is None and files.files[0].suffix not in (".parquet", ".tar")


def _paths(rows: datasets.Dataset) -> set[str]:
    paths: set[str] = set()
    for batch in rows.select_columns(["video"]).with_format("arrow").iter(10_000):
        named = batch["video"].combine_chunks().field("path").to_pylist()
        paths |= {os.path.abspath(path) for path in named if path is not None}
    return paths


def _describe(root: Path, used: set[str], whole: set[str]) -> list[str]:
    unused: defaultdict[str, list[str]] = defaultdict(list)  # files by folder
    with_used: set[str] = {""}  # folders that hold something that is used, and those that hold these
    for folder, folders, files in os.walk(os.path.abspath(root)):
        # A folder of frames is a clip.
        inner = {name for name in folders if os.path.join(folder, name) in used | whole}
        relative = os.path.relpath(folder, root).removeprefix(".")
        folders[:] = [n for n in folders if n not in inner and n[0] != "." and not (not relative and n in KEPT)]
        ours = {name for name in files if os.path.join(folder, name) in used}
        if inner or ours:
            with_used |= {relative, *map(str, Path(relative).parents)}
        others = [name for name in files if name not in ours and name[0] != "."]
        unused[relative] = [name for name in others if relative or not name.lower().startswith(ABOUT)]
    items: Counter[str] = Counter()
    names = []
    for folder, files in sorted(unused.items()):
        if folder not in with_used:
            # Named by the highest folder without anything that is used.
            above = [part for part in [*reversed(Path(folder).parents), Path(folder)] if str(part) not in with_used]
            items[f"{next(part for part in above if str(part) != '.')}/"] += len(files)
            continue
        for suffix, count in Counter(Path(name).suffix.lower() for name in files).items():
            same = sorted(name for name in files if Path(name).suffix.lower() == suffix)
            counted = f"{count} {suffix or plural('file', count)}" + (f" in {folder}/" if folder else "")
            names += same if count <= 2 and not folder else [counted]
    return [f"{name} ({count} {plural('file', count)})" for name, count in items.items() if count] + names
