"""Values of unknown origin -> Markdown that shows them and does nothing else.

Promises: whatever a text holds (HTML, Markdown, line breaks, control characters), it stays one line of text of its
place: no tag, link, picture, table cell, heading or fence comes of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.utils import yaml_dump

LONGEST = 200  # characters of a text that are shown
# Entities where a backslash would not do everywhere: in tables, and for renderers that know no `\<`.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", '"': "&quot;"}
_SIGNS = re.compile(r"([\\`*_\[\]~$]|^[#=+-](?!\d)|(?<=^\d)[.)](?!\d))")  # the last two begin headings and lists


def one_line(value: Any, longest: int = LONGEST) -> str:
    """A text without line breaks and what cannot be printed (control characters, marks that turn its direction), cut
    where it is too long."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def text(value: Any, longest: int = LONGEST) -> str:
    """Running text."""
    escaped = _SIGNS.sub(r"\\\1", one_line(value, longest))
    for sign, entity in _ENTITIES.items():
        escaped = escaped.replace(sign, entity)
    return escaped


def code(value: Any) -> str:
    """Text in a code span, for captions and words; not for tables, where a `|` would end the cell."""
    line = one_line(value)
    if not line:
        return "(empty)"
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(content: str, language: str) -> str:
    """A fenced block, whose fence is longer than any in its content."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    return f"{fence}{language}\n{content.rstrip()}\n{fence}\n"


def settings(values: Mapping[str, Any]) -> str:
    """Settings as a block of YAML."""
    return block(yaml_dump(dict(values), sort_keys=False), "yaml")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; numbers are shown as they are, `None` as nothing."""
    lines = ["| " + " | ".join("" if cell is None else text(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def bullets(items: Sequence[str]) -> str:
    """A list of lines that are escaped already."""
    return "".join(f"- {item or '(empty)'}\n" for item in items)
