"""Comparison of two reports on the same clips: differences of scores, and whether they exceed noise.

Guarantees: scores are compared on the same clips with the same references, or not at all.

Limitations: the intervals do not cover the variation between training seeds, and scores that are not means over clips
have no interval.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from hub_card.labels import SCORES, SHARES

from ..data.annotation_files import AnnotationError, get_value, read_json
from .report.report import SCHEMA_VERSION
from .scores.bootstrap import paired_bootstrap

_LISTED = 3


class ComparisonError(ValueError):
    """Two reports cannot be compared; the message is one line."""


def read_report(path: Path) -> dict[str, Any]:
    """Read a `report.json` of the current schema.

    Raises:
        AnnotationError: If the file is not a report, or has another schema.
        OSError: If the file cannot be read.
    """
    report = read_json(path)
    if not isinstance(report, dict) or not isinstance(report.get("scores"), dict):
        raise AnnotationError(path, "", 'not an evaluation report: it has no "scores"')
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        schema = "no schema version" if version is None else f"schema version {version}"
        raise AnnotationError(
            path, "", f"has {schema}, but version {SCHEMA_VERSION} is needed; evaluate again with this vidcap"
        )
    table = get_value(path, "", report, "per_clip", dict)
    for name in ("file_name", "references", "cider"):
        get_value(path, "per_clip", table, name, list)
    if len({len(table[name]) for name in ("file_name", "references", "cider")}) > 1:
        raise AnnotationError(path, "per_clip", "columns have different lengths; evaluate again")
    return report


def compare_reports(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    names: tuple[str, str] = ("A", "B"),
    common_clips: bool = False,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two reports.

    Args:
        first, second: From [`read_report`].
        names: Their names in messages.
        common_clips: If the clips differ, compare those that both have, without CIDEr and the scores that have no
            value per clip: these depend on all clips of their own report.
        samples, seed: Arguments of [`paired_bootstrap`].

    Returns:
        `clips`, the number of compared clips; `notes` for the reader; `scores`: for each score that both have `a`,
        `b`, `difference` (b - a) and, if it has a value per clip, `low`, `high` and `beyond_noise`; `controls`: the
        same for each control that both have.

    Raises:
        ComparisonError: If they share fewer than two clips, the references of a clip differ, they were scored with
            different tokenizers, or clips differ and `common_clips` is not set.
    """
    pairs = _pair_clips(first, second, names)
    if pairs.restricted and not common_clips:
        raise ComparisonError(
            f"{pairs.unshared}; --common_clips compares the {len(pairs.shared)} clips that are in both"
        )
    if len(pairs.shared) < 2:
        raise ComparisonError(
            f"only {len(pairs.shared)} clips are in both reports, at least 2 are needed; {pairs.unshared}"
        )
    notes = []
    if pairs.restricted:
        notes.append(f"{pairs.unshared}; the {len(pairs.shared)} clips that are in both are compared")
        notes.append("CIDEr and scores without a value per clip are omitted, since they depend on all clips")
    bootstrap = {"samples": samples, "seed": seed}
    scores = _compare_values((first["scores"], second["scores"]), pairs.tables, pairs, pairs.restricted, bootstrap)
    both = first.get("controls", {}), second.get("controls", {})
    controls = {}
    for name in both[0]:
        if not (isinstance(both[0][name], Mapping) and isinstance(both[1].get(name), Mapping)):
            continue
        values = both[0][name], both[1][name]
        clips = tuple(table.get("controls", {}).get(name, {}) for table in pairs.tables)
        differ = _are_of_different_clips(values, (clips[0], clips[1]), pairs)
        if differ and not pairs.restricted:
            notes.append(
                f"the control {name} has {values[0].get('clips')} clips in {names[0]} and {values[1].get('clips')} in "
                f"{names[1]}; the common ones are compared, without CIDEr and scores without a value per clip"
            )
        if compared := _compare_values(values, (clips[0], clips[1]), pairs, pairs.restricted or differ, bootstrap):
            controls[name] = compared
    for own, other, name in ((both[0], both[1], names[0]), (both[1], both[0], names[1])):
        if missing := [control for control in own if control not in other]:
            notes.append(f"only {name} has the controls {', '.join(missing)}")
    count = len(pairs.shared)
    return {"a": names[0], "b": names[1], "clips": count, "notes": notes, "scores": scores, "controls": controls}


@dataclass(frozen=True)
class _Pairs:
    """The clips of two reports, paired by name.

    Attributes:
        tables: The table of clips of each report.
        shared: Names of the clips that are in both.
        orders: Their rows in the first and in the second table.
        restricted: Whether a report has other clips as well.
        unshared: A phrase with the number of these and some names.
    """

    tables: tuple[Mapping[str, Any], Mapping[str, Any]]
    shared: list[str]
    orders: tuple[list[int], list[int]]
    restricted: bool
    unshared: str


def _pair_clips(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> _Pairs:
    """Pair clips; raise `ComparisonError` for repeated names, other references or another tokenizer."""
    tables = first["per_clip"], second["per_clip"]
    if first.get("scoring", {}).get("tokenizer") != second.get("scoring", {}).get("tokenizer"):
        raise ComparisonError(
            f"{names[0]} and {names[1]} were scored with different tokenizers; evaluate one of them again"
        )
    rows = tuple({name: index for index, name in enumerate(table["file_name"])} for table in tables)
    for name, table, row_of in zip(names, tables, rows, strict=True):
        if len(row_of) < len(table["file_name"]):
            raise ComparisonError(f"{name}: several clips have the same file_name, so clips cannot be paired")
    shared = [name for name in rows[0] if name in rows[1]]
    orders = [rows[0][name] for name in shared], [rows[1][name] for name in shared]
    truths = [[table["references"][index] for index in order] for table, order in zip(tables, orders, strict=True)]
    if changed := [name for name, a, b in zip(shared, *truths, strict=True) if a != b]:
        raise ComparisonError(
            f"the references of {len(changed)} clips differ between {names[0]} and {names[1]} ({_listed(changed)}); "
            "evaluate both with the same references"
        )
    alone = [[name for name in own if name not in other] for own, other in (rows, rows[::-1])]
    unshared = (
        f"{len(alone[0])} clips are only in {names[0]} ({_listed(alone[0])}), {len(alone[1])} only in {names[1]} "
        f"({_listed(alone[1])})"
    )
    return _Pairs(tables, shared, orders, bool(alone[0] or alone[1]), unshared)


def _compare_values(
    values: tuple[Mapping[str, Any], Mapping[str, Any]],
    clips: tuple[Mapping[str, Any], Mapping[str, Any]],
    pairs: _Pairs,
    restricted: bool,
    bootstrap: Mapping[str, int],
) -> dict[str, Any]:
    """Compare each score that both have, see [`compare_reports`].

    Args:
        values: The scores of each report.
        clips: Columns with the same scores per clip.
        pairs: The paired clips.
        restricted: Whether the scores cover other clips than the compared ones.
        bootstrap: Arguments of [`paired_bootstrap`].
    """
    compared = {}
    for key in values[0]:
        if key == "clips" or not (_is_number(values[0][key]) and _is_number(values[1].get(key))):
            continue
        per_clip = all(isinstance(table.get(key), list) for table in clips)
        if per_clip and not (restricted and key == "cider"):
            columns = [
                [table[key][index] for index in order] for table, order in zip(clips, pairs.orders, strict=True)
            ]
            # A control may have been run on some of the clips only.
            measured = [pair for pair in zip(*columns, strict=True) if None not in pair]
            if len(measured) < 2:
                continue
            a, b = zip(*measured, strict=True)
            difference, low, high = paired_bootstrap(a, b, **bootstrap)
            compared[key] = {
                "a": sum(a) / len(a), "b": sum(b) / len(b), "difference": difference, "low": low, "high": high,
                "beyond_noise": low > 0 or high < 0,
            }  # fmt: skip
        elif not restricted:
            a, b = values[0][key], values[1][key]
            compared[key] = {"a": a, "b": b, "difference": b - a}
    return compared


def _are_of_different_clips(
    values: tuple[Mapping[str, Any], Mapping[str, Any]],
    clips: tuple[Mapping[str, Any], Mapping[str, Any]],
    pairs: _Pairs,
) -> bool:
    """Whether a control covers different clips in the two reports, which changes the scale of CIDEr."""
    if values[0].get("clips") != values[1].get("clips"):
        return True
    known = all("exact" in table for table in clips)
    return known and _clips_with(clips[0], pairs.orders[0]) != _clips_with(clips[1], pairs.orders[1])


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as a table of text."""
    lines = [f"A: {comparison['a']}", f"B: {comparison['b']}", f"{comparison['clips']} clips with the same references"]
    lines += [f"note: {note}" for note in comparison["notes"]]
    for title, table in {"scores": comparison["scores"], **comparison["controls"]}.items():
        lines += ["", f"{title:18}{'A':>9}{'B':>9}{'change':>9}   95 % interval"]
        for key, entry in table.items():
            line = f"{SCORES.get(key, key):18}" + "".join(
                f"{_text(entry[column], key, signed=column == 'difference'):>9}" for column in ("a", "b", "difference")
            )
            if "low" not in entry:
                lines.append(f"{line}   no interval: not a mean over clips")
                continue
            interval = f"[{_text(entry['low'], key, signed=True)}, {_text(entry['high'], key, signed=True)}]"
            lines.append(f"{line}   {interval:18} {'beyond noise' if entry['beyond_noise'] else 'within noise'}")
    return "\n".join(lines)


def _clips_with(table: Mapping[str, Any], order: list[int]) -> list[bool]:
    """Whether a control was run on each of the compared clips."""
    return [table["exact"][index] is not None for index in order]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: float, key: str, *, signed: bool) -> str:
    shown = f"{100 * value if key in SHARES else value:{'+' if signed else ''}.1f}"
    return f"{shown} %" if key in SHARES else shown


def _listed(clips: list[str]) -> str:
    return ", ".join(clips[:_LISTED]) + (", ..." if len(clips) > _LISTED else "") if clips else "none"
