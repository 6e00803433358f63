"""Upkeep of a cache of clips: which folders are in use, and which clips to remove when it has grown too large.

The time of a clip's file is that of its last use. Each process that uses a folder holds a lock in it, which the system
releases however the process ends, and renews the time of the files that it needs. A file older than the oldest running
process is therefore needed by none.

Limitations: files used by a process that has ended meanwhile are kept until the oldest one ends.
"""

import logging
import os
import tempfile
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)
GB = 10**9
CLAIMS = ".in-use"  # folder of the locks
SUFFIX, UNFINISHED = ".safetensors", ".tmp"
FILL = 0.95  # share of the limit to prune to, so that not every new clip removes another


class CacheFullError(ValueError):
    """A cache that has no room, or cannot be written to."""


class Claim:
    """Marks a folder as used by this process while the object lives, or within a `with` block."""

    def __init__(self, folder: Path):
        (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / CLAIMS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            lock = FileLock(path, thread_local=False)
            lock.acquire(timeout=60)
            if path.exists():  # otherwise somebody took it for that of a dead process before it was locked
                break
            lock.release()
        self._release = weakref.finalize(self, _release, lock, path, os.getpid())

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def __reduce__(self):
        return type(None), ()  # a copy in another process claims nothing: the first one outlives it


def _release(lock: FileLock, path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
        lock.release()


def in_use_since(folder: Path) -> float | None:
    """Start of the oldest use that goes on, in seconds since the epoch; `None` without one. Removes dead claims."""
    oldest = None
    for path in (folder / CLAIMS).glob("*"):
        try:
            began = path.stat().st_mtime
            with FileLock(path, thread_local=False).acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            oldest = began if oldest is None else min(oldest, began)
        except FileNotFoundError:
            continue
    return oldest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which replaces `path` at the end, or disappears if writing fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=UNFINISHED)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@dataclass
class Entry:
    """One file of a cache."""

    path: str
    size: int  # bytes
    used: int  # time of its last use, in nanoseconds


def entries(folder: Path) -> Iterator[Entry]:
    """The files of a folder, including unfinished ones."""
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith((SUFFIX, UNFINISHED)):
                try:
                    status = file.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                yield Entry(file.path, status.st_size, status.st_mtime_ns)


def folders(root: Path) -> list[Path]:
    """The folders of a cache, one per backbone and preprocessing."""
    return sorted(path.parent for path in root.glob(f"*/{CLAIMS}"))


def prune(root: Path, limit: int) -> tuple[Counter, int]:
    """Remove leftovers of dead processes, then unused clips, least recently used first, down to `limit` bytes.

    Returns:
        Numbers of clips removed by folder name, and the bytes that remain.
    """
    left, removable, removed = 0, [], Counter[str]()
    for folder in folders(root):
        since = in_use_since(folder)
        for entry in entries(folder):
            idle = since is None or entry.used < since * 1e9
            if entry.path.endswith(UNFINISHED):
                if idle:
                    Path(entry.path).unlink(missing_ok=True)
                continue
            left += entry.size
            if idle:
                removable.append(entry)
    for entry in sorted(removable, key=lambda entry: entry.used):
        if left <= limit:
            break
        if _remove(entry):
            left -= entry.size
            removed[Path(entry.path).parent.name] += 1
    return removed, left


def _remove(entry: Entry) -> bool:
    """Remove a file unless it was used meanwhile."""
    path = Path(entry.path)
    leaving = path.with_name(f".{path.stem}-leaving{UNFINISHED}")
    try:
        os.replace(path, leaving)
    except FileNotFoundError:
        return False
    if leaving.stat().st_mtime_ns != entry.used:
        os.replace(leaving, path)
        return False
    leaving.unlink()
    return True


def _log_removed(removed: Counter, limit: int) -> None:
    for folder, count in sorted(removed.items()):
        logger.warning(f"cache: removed {count} least recently used clips from {folder} (limit: {limit / GB:g} GB)")


class SizeLimit:
    """The size that a cache may have, for the threads of one process. Files of other processes are counted again
    whenever it seems to be reached, so that several together may exceed it until then.

    Args:
        root: The cache.
        size: In bytes.
    """

    def __init__(self, root: Path, size: int):
        self.root = root
        self.size = size
        self._used: int | None = None
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), (self.root, self.size)

    def make_room(self, needed: int) -> None:
        """Make room for a file of that many bytes.

        Raises:
            CacheFullError: If the remaining clips are in use.
        """
        with self._lock:
            if self._used is None:
                files = (entry for folder in folders(self.root) for entry in entries(folder))
                self._used = sum(entry.size for entry in files if entry.path.endswith(SUFFIX))
            if self._used + needed > self.size:
                removed, self._used = prune(self.root, max(0, int(FILL * self.size) - needed))
                _log_removed(removed, self.size)
            if self._used + needed > self.size:
                raise CacheFullError(
                    f"{self.root} holds {self._used / GB:.3g} GB of clips in use, of at most {self.size / GB:g} GB; "
                    "raise feature_cache_limit=GB or $VIDCAP_CACHE_LIMIT and start again: finished clips are kept"
                )
            self._used += needed

    def trim(self) -> None:
        """Remove clips that exceed the limit and are not in use."""
        with self._lock:
            removed, self._used = prune(self.root, self.size)
            _log_removed(removed, self.size)
