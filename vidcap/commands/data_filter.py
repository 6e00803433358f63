"""`vidcap data filter`: a data set and a trained model -> a data set without the captions that fit worst."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import within_data_set
from .option_types import cosine, share_kept, whole

if TYPE_CHECKING:
    from ..data.filtering import ScoredPair

KEEP_SHARE = 0.9


def add_filter_command(subcommands: Any) -> argparse.ArgumentParser:
    """Adds `filter` to the subcommands of `vidcap data`."""
    command = subcommands.add_parser(
        "filter",
        help="leave out captions that do not fit their clips",
        description="Score every caption by how well a trained model finds that it fits its clip, and write a new "
        "data set of those that do, with scores.jsonl, the worst first. The data set given stays as it is. The "
        "status is 1 if clips cannot be read.",
    )
    command.add_argument("dataset", metavar="FOLDER_OR_ID", help="data set in any of the forms that train takes")
    command.add_argument("--split", default="train", help="[train]")
    command.add_argument(
        "--model", required=True, metavar="DIR_OR_ID", help="a model trained with a contrastive loss, the default"
    )
    command.add_argument(
        "--output", required=True, type=Path, dest="output_folder", metavar="DIR", help="a new folder"
    )
    rule = command.add_mutually_exclusive_group()
    rule.add_argument(
        "--keep_share", type=share_kept, metavar="SHARE", help=f"keep this share, the best captions [{KEEP_SHARE}]"
    )
    rule.add_argument("--min_score", type=cosine, metavar="X", help="keep captions of this cosine or a higher one")
    command.add_argument("--batch_size", type=whole, default=16, metavar="N", help="clips taken at once [16]")
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is any"
    )
    command.add_argument("--video_column", metavar="NAME", help="column of the clips [recognised]")
    command.add_argument("--caption_column", metavar="NAME", help="column of the captions [recognised]")
    command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    command.set_defaults(run=partial(_run, command))
    return command


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    folder = arguments.output_folder
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        parser.error(f"--output {folder} is there already; name a new folder")
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
            f"vidcap: {len(unreadable)} of {len(rows)} clips cannot be read; see {folder / 'unreadable.jsonl'}",
            file=sys.stderr,
        )
    return 1 if unreadable else 0


def describe_filtered(folder: Path, pairs: Sequence["ScoredPair"], kept: Sequence[bool]) -> str:
    """What came of it, in a few lines."""
    from ..data.inspecting import quantiles

    clips = len({pair.row for pair in pairs})
    chosen = [pair for pair, each in zip(pairs, kept, strict=True) if each]
    scores = quantiles(pair.score for pair in pairs) or {}
    return "\n".join(
        [
            f"{folder}: {len(chosen)} of {len(pairs)} captions kept, of {len({pair.row for pair in chosen})} of "
            f"{clips} clips; their scores are {min(pair.score for pair in chosen):.3f} or more",
            "scores of all: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()),
            f"the worst are the first in {folder / 'scores.jsonl'}",
        ]
    )
