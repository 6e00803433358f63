"""The clips that rows of a data set mean when their files are missing.

Clips are kept by their content, which only the file tells. So while the file is there, its name (with its folder), a
hash of the captions and the hash of the content are recorded together, in Parquet files beside the folders of clips.
A row finds its clip by name and captions: a name alone, such as `train/0001.mp4`, may occur in any data set.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .upkeep import replacing

FOLDER = "names"
CONTENT_HASH = re.compile(r"[0-9a-f]{64}")


class CacheRecord(NamedTuple):
    """One recorded clip."""

    name: str
    captions: str  # their hash
    clip: str  # hash of the content


def name_of(path: str | os.PathLike[str]) -> str:
    """A file's name with that of its folder."""
    return "/".join(Path(os.path.abspath(path)).parts[-2:])


def captions_hash(captions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(captions), ensure_ascii=False).encode()).hexdigest()[:16]


def write_names(root: Path, records: Iterable[CacheRecord]) -> Path | None:
    """Record clips; the same records make no second file."""
    import pyarrow
    import pyarrow.parquet

    rows = sorted(set(records))
    if not rows:
        return None
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]
    path = root / FOLDER / f"{digest}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table({field: [getattr(row, field) for row in rows] for field in CacheRecord._fields})
        with replacing(path) as unfinished:
            pyarrow.parquet.write_table(table, unfinished)
    return path


def read_names(root: Path, names: set[str] | None = None) -> set[CacheRecord]:
    """The records of these names, by default all.

    Raises:
        ValueError: If a file holds something else.
    """
    import pyarrow.parquet

    records: set[CacheRecord] = set()
    for path in sorted((root / FOLDER).glob("*.parquet")):
        try:
            columns = pyarrow.parquet.read_table(path, columns=list(CacheRecord._fields)).to_pydict()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}; remove the file") from error
        for record in map(CacheRecord, *(columns[field] for field in CacheRecord._fields)):
            if names is None or record.name in names:
                if not CONTENT_HASH.fullmatch(record.clip):
                    raise ValueError(f"{path}: {record.clip!r:.80} is not the hash of a clip; remove the file")
                records.add(record)
    return records


def tidy_names(root: Path, clips: set[str]) -> None:
    """Move the records of these clips into one file, and remove all others."""
    files = set((root / FOLDER).glob("*.parquet"))
    kept = write_names(root, (record for record in read_names(root) if record.clip in clips))
    for path in files - {kept}:
        path.unlink(missing_ok=True)


def find_clips(root: Path, missing: dict[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Find clips whose files are missing.

    Args:
        root: The cache.
        missing: Name and captions hash of each clip, under any key.

    Returns:
        Under their keys, the hashes of the clips found, and why others are not, if there is more to say than that
        their file is missing.
    """
    by_name: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in read_names(root, {name for name, _ in missing.values()}):
        by_name[record.name][record.captions].add(record.clip)
    clips, reasons = {}, {}
    for key, (name, captions) in missing.items():
        candidates = by_name[name][captions] if name in by_name and captions in by_name[name] else set()
        if len(candidates) == 1:
            clips[key] = next(iter(candidates))
        elif candidates:
            reasons[key] = f"no such file, and the cache holds {len(candidates)} clips of this name and caption"
        elif name in by_name:
            reasons[key] = "no such file, and the cache knows this name with other captions only"
    return clips, reasons
