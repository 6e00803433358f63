"""A cache of clips that stays within bounds: who is using which folder, and what goes when it has grown too large.

A clip's file carries the time of its last use. Each process that uses a folder holds a lock in it, which the system
takes back however the process ends, and gives the files that it will need a new time when it finds them. So what is
older than the oldest process that is still running is needed by none. Gives up: what a process used that has ended
since then is kept, too, until the oldest one ends.
"""

import logging
import os
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout  # which comes with huggingface_hub

logger = logging.getLogger("vidcap")
GB = 10**9
CLAIMS = ".in-use"  # folder of the locks
SUFFIX, UNFINISHED = ".safetensors", ".tmp"
ROOM = 0.95  # of the limit is left filled, so that not every clip has another removed


class CacheFullError(ValueError):
    """A cache whose limit is reached by clips in use."""


class Claim:
    """Says that this process uses a folder: for as long as the object lives, or to the end of a `with` block."""

    def __init__(self, folder: Path):
        (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / CLAIMS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            lock = FileLock(path, thread_local=False)
            lock.acquire(timeout=60)
            if path.exists():  # or else somebody took it for that of a dead process before it was locked
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
    """When the oldest process that uses the folder began to, in seconds; `None` if none does. Traces of dead
    processes are removed."""
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


@dataclass
class Entry:
    """One file of a cache."""

    path: str
    size: int  # bytes
    used: int  # when last, in nanoseconds


def entries(folder: Path) -> Iterator[Entry]:
    """The files of one folder, unfinished ones included."""
    with os.scandir(folder) as found:
        for each in found:
            if each.name.endswith((SUFFIX, UNFINISHED)):
                try:
                    status = each.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                yield Entry(each.path, status.st_size, status.st_mtime_ns)


def folders(root: Path) -> list[Path]:
    """The folders of a cache, one for each backbone and way of reading clips."""
    return sorted(path.parent for path in root.glob(f"*/{CLAIMS}"))


def prune(root: Path, limit: int) -> tuple[Counter, int]:
    """Removes clips that are in no running process's use, least recently used ones first, until the others take
    `limit` bytes at most; in any case what killed processes left unfinished.

    Returns:
        How many clips were removed from each folder, by its name, and the bytes that are left.
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
    for entry in sorted(removable, key=lambda each: each.used):
        if left <= limit:
            break
        if _remove(entry):
            left -= entry.size
            removed[Path(entry.path).parent.name] += 1
    return removed, left


def _remove(entry: Entry) -> bool:
    """Removes a file unless it was used since."""
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


def tell(removed: Counter, limit: int) -> None:
    """Says what [`prune`] removed."""
    for folder, count in sorted(removed.items()):
        logger.warning(f"cache: {count} clips, used least recently, removed from {folder} ({limit / GB:g} GB at most)")


class Limit:
    """The size that a cache may have, for the threads of one process. What other processes wrote is taken into account
    whenever it seems to be reached, so that several together may exceed it until one of them looks again.

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
        """Removes what is necessary for a file of that many bytes.

        Raises:
            CacheFullError: If what is left is in use.
        """
        with self._lock:
            if self._used is None:
                found = (entry for folder in folders(self.root) for entry in entries(folder))
                self._used = sum(entry.size for entry in found if entry.path.endswith(SUFFIX))
            if self._used + needed > self.size:
                removed, self._used = prune(self.root, max(0, int(ROOM * self.size) - needed))
                tell(removed, self.size)
            if self._used + needed > self.size:
                raise CacheFullError(
                    f"{self.root} holds {self._used / GB:.3g} GB of clips in use, and may hold {self.size / GB:g} GB: "
                    "raise --feature_cache_limit or $VIDCAP_CACHE_LIMIT; the same command goes on from what is there"
                )
            self._used += needed

    def trim(self) -> None:
        """Removes what is too much and in no use, however it came there."""
        with self._lock:
            removed, self._used = prune(self.root, self.size)
            tell(removed, self.size)
