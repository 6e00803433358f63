"""Diagrams of a training run's log."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vidcap.files import write_bytes_atomically

Panels = list[tuple[str, dict[str, list[tuple[float, float]]]]]


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss, learning rate and validation scores over training steps into a PNG file.

    Args:
        history: `trainer.state.log_history`. Entries without a step and quantities that were not logged are omitted.
        path: The file to write, usually `training_curve.png`.

    Raises:
        ValueError: `history` contains nothing to draw.
        ImportError: matplotlib is not installed.
    """
    panels = find_panels(history)
    if not panels:
        raise ValueError("history contains no loss, learning rate or validation score to draw; log at least once")
    write_bytes_atomically(path, draw_panels(panels, dark=False))


def find_panels(history: Sequence[Mapping[str, Any]]) -> Panels:
    """Title and lines (name -> (step, value) points) of each diagram that the history has points for."""
    quantities = {
        "loss": {"training": "loss", "validation": "eval_loss"},
        "learning rate": {"learning rate": "learning_rate"},
        "validation CIDEr": {"CIDEr": "eval_cider"},
        "validation shares": {"exact": "eval_exact", "distinct": "eval_distinct"},
    }
    panels = []
    for title, lines in quantities.items():
        points = {
            name: [(entry["step"], entry[key]) for entry in history if "step" in entry and key in entry]
            for name, key in lines.items()
        }
        drawn = {name: line for name, line in points.items() if line}
        if drawn:
            panels.append((title, drawn))
    return panels


def draw_panels(panels: Panels, *, dark: bool) -> bytes:
    """The diagrams as a PNG picture."""
    try:
        import matplotlib
        from matplotlib.figure import Figure  # unlike pyplot, needs no display and leaves no global state
    except ImportError as error:
        raise ImportError("the training curve needs matplotlib: pip install 'vidcap[train]'") from error
    ink, paper, grid = ("#d0d7de", "#161b22", "#30363d") if dark else ("#1f2328", "#ffffff", "#d8dee4")
    style: dict[Any, Any] = {
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": grid,
        "axes.facecolor": paper, "figure.facecolor": paper, "legend.facecolor": paper, "legend.edgecolor": grid,
        "grid.color": grid, "font.size": 9,
    }  # fmt: skip
    colours = ("#58a6ff", "#ffa657") if dark else ("#0969da", "#bc4c00")
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6 * columns, 2.7 * rows), layout="constrained")
        for i, (title, lines) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, i + 1)
            for (name, points), colour in zip(lines.items(), colours, strict=False):
                steps, values = zip(*points, strict=True)
                marker = "o" if len(points) < 30 else None
                axes.plot(steps, values, label=name, color=colour, linewidth=1.5, marker=marker, markersize=3)
            axes.set_title(title, fontsize=10)
            if all(value >= 0 for points in lines.values() for _, value in points):
                axes.set_ylim(bottom=0)
            axes.set_xlabel("step")
            axes.grid(linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
