"""`vidcap data inspect`: a data set -> a summary of each split, and where wanted a file of all of it and pictures."""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from .option_types import whole

SPLITS = ("train", "validation", "test")
SHOWN = 3  # items of a kind that are printed
WIDTH = 100  # letters of each
COLUMNS = {"min": "min", "p5": "5 %", "median": "median", "p95": "95 %", "max": "max"}


def add_inspect_command(subcommands: Any) -> argparse.ArgumentParser:
    """Adds `inspect` to the subcommands of `vidcap data`."""
    inspect = subcommands.add_parser(
        "inspect",
        help="say what is in a data set, and what looks wrong",
        description="Look at every clip and caption of a data set: counts, quantiles, vocabulary, clips that cannot "
        "be read or look suspicious, and content that splits share. The status is 1 if clips cannot be read or "
        "content of train is in another split.",
    )
    inspect.add_argument("dataset", metavar="FOLDER_OR_ID", help="data set in any of the forms that train takes")
    inspect.add_argument("--splits", nargs="+", metavar="SPLIT", help=f"[those that are there of {', '.join(SPLITS)}]")
    inspect.add_argument(
        "--output",
        type=Path,
        dest="output_folder",
        metavar="DIR",
        help="write inspection.json and contact_sheet-SPLIT.png there",
    )
    inspect.add_argument("--limit", type=whole, metavar="N", help="the first N clips of each split only")
    inspect.add_argument("--workers", type=whole, metavar="N", help="clips decoded at once [one a core]")
    inspect.add_argument("--video_column", metavar="NAME", help="column of the clips [recognised]")
    inspect.add_argument("--caption_column", metavar="NAME", help="column of the captions [recognised]")
    inspect.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    inspect.set_defaults(run=partial(_run, inspect))
    return inspect


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    repeated = [split for split, count in Counter(arguments.splits or ()).items() if count > 1]
    if repeated:
        parser.error(f"--splits names {repeated[0]} twice")
    folder = arguments.output_folder
    if folder is not None and folder.exists() and not folder.is_dir():
        parser.error(f"--output {folder} is a file; name a folder")

    from processing.clips.rows import has_split, load_clips
    from processing.clips.sources import Columns, DatasetError

    from ..data.contact_sheets import draw_clips, save_contact_sheet
    from ..data.inspecting import find_leaks, inspect_rows, summarise
    from ..files import write_atomically

    columns = Columns(arguments.video_column, arguments.caption_column)
    splits = arguments.splits or [split for split in SPLITS if has_split(arguments.dataset, split)]
    # All are opened before a clip is read. Where there is none, `load_clips` says what it looked for.
    opened = {split: load_clips(arguments.dataset, split, columns=columns) for split in splits or SPLITS[:1]}
    if empty := [split for split, rows in opened.items() if not len(rows)]:
        raise DatasetError(f"{arguments.dataset}: {empty[0]} has no clips")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    clips, summaries = {}, {}
    for split, rows in opened.items():
        part = rows.select(range(min(arguments.limit or len(rows), len(rows))))
        clips[split] = inspect_rows(part, f"inspecting {split}", workers=arguments.workers)
        summaries[split] = {"clips_in_split": len(rows), **summarise(clips[split])}
        readable = [index for index, clip in enumerate(clips[split]) if not clip.error]
        if folder is not None and readable:
            shown = [part[index] for index in draw_clips(readable)]
            save_contact_sheet(shown, folder / f"contact_sheet-{split}.png")
    inspection = {"dataset": str(arguments.dataset), "splits": summaries, "leakage": find_leaks(clips)}
    if folder is not None:
        text = json.dumps(inspection, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / "inspection.json", text + "\n")
    print(describe_inspection(inspection))
    faults = find_faults(inspection)
    for fault in faults:
        print(f"vidcap: {fault}", file=sys.stderr)
    return 1 if faults else 0


def find_faults(inspection: dict[str, Any]) -> list[str]:
    """Why the status is 1, in one line each; none if it is 0."""
    faults = []
    for split, summary in inspection["splits"].items():
        if count := len(summary["unreadable"]):
            faults.append(f"{split}: {count} of {summary['clips']} clips cannot be read")
    leaks = Counter(
        split
        for each in inspection["leakage"]["content"]
        if "train" in each["files"]
        for split in each["files"]
        if split != "train"
    )
    return faults + [f"{split}: {count} of its clips' contents are in train, too" for split, count in leaks.items()]


def describe_inspection(inspection: dict[str, Any]) -> str:
    """The inspection as text to read; of long lists the first items."""
    lines = [f"{inspection['dataset']}"]
    for split, summary in inspection["splits"].items():
        lines += ["", *_describe_split(split, summary)]
    leakage = inspection["leakage"]
    if len(inspection["splits"]) > 1:
        lines += ["", f"contents that two splits share: {len(leakage['content'])}"]
        for each in leakage["content"][:SHOWN]:
            lines.append("  " + ", ".join(f"{split}: {' '.join(names)}" for split, names in each["files"].items()))
        lines += _more(leakage["content"])
        lines += [f"clips of two splits that look the same, with other bytes: {len(leakage['near_content'])}"]
        for each in leakage["near_content"][:SHOWN]:
            lines.append("  " + ", ".join(f"{split}: {name}" for split, name in each["files"].items()))
        lines += _more(leakage["near_content"])
    for split, share in leakage["captions_in_train"].items():
        lines.append(f"captions of {split} that train has, too: {share:.1%}")
    return "\n".join(lines)


def _describe_split(split: str, summary: dict[str, Any]) -> list[str]:
    captions, part = summary["captions"], ""
    if summary["clips"] < summary["clips_in_split"]:
        part = f" (the first of {summary['clips_in_split']})"
    lines = [
        f"{split}: {summary['clips']} clips{part}, {captions['count']} captions, {captions['different']} different"
    ]
    lines.append(f"  {'':16}" + "".join(f"{title:>9}" for title in COLUMNS.values()))
    table = {"captions a clip": captions["per_clip"], "words a caption": captions["words"]}
    for name, found in (table | {name: summary[name] for name in ("seconds", "frames", "width", "height")}).items():
        if found is not None:
            lines.append(f"  {name:16}" + "".join(f"{found[column]:9.4g}" for column in COLUMNS))
    words = captions["vocabulary"]
    if words["words"]:
        lines.append(f"  vocabulary: {words['words']} words, {words['share_seen_once']:.1%} of them seen once")
    shared = [each for each in captions["most_frequent"] if each["clips"] > 1]
    lines.append("  most frequent captions:" if shared else "  no two clips have the same caption")
    lines += [f"    {each['share']:6.1%}  {shorten(each['caption'], WIDTH)}" for each in shared[:SHOWN]]
    if summary["repeated_content"]:
        lines.append(f"  clips with the content of an earlier one: {summary['repeated_content']}")
    if summary["unreadable"]:
        lines.append(f"  unreadable: {len(summary['unreadable'])}")
        lines += [f"    {each['file_name']}: {each['reason']}" for each in summary["unreadable"][:SHOWN]]
        lines += _more(summary["unreadable"], "    ")
    return lines + _describe_suspicious(summary["suspicious"])


def _describe_suspicious(items: list[dict[str, str]]) -> list[str]:
    from ..data.inspecting import REASONS

    lines = []
    for reason, meaning in REASONS.items():
        found = [each for each in items if each["reason"] == reason]
        if found:
            lines.append(f"  suspicious, {meaning}: {len(found)}")
            lines += [f"    {each['file_name']}: {shorten(each['detail'], WIDTH)}" for each in found[:SHOWN]]
            lines += _more(found, "    ")
    return lines


def _more(items: list[Any], indent: str = "  ") -> list[str]:
    return [f"{indent}and {len(items) - SHOWN} more; --output writes all"] if len(items) > SHOWN else []
