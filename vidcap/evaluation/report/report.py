"""What a run is worth, on one page: `report.json` for programs, `report.html` for people.

Promises: each file appears complete or not at all; see `report_page` for what the page promises.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_card.labels import CONTROLS, SCORES
from vidcap.files import write_atomically

from .clip_pictures import ReportExample
from .curves import plot_history
from .report_page import SHARES, render_page

__all__ = ["CONTROLS", "SCHEMA_VERSION", "SCORES", "SHARES", "ReportExample", "plot_history",
           "write_report"]  # fmt: skip

SCHEMA_VERSION = 1  # of report.json; raised when a key changes its meaning or goes


def write_report(
    directory: str | os.PathLike[str],
    report: Mapping[str, Any],
    *,
    examples: Sequence[ReportExample],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `report.json` (`schema_version` and `report`) and the page `report.html` to `directory`.

    Args:
        directory: Created if need be; earlier reports in it are replaced.
        report: `scores`, `controls`, run facts. `SCORES` and `CONTROLS` hold the names the page explains. A score that
            is not there is shown as missing, a control that is not there not at all.
        examples: Clips to show.
        history: `trainer.state.log_history`, for the curves.

    Raises:
        ValueError: `report` holds NaN or an infinity, or an example's frames are no uint8 (T, H, W, 3).
        TypeError: `report` holds something JSON cannot.
        ImportError: There is a history and matplotlib is not installed.
    """
    try:
        text = _json_text({"schema_version": SCHEMA_VERSION, **report})
    except ValueError as error:
        raise ValueError(
            f"report.json cannot hold NaN or infinite numbers ({error}); leave such scores out"
        ) from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.json", text)  # before the page: what was measured outlives a bad picture
    write_atomically(directory / "report.html", render_page(report, examples, history))


def _json_text(report: Mapping[str, Any]) -> str:
    """Indented, but for the table of clips: a line for each of its columns, not one for each value."""
    columns = {name: json.dumps(column, ensure_ascii=False, allow_nan=False) for name, column in
               report.get("per_clip", {}).items()}  # fmt: skip
    table = ",\n".join(f"    {json.dumps(name)}: {column}" for name, column in columns.items())
    others = {name: value for name, value in report.items() if name != "per_clip"}
    text = json.dumps(others, indent=2, ensure_ascii=False, allow_nan=False)
    if columns:
        text = text.removesuffix("\n}") + f',\n  "per_clip": {{\n{table}\n  }}\n}}'
    return text + "\n"
