"""Lines, rows and JSON values of caption files, with their places for messages."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any


class AnnotationError(ValueError):
    """A mistake in a caption file, in one line: `<file>, <line or entry>: <mistake>`."""

    def __init__(self, path: Path, place: str, mistake: str):
        super().__init__(f"{path}, {place}: {' '.join(mistake.split())}" if place else f"{path}: {mistake}")
        self.place = place


class BadRows:
    """Takes up the mistakes of single rows, so that the others can be used; as a context, that of one row.

    Args:
        strict: Leave mistakes to the caller instead.

    Attributes:
        mistakes: In the order of the file.
    """

    def __init__(self, *, strict: bool = False):
        self.strict = strict
        self.mistakes: list[AnnotationError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self.strict or not isinstance(error, AnnotationError):
            return False
        self.mistakes.append(error)
        return True


STRICT = BadRows(strict=True)


def text_lines(path: Path, bad: BadRows = STRICT) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not blank."""
    with path.open("rb") as file:  # text mode would report an invalid byte without its line
        for number, line in enumerate(file, start=1):
            place, text = f"line {number}", ""
            with bad:
                text = _decode(path, place, line).rstrip("\r\n")
            if text.strip():
                yield place, text


def _decode(path: Path, place: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(
            path, place or f"line {number}", f"not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error


def csv_rows(path: Path, columns: tuple[str, ...], bad: BadRows) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and fields of each row; the first line names the columns, which must include `columns`."""
    reader = csv.DictReader(StringIO(_decode(path, "", path.read_bytes()), newline=""), strict=True)
    names = list(reader.fieldnames or ())
    missing = [column for column in columns if column not in names]
    if missing:
        raise AnnotationError(path, "line 1", f"no column {', '.join(missing)}; the columns are {', '.join(names)}")
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            if None not in row and None not in row.values():
                yield place, row
                continue
            with bad:
                raise AnnotationError(path, place, f"more or fewer fields than the {len(names)} columns of line 1")
    except csv.Error as error:
        # `line_num` is that of the row before, so an open quotation mark is reported where it begins.
        raise AnnotationError(path, f"line {reader.line_num + 1}", f"not CSV ({error})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return parse_json(path, "", _decode(path, "", path.read_bytes()))


def parse_json(path: Path, place: str, text: str) -> Any:
    """The value of a JSON text at `place`; for a whole file, with an empty place, errors name the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(path, place or f"line {error.lineno}", f"not JSON ({error.msg})") from error


def list_entries(path: Path, entries: object, name: str) -> Iterator[tuple[str, Any]]:
    """Place and value of each entry of a list."""
    if not isinstance(entries, list):
        raise AnnotationError(path, name, "not a list")
    for index, entry in enumerate(entries):
        yield f"{name} entry {index}".strip(), entry


def get_value(path: Path, place: str, entry: object, key: str, kind: type | tuple[type, ...]) -> Any:
    """A required value of an entry, of one of the given types."""
    if not isinstance(entry, dict) or key not in entry:
        raise AnnotationError(path, place, f'no "{key}"')
    if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
        kinds = " or ".join(option.__name__ for option in (kind if isinstance(kind, tuple) else (kind,)))
        raise AnnotationError(path, place, f'"{key}" is {str(entry[key])[:80]!r}, but must be of type {kinds}')
    return entry[key]
