"""Which clip a row of a data set means when its file is not there.

Clips are kept by their content, which cannot be known without the file. So while the file is there, its name (with the
folder it lies in), a hash of the captions and the hash of the content are written down together, in Parquet files
beside the folders of clips. A row finds its clip by name and captions: a name alone, such as `train/0001.mp4`, may be
that of a clip of any data set.
"""

import hashlib
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = "names"
CONTENT_HASH = re.compile(r"[0-9a-f]{64}")


class Known(NamedTuple):
    """What is written down of a clip."""

    name: str
    captions: str  # their hash
    clip: str  # hash of the content


def name_of(path: str | os.PathLike[str]) -> str:
    """A file's name with that of its folder."""
    return "/".join(Path(os.path.abspath(path)).parts[-2:])


def captions_hash(captions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(captions), ensure_ascii=False).encode()).hexdigest()[:16]


def write_names(root: Path, known: Iterable[Known]) -> Path | None:
    """Writes down clips; what has been written before makes no new file."""
    import pyarrow
    import pyarrow.parquet

    rows = sorted(set(known))
    if not rows:
        return None
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]
    path = root / FOLDER / f"{digest}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table({field: [getattr(row, field) for row in rows] for field in Known._fields})
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        pyarrow.parquet.write_table(table, name)
        os.replace(name, path)
    return path


def read_names(root: Path, names: set[str] | None = None) -> set[Known]:
    """What has been written down, of these names or of all.

    Raises:
        ValueError: If a file of them holds something else.
    """
    import pyarrow.parquet

    found: set[Known] = set()
    for path in sorted((root / FOLDER).glob("*.parquet")):
        try:
            columns = pyarrow.parquet.read_table(path, columns=list(Known._fields)).to_pydict()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}; remove it") from error
        for row in map(Known, *(columns[field] for field in Known._fields)):
            if names is None or row.name in names:
                if not CONTENT_HASH.fullmatch(row.clip):
                    raise ValueError(f"{path}: {row.clip!r:.80} is no hash of a clip; remove the file")
                found.add(row)
    return found


def tidy_names(root: Path, clips: set[str]) -> None:
    """Puts what is known of these clips into one file, and forgets the others."""
    files = set((root / FOLDER).glob("*.parquet"))
    kept = write_names(root, (row for row in read_names(root) if row.clip in clips))
    for path in files - {kept}:
        path.unlink(missing_ok=True)


def find_clips(root: Path, wanted: dict[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Finds clips whose files are missing.

    Args:
        root: The cache.
        wanted: By any key, name and captions hash of a clip.

    Returns:
        By key the hashes of the clips that are known, and why the others are not, where there is more to say than that
        their file is missing.
    """
    by_name: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in read_names(root, {name for name, _ in wanted.values()}):
        by_name[row.name][row.captions].add(row.clip)
    found, reasons = {}, {}
    for key, (name, captions) in wanted.items():
        clips = by_name[name][captions] if name in by_name and captions in by_name[name] else set()
        if len(clips) == 1:
            found[key] = next(iter(clips))
        elif clips:
            reasons[key] = f"no such file, and the cache holds {len(clips)} different clips of this name and caption"
        elif name in by_name:
            reasons[key] = "no such file, and the cache knows this name with other captions only"
    return found, reasons
