"""Files that appear complete or not at all, and what others may be told of them."""

import codecs
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Letters that an encoding lacks, as JSON writes them: in units of UTF-16."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


ESCAPES = "vidcap.escapes"
codecs.register_error(ESCAPES, _escape)


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
    """Writes a UTF-8 text file; an earlier file of that name is replaced at the very end, or kept if writing fails.

    File names that are not UTF-8 are written as escapes (`\\udcff`), which JSON reads as the same names.

    Args:
        path: The file; its folder must exist. A link stays one, and the file that it names is replaced; what is no
            file, such as a device or a pipe, is written to.
        content: What it shall hold.
    """
    write_bytes_atomically(path, content.encode(errors=ESCAPES))


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """The same for a file of bytes."""
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        unfinished = Path(scratch) / path.name
        unfinished.write_bytes(content)
        os.replace(unfinished, path)


def output_mistake(written: Mapping[str, Path | None], read: Mapping[str, Iterable[str | Path]]) -> str | None:
    """Why these files should not be written, in one line; None if all is well.

    Args:
        written: The files by what names them, such as `--output`; None where an option was not given.
        read: The files, and perhaps URLs, that the same command reads, in the same way.
    """
    taken = {_identity(path): name for name, paths in read.items() for path in paths}
    for name, path in written.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            return f"{name} {path}: no such folder: {path.parent}"
        if path.is_dir():
            return f"{name} {path} is a folder; name a file"
        if other := taken.get(_identity(path)):
            return f"{name} {path} would replace the file of {other}: name another"
        taken[_identity(path)] = name
    return None


def _identity(path: str | Path) -> object:
    """Equal for two names of one file, be they links; of what is no file its path."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino)


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, one a line, letters of any alphabet as they are."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def within_data_set(folder: Path, dataset: str) -> bool:
    """Whether a folder to be written lies in a local data set, whose own files it might replace, or be read with."""
    return os.path.isdir(dataset) and folder.resolve().is_relative_to(Path(dataset).resolve())


def public_name(source: str | None) -> str | None:
    """A Hub id as it is; of a local file or folder its name only, since reports are shared."""
    return Path(source).resolve().name if source is not None and os.path.exists(source) else source
