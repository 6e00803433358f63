"""`vidcap data inspect`: a data set -> a summary per split, and pictures."""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from .options import add_column_options, add_debug_option, whole

if TYPE_CHECKING:
    from .options import Subcommands

SPLITS = ("train", "validation", "test")
SHOWN = 3  # items to print of each kind
WIDTH = 100  # of an item, in letters
COLUMNS = {"min": "min", "p5": "5 %", "median": "median", "p95": "95 %", "max": "max"}


def add_inspect_command(subcommands: "Subcommands") -> None:
    """Add `inspect` to the subcommands of `vidcap data`."""
    inspect = subcommands.add_parser(
        "inspect",
        help="summarise a data set, and what looks wrong in it",
        description="Examine every clip and caption of a data set: counts, quantiles, vocabulary, clips that cannot "
        "be read or look suspicious, and content that splits share. The status is 1 if clips cannot be read, or if "
        "content of the train split is in another split.",
    )
    inspect.add_argument("dataset", metavar="FOLDER_OR_ID", help="data set in any form that vidcap train takes")
    inspect.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help=f"splits to examine [those of {', '.join(SPLITS)} that exist]"
    )
    inspect.add_argument(
        "--output",
        type=Path,
        dest="output_folder",
        metavar="DIR",
        help="folder for inspection.json and contact_sheet-SPLIT.png",
    )
    inspect.add_argument(
        "--limit", type=whole, metavar="N", help="clips to examine per split, counted from the first [all]"
    )
    inspect.add_argument("--workers", type=whole, metavar="N", help="threads that decode clips [one per core]")
    add_column_options(inspect)
    add_debug_option(inspect)
    inspect.set_defaults(run=partial(_run, inspect))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    repeated = [split for split, count in Counter(arguments.splits or ()).items() if count > 1]
    if repeated:
        parser.error(f"--splits names {repeated[0]} twice; name it once")
    folder = arguments.output_folder
    if folder is not None and folder.exists() and not folder.is_dir():
        parser.error(f"--output {folder} is a file; name a folder")

    from processing.clips.rows import has_split, load_clips
    from processing.clips.sources import Columns, DatasetError

    from ..data.contact_sheets import draw_clips, save_contact_sheet
    from ..data.inspecting import find_leaks, inspect_rows, summarise
    from ..data.leftovers import unused_files
    from ..files import write_atomically

    columns = Columns(arguments.video_column, arguments.caption_column)
    present = [split for split in SPLITS if has_split(arguments.dataset, split)]
    splits = arguments.splits or present
    # All are opened before a clip is read. If there is none, the error of `load_clips` says what it looked for.
    opened = {split: load_clips(arguments.dataset, split, columns=columns) for split in splits or SPLITS[:1]}
    if empty := [split for split, rows in opened.items() if not len(rows)]:
        raise DatasetError(f"{arguments.dataset}: the split {empty[0]} has no clips")
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
    inspection = {
        "dataset": str(arguments.dataset),
        "not_used": unused_files(arguments.dataset, dict.fromkeys(present) | opened),
        "splits": summaries,
        "leakage": find_leaks(clips),
    }
    if folder is not None:
        text = json.dumps(inspection, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / "inspection.json", text + "\n")
    print(describe_inspection(inspection))
    faults = find_faults(inspection)
    for fault in faults:
        print(f"vidcap: {fault}", file=sys.stderr)
    return 1 if faults else 0


def find_faults(inspection: dict[str, Any]) -> list[str]:
    """Reasons for status 1, one line each."""
    faults = []
    for split, summary in inspection["splits"].items():
        if count := len(summary["unreadable"]):
            faults.append(f"{split}: {count} of {summary['clips']} clips cannot be read")
    leaks = Counter(
        split
        for leak in inspection["leakage"]["content"]
        if "train" in leak["files"]
        for split in leak["files"]
        if split != "train"
    )
    return faults + [f"{split}: the content of {count} clips is also in train" for split, count in leaks.items()]


def describe_inspection(inspection: dict[str, Any]) -> str:
    """The inspection as text, with the first items of long lists."""
    from ..data.leftovers import describe_unused

    lines = [inspection["dataset"]]
    if inspection["not_used"]:
        lines.append(describe_unused(inspection["dataset"], inspection["not_used"]))
    for split, summary in inspection["splits"].items():
        lines += ["", *_describe_split(split, summary)]
    leakage = inspection["leakage"]
    if len(inspection["splits"]) > 1:
        lines += ["", f"clips with the same content in two splits: {len(leakage['content'])}"]
        for leak in leakage["content"][:SHOWN]:
            lines.append("  " + ", ".join(f"{split}: {' '.join(names)}" for split, names in leak["files"].items()))
        lines += _more(leakage["content"])
        lines += [f"clips that look the same in two splits, with other bytes: {len(leakage['near_content'])}"]
        for leak in leakage["near_content"][:SHOWN]:
            lines.append("  " + ", ".join(f"{split}: {name}" for split, name in leak["files"].items()))
        lines += _more(leakage["near_content"])
    for split, share in leakage["captions_in_train"].items():
        lines.append(f"captions of {split} that are also in train: {share:.1%}")
    return "\n".join(lines)


def _describe_split(split: str, summary: dict[str, Any]) -> list[str]:
    captions, part = summary["captions"], ""
    if summary["clips"] < summary["clips_in_split"]:
        part = f" (the first of {summary['clips_in_split']})"
    lines = [
        f"{split}: {summary['clips']} clips{part}, {captions['count']} captions, {captions['different']} different"
    ]
    lines.append(f"  {'':16}" + "".join(f"{title:>9}" for title in COLUMNS.values()))
    table = {"captions/clip": captions["per_clip"], "words/caption": captions["words"]}
    for name, values in (table | {name: summary[name] for name in ("seconds", "frames", "width", "height")}).items():
        if values is not None:
            lines.append(f"  {name:16}" + "".join(f"{values[column]:9.4g}" for column in COLUMNS))
    words = captions["vocabulary"]
    if words["words"]:
        lines.append(f"  vocabulary: {words['words']} words, {words['share_seen_once']:.1%} of which occur once")
    shared = [caption for caption in captions["most_frequent"] if caption["clips"] > 1]
    lines.append("  most frequent captions:" if shared else "  no two clips have the same caption")
    lines += [f"    {caption['share']:6.1%}  {shorten(caption['caption'], WIDTH)}" for caption in shared[:SHOWN]]
    if summary["repeated_content"]:
        lines.append(f"  clips with the content of an earlier one: {summary['repeated_content']}")
    if summary["unreadable"]:
        lines.append(f"  unreadable: {len(summary['unreadable'])}")
        lines += [f"    {clip['file_name']}: {clip['reason']}" for clip in summary["unreadable"][:SHOWN]]
        lines += _more(summary["unreadable"], "    ")
    return lines + _describe_suspicious(summary["suspicious"])


def _describe_suspicious(items: list[dict[str, str]]) -> list[str]:
    from ..data.inspecting import REASONS

    lines = []
    for reason, meaning in REASONS.items():
        suspects = [item for item in items if item["reason"] == reason]
        if suspects:
            lines.append(f"  suspicious, {meaning}: {len(suspects)}")
            lines += [f"    {item['file_name']}: {shorten(item['detail'], WIDTH)}" for item in suspects[:SHOWN]]
            lines += _more(suspects, "    ")
    return lines


def _more(items: list[Any], indent: str = "  ") -> list[str]:
    return [f"{indent}and {len(items) - SHOWN} more (--output lists all)"] if len(items) > SHOWN else []
