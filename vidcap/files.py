"""Files that appear complete or not at all, and what others may be told of them."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
    """Writes a UTF-8 text file; an earlier file of that name is replaced at the very end, or kept if writing fails.

    Args:
        path: The file; its folder must exist.
        content: What it shall hold.
    """
    write_bytes_atomically(path, content.encode())


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """The same for a file of bytes."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        unfinished = Path(scratch) / path.name
        unfinished.write_bytes(content)
        os.replace(unfinished, path)


def public_name(source: str | None) -> str | None:
    """A Hub id as it is; of a local file or folder its name only, since reports are shared."""
    return Path(source).resolve().name if source is not None and os.path.exists(source) else source
