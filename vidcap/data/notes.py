"""Notes that a run leaves for the next one: JSON lines, appended one by one."""

import json
import os
from pathlib import Path
from typing import Any


def read_notes(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Reads notes, and removes the half line that a run may have left when it was killed.

    Args:
        path: The file; none holds no notes.
        keys: What each note must hold.

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
            raise ValueError(f"{path}, line {number}: not a note of {', '.join(keys)}; delete the file")
        notes.append(note)
    return notes
