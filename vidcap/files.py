"""Files that appear complete or not at all, checks of paths, and JSON lines."""

import codecs
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Characters that cannot be encoded, as JSON escapes in units of UTF-16."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


ESCAPES = "vidcap.escapes"
codecs.register_error(ESCAPES, _escape)


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
    """Write a UTF-8 text file, replacing an earlier one only after writing has succeeded.

    File names that are not UTF-8 are written as escapes (`\\udcff`), which JSON reads as the same names.

    Args:
        path: The file; its folder must exist. For a link, the file it points to is replaced; a device or a pipe is
            written to directly.
        content: The text.
    """
    write_bytes_atomically(path, content.encode(errors=ESCAPES))


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of bytes as [`write_atomically`] does."""
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
    """The reason not to write these files, in one line; None if there is none.

    Args:
        written: The files by option, such as `--output`; None for an option that was not given.
        read: The files, and possibly URLs, that the same command reads, by option.
    """
    taken = {_identity(path): name for name, paths in read.items() for path in paths}
    for name, path in written.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            return f"{name} {path}: no such folder: {path.parent}"
        if path.is_dir():
            return f"{name} {path} is a folder; give the name of a file"
        if other := taken.get(_identity(path)):
            return f"{name} {path} would replace the file of {other}; give another name"
        taken[_identity(path)] = name
    return None


def _identity(path: str | Path) -> object:
    """A key that is equal for two names of one file, such as links; for anything else the path."""
    try:
        state = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (state.st_dev, state.st_ino)


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, one per line, without escapes for letters of other alphabets."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_notes(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read JSON lines that earlier runs appended, and remove the half line of a run that was killed.

    Args:
        path: The file; a missing one has no notes.
        keys: The keys of each note.

    Raises:
        ValueError: If a line is damaged; the message names it.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) < len(data):
        os.truncate(path, len(complete))
    notes = []
    for number, line in enumerate(complete.split(b"\n")[:-1], start=1):
        try:
            note = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise ValueError(f"{path}, line {number}: damaged; delete the file, it will be made again") from error
        if not isinstance(note, dict) or set(note) != set(keys):
            raise ValueError(
                f"{path}, line {number}: not a note with the keys {', '.join(keys)}; delete the file, it will be made "
                "again"
            )
        notes.append(note)
    return notes


def within_data_set(folder: Path, dataset: str) -> bool:
    """Whether an output folder lies in a local data set, where it could replace files or be read with them."""
    return os.path.isdir(dataset) and folder.resolve().is_relative_to(Path(dataset).resolve())


def public_name(source: str | None) -> str | None:
    """A Hub id unchanged; for a local file or folder only its name, since reports are shared."""
    return Path(source).resolve().name if source is not None and os.path.exists(source) else source
