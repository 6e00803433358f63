"""`vidcap data filter`: a data set -> the same without its worst-fitting captions."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import within_data_set
from .options import (
    add_batch_size_option,
    add_column_options,
    add_debug_option,
    add_device_option,
    add_model_option,
    cosine,
    share_kept,
)

if TYPE_CHECKING:
    from ..data.filtering import ScoredPair
    from .options import Subcommands

KEEP_SHARE = 0.9


def add_filter_command(subcommands: "Subcommands") -> None:
    """Add `filter` to the subcommands of `vidcap data`."""
    command = subcommands.add_parser(
        "filter",
        help="leave out captions that do not fit their clips",
        description="Score by a trained model how well each caption fits its clip, and write a new data set of the "
        "best-fitting captions, with scores.jsonl, worst first. The given data set stays unchanged. The status is 1 "
        "if clips cannot be read.",
    )
    command.add_argument("dataset", metavar="FOLDER_OR_ID", help="data set in any form that vidcap train takes")
    command.add_argument("--split", default="train", help="split to filter [train]")
    add_model_option(command, "captioner trained with a contrastive loss: a folder, or a Hub id user/name")
    command.add_argument(
        "--output", required=True, type=Path, dest="output_folder", metavar="DIR", help="new folder for the data set"
    )
    rule = command.add_mutually_exclusive_group()
    rule.add_argument(
        "--keep_share",
        type=share_kept,
        metavar="SHARE",
        help=f"share of the captions to keep, best first [{KEEP_SHARE}]",
    )
    rule.add_argument("--min_score", type=cosine, metavar="X", help="lowest cosine of captions to keep")
    add_batch_size_option(command)
    add_device_option(command)
    add_column_options(command)
    add_debug_option(command)
    command.set_defaults(run=partial(_run, command))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    folder = arguments.output_folder
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        parser.error(f"--output {folder} exists already; name a new folder")
    if not folder.parent.is_dir():
        parser.error(f"--output {folder}: no such folder: {folder.parent}")
    if within_data_set(folder, arguments.dataset):
        parser.error(f"--output {folder} lies within the data set; name a folder elsewhere")

    from processing.clips.rows import load_clips
    from processing.clips.sources import Columns

    from ..data.filtering import choose_kept, score_pairs, write_filtered
    from ..inference.backends import use_fast_backbone
    from ..inference.loading import check_compares, load_captioner

    model, processor = load_captioner(arguments.model, device=arguments.device)
    check_compares(model, arguments.model)
    columns = Columns(arguments.video_column, arguments.caption_column)
    rows = load_clips(arguments.dataset, arguments.split, columns=columns)
    use_fast_backbone(model, processor)
    pairs, unreadable = score_pairs(model, processor, rows, batch_size=arguments.batch_size)
    if not pairs:
        raise ValueError(f"none of the {len(rows)} clips can be read")
    keep_share = arguments.keep_share
    if keep_share is None and arguments.min_score is None:
        keep_share = KEEP_SHARE
    kept = choose_kept(pairs, keep_share=keep_share, min_score=arguments.min_score)
    write_filtered(folder, arguments.split, rows, pairs, kept, unreadable)
    print(describe_filtered(folder, pairs, kept))
    if unreadable:
        print(
            f"vidcap: {len(unreadable)} of {len(rows)} clips cannot be read; {folder / 'unreadable.jsonl'} lists them",
            file=sys.stderr,
        )
    return 1 if unreadable else 0


def describe_filtered(folder: Path, pairs: Sequence["ScoredPair"], kept: Sequence[bool]) -> str:
    """Summarise the result in a few lines."""
    from ..data.inspecting import quantiles

    clips = len({pair.row for pair in pairs})
    chosen = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    scores = quantiles(pair.score for pair in pairs) or {}
    return "\n".join(
        [
            f"{folder}: kept {len(chosen)} of {len(pairs)} captions, on {len({pair.row for pair in chosen})} of "
            f"{clips} clips, with scores of {min(pair.score for pair in chosen):.3f} or more",
            "scores of all captions: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()),
            f"{folder / 'scores.jsonl'} lists them, worst first",
        ]
    )
