"""Values of unknown origin -> Markdown that shows them and does nothing else.

Guarantees: whatever a text holds (HTML, Markdown, line breaks, control characters), it remains one line of text in its
place and never becomes a tag, link, picture, table cell, heading or fence.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.utils import yaml_dump

LONGEST = 200  # characters shown of a text
# Entities where a backslash is not understood everywhere: in tables, and by renderers that lack `\<`.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", '"': "&quot;"}
_SIGNS = re.compile(r"([\\`*_\[\]~$]|^[#=+-](?!\d)|(?<=^\d)[.)](?!\d))")  # the last two begin headings and lists


def one_line(value: object, longest: int = LONGEST) -> str:
    """A text without line breaks and unprintable characters (such as marks that turn its direction), cut to length."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def text(value: object, longest: int = LONGEST) -> str:
    """Running text."""
    escaped = _SIGNS.sub(r"\\\1", one_line(value, longest))
    for sign, entity in _ENTITIES.items():
        escaped = escaped.replace(sign, entity)
    return escaped


def code(value: object) -> str:
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
    """A table; `None` becomes an empty cell."""
    lines = ["| " + " | ".join("" if cell is None else text(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def bullets(items: Sequence[str]) -> str:
    """A list of escaped lines."""
    return "".join(f"- {item or '(empty)'}\n" for item in items)
