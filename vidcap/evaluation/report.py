"""What a run is worth, on one page: `report.json` for programs, `report.html` for people.

Promises: the page is one file that loads nothing (no script, no font, no address); every text of the data set or the
model is escaped; each file appears complete or not at all. Gives up: the page shows the keys it knows and every plain
number or text beside them; what is nested deeper stands in `report.json` alone.
"""

import base64
import io
import json
import math
import os
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

SCORES = {
    "cider": "CIDEr",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rougeL": "ROUGE-L",
    "exact": "exact",
    "distinct": "distinct",
    "exact_reversed": "exact, backwards",
}
_LEGEND = {
    "CIDEr": "× 100. Agreement with the references; words that are rare in the data set weigh more.",
    "BLEU-1 to 4": "× 100. Share of the caption's runs of one (up to four) words that a reference holds.",
    "ROUGE-L": "× 100. Longest sequence of words, gaps allowed, that caption and reference share.",
    "exact": "Share of captions that equal a reference, word for word.",
    "distinct": "Different captions per clip. Near zero: every clip gets the same sentence.",
    "exact, backwards": (
        "Share of the clips played backwards whose caption is exactly what is then true. High for a captioner that "
        "sees the order of events. Only clips whose truth changes count."
    ),
}
CONTROLS = {
    "other_clip": (
        "another clip's frames",
        "Each clip captioned from the frames of a clip with another truth. Must fall far below the score: what "
        "remains is had without looking.",
    ),
    "reversed": (
        "played backwards",
        "Each clip captioned from its frames in reverse, scored by its ordinary references. Must fall wherever the "
        "order of events matters.",
    ),
    "most_frequent": (
        "most frequent caption",
        "The commonest training caption, given to every clip. Any captioner must beat it by far.",
    ),
}
_SHARES = {"exact", "distinct", "exact_reversed"}
_FACTS = {"train_seconds": "training", "total_seconds": "whole run", "peak_rss_mb": "peak memory"}
_WRONG_SHOWN, _RIGHT_SHOWN, _FRAMES_SHOWN = 12, 24, 8


@dataclass
class ReportExample:
    """A captioned clip to show.

    Attributes:
        file_name: The clip's name in its data set.
        frames: uint8 RGB (T, H, W, 3), T at least 1.
        hypothesis: The model's caption.
        references: The true captions, at least one.
        exact: Whether the caption equals a reference.
        backwards: The model's caption of the clip played backwards.
        other_clip: The model's caption when it was given another clip's frames.
    """

    file_name: str
    frames: np.ndarray | torch.Tensor
    hypothesis: str
    references: list[str]
    exact: bool
    backwards: str | None = None
    other_clip: str | None = None


def write_report(
    directory: str | os.PathLike[str],
    report: Mapping[str, Any],
    *,
    examples: Sequence[ReportExample],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `report.json` (exactly `report`) and the page `report.html` to `directory`.

    Args:
        directory: Created if need be; earlier reports in it are replaced.
        report: `scores`, `controls`, run facts. `SCORES` and `CONTROLS` hold the names the page explains. A score that
            is not there is shown as missing, a control that is not there not at all.
        examples: Clips to show: the first 12 whose caption is wrong, the first 24 whose caption is right.
        history: `trainer.state.log_history`, for the curves.

    Raises:
        ValueError: `report` holds NaN or an infinity, or an example's frames are no uint8 (T, H, W, 3).
        TypeError: `report` holds something JSON cannot.
        ImportError: There is a history and matplotlib is not installed.
    """
    try:
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(
            f"report.json cannot hold NaN or infinite numbers ({error}); leave such scores out"
        ) from error
    page = _render_page(report, examples, history)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write_atomically(directory / "report.json", text.encode())
    _write_atomically(directory / "report.html", page.encode())


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss, learning rate and validation scores over training steps into a PNG file.

    Args:
        history: `trainer.state.log_history`. Entries without a step and quantities that were not logged are left out.
        path: The file to write, usually `training_curve.png`.

    Raises:
        ValueError: `history` holds nothing to draw.
        ImportError: matplotlib is not installed.
    """
    panels = _panels(history)
    if not panels:
        raise ValueError("the history holds no loss, learning rate or validation score to draw; log at least once")
    _write_atomically(Path(path), _draw_panels(panels, dark=False))


def contact_sheet(examples: Sequence[ReportExample], path: str | os.PathLike[str], *, columns: int = 1) -> None:
    """Draw clips as strips of frames with their captions below, as one PNG picture.

    Args:
        examples: The clips, row by row. Where a caption is wrong, the truth stands below it.
        path: The file to write.
        columns: Strips side by side.

    Raises:
        ValueError: There are no examples, `columns` is less than 1 or an example's frames are no uint8 (T, H, W, 3).
    """
    if not examples:
        raise ValueError("a contact sheet needs at least one example")
    if columns < 1:
        raise ValueError(f"columns={columns}: at least one column is needed")
    strips = [_strip(example, height=80) for example in examples]
    font = ImageFont.load_default(size=15)
    width = max(strip.width for strip in strips)
    letters = int(width / font.getlength("n"))
    captions = []
    for example in examples:
        lines = textwrap.wrap(example.hypothesis, letters) or ["(empty caption)"]
        if not example.exact:
            lines = [*lines, *textwrap.wrap(f"WRONG, truth: {example.references[0]}", letters)]
        captions.append(lines)
    line, margin = 20, 16
    cells = [strip.height + 4 + line * len(lines) for strip, lines in zip(strips, captions, strict=True)]
    rows = [max(cells[first : first + columns]) + margin for first in range(0, len(cells), columns)]
    sheet = Image.new("RGB", (columns * (width + margin) + margin, sum(rows) + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (example, strip, lines) in enumerate(zip(examples, strips, captions, strict=True)):
        x, y = margin + i % columns * (width + margin), margin + sum(rows[: i // columns])
        sheet.paste(strip, (x, y))
        colour = "#1f2328" if example.exact else "#b42318"
        draw.multiline_text((x, y + strip.height + 4), "\n".join(lines), font=font, fill=colour, spacing=3)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    _write_atomically(Path(path), buffer.getvalue())


def _write_atomically(path: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        unfinished = Path(scratch) / path.name
        unfinished.write_bytes(content)
        os.replace(unfinished, path)


# ---- page -------------------------------------------------------------------


def _render_page(
    report: Mapping[str, Any], examples: Sequence[ReportExample], history: Sequence[Mapping[str, Any]]
) -> str:
    scores, controls = report.get("scores", {}), report.get("controls", {})
    wrong = [example for example in examples if not example.exact]
    right = [example for example in examples if example.exact]
    panels = _panels(history)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    template = environment.from_string(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
    columns = [("this model", scores)] + [
        (CONTROLS[name][0] if name in CONTROLS else name, values) for name, values in controls.items()
    ]
    kinds = report.get("by_kind", {})
    return template.render(
        verdict=_verdict(scores, controls),
        columns=columns,
        rows=[(key, SCORES.get(key, key)) for key in _keys(values for _, values in columns)],
        legend=[*CONTROLS.values(), *_LEGEND.items()],
        kinds=kinds,
        kind_rows=[(key, SCORES.get(key, key)) for key in _keys(kinds.values())],
        facts=_facts(report),
        versions=report.get("versions", {}),
        skipped=report.get("skipped_clips", []),
        curves=[_base64(_draw_panels(panels, dark=dark)) for dark in (False, True)] if panels else [],
        groups=[
            ("Captions that differ from the truth", len(wrong), [_card(example) for example in wrong[:_WRONG_SHOWN]]),
            ("Captions that equal the truth", len(right), [_card(example) for example in right[:_RIGHT_SHOWN]]),
        ],
    )


def _keys(tables: Any) -> list[str]:
    """The names of all scores that occur: first the known ones in their order, then the others."""
    found = {key: None for table in tables for key, value in table.items() if isinstance(value, int | float)}
    return [key for key in SCORES if key in found] + [key for key in found if key not in SCORES]


def _number(value: float | None, key: str) -> str:
    if value is None:
        return "–"
    if key in _SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _verdict(scores: Mapping[str, float], controls: Mapping[str, Mapping[str, float]]) -> tuple[bool, str]:
    """Whether the captions come from the video, and a sentence that says why."""
    if "cider" not in scores:
        return False, "No score was computed."
    reached = f"CIDEr {scores['cider']:.0f}"
    if "exact" in scores:
        reached += f", {100 * scores['exact']:.1f} % of the captions exact"
    blind = [controls[name]["cider"] for name in ("other_clip", "most_frequent") if "cider" in controls.get(name, {})]
    if not blind:
        return False, f"{reached}. No control was run, so nothing shows that the captions come from the video."
    if max(blind) < scores["cider"] / 2:
        return True, f"The captions follow the video: {reached}; CIDEr {max(blind):.0f} without looking at the clip."
    return (
        False,
        f"The captions hardly depend on the video: {reached}; CIDEr {max(blind):.0f} without looking at the clip.",
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every plain number and text of the report that no table shows."""
    facts = []
    for key, value in report.items():
        if key == "data_sets" and len(value) > 1:
            text = ", ".join(f"{each['name']} (weight {each.get('weight', 'by its clips')})" for each in value)
        elif isinstance(value, bool | str):
            text = str(value)
        elif not isinstance(value, int | float):
            continue
        elif key.endswith("_seconds"):
            minutes, seconds = divmod(round(value), 60)
            text = f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"
        elif key.endswith("_mb"):
            text = f"{value:,.0f} MB"
        else:
            text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        facts.append((_FACTS.get(key, key.replace("_", " ")), text))
    return facts


def _card(example: ReportExample) -> dict[str, Any]:
    strip = io.BytesIO()
    _strip(example, height=112).save(strip, "JPEG", quality=85)
    return {
        "example": example,
        "strip": _base64(strip.getvalue()),
        "words": _compare(example.hypothesis, example.references),
    }


def _compare(hypothesis: str, references: Sequence[str]) -> list[tuple[str, bool]]:
    """The caption's words, each with whether it differs from the closest reference."""
    words = hypothesis.split()
    matchers = [SequenceMatcher(None, words, reference.split(), autojunk=False) for reference in references]
    closest = max(matchers, key=SequenceMatcher.ratio)
    same = {block.a + i for block in closest.get_matching_blocks() for i in range(block.size)}
    return [(word, i not in same) for i, word in enumerate(words)]


def _strip(example: ReportExample, *, height: int) -> Image.Image:
    """Up to eight frames of a clip, evenly spread from the first to the last, side by side."""
    frames = np.asarray(example.frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"{example.file_name}: frames are {frames.dtype} of shape {frames.shape}; uint8 (T, H, W, 3) is needed"
        )
    shown = np.unique(np.linspace(0, len(frames) - 1, _FRAMES_SHOWN).round().astype(int))
    width = max(1, round(height * frames.shape[2] / frames.shape[1]))
    strip = Image.new("RGB", (len(shown) * (width + 2) - 2, height), "white")
    for place, index in enumerate(shown):
        strip.paste(
            Image.fromarray(frames[index]).resize((width, height), Image.Resampling.BICUBIC), (place * (width + 2), 0)
        )
    return strip


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# ---- curves -----------------------------------------------------------------


def _panels(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """Title and lines (name -> (step, value) points) of each diagram for which the history has points."""
    wanted = {
        "loss": {"training": "loss", "validation": "eval_loss"},
        "learning rate": {"learning rate": "learning_rate"},
        "validation CIDEr": {"CIDEr": "eval_cider"},
        "validation shares": {"exact": "eval_exact", "distinct": "eval_distinct"},
    }
    panels = []
    for title, lines in wanted.items():
        points = {
            name: [(entry["step"], entry[key]) for entry in history if "step" in entry and key in entry]
            for name, key in lines.items()
        }
        drawn = {name: line for name, line in points.items() if line}
        if drawn:
            panels.append((title, drawn))
    return panels


def _draw_panels(panels: list[tuple[str, dict[str, list[tuple[float, float]]]]], *, dark: bool) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot: draws by Agg, needs no display, leaves no global state
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
            axes.set_ylim(bottom=0)
            axes.set_xlabel("step")
            axes.grid(linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
