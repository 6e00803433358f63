"""`vidcap cache`: decoded clips and features, listed, pruned, and exchanged with the Hub."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_debug_option, at_least_zero

if TYPE_CHECKING:
    from .options import Subcommands


def add_cache_command(commands: "Subcommands", parser_class: type[argparse.ArgumentParser]) -> None:
    """Add `cache` with its subcommands to the commands of `vidcap`."""
    cache = commands.add_parser("cache", help="list, prune, push or pull cached clips and features")
    subcommands = cache.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=parser_class)
    common = parser_class(add_help=False)
    common.add_argument(
        "--feature_cache", type=Path, metavar="DIR", help="folder of the cache [$VIDCAP_CACHE or ~/.cache/vidcap]"
    )
    add_debug_option(common)

    listing = subcommands.add_parser(
        "list", parents=[common], help="list the folders of the cache, one per backbone and way of reading clips"
    )
    listing.add_argument("--format", choices=("text", "json"), default="text", help="format of the output [text]")
    listing.set_defaults(run=_list)

    pruning = subcommands.add_parser(
        "prune",
        parents=[common],
        help="remove the clips that were used least recently",
        description="Remove the least recently used clips until the cache is no larger than --limit GB. Clips that "
        "running processes use stay.",
    )
    pruning.add_argument(
        "--limit",
        type=at_least_zero,
        metavar="GB",
        help="size of the cache to keep, in GB; 0 removes all clips that no process uses [$VIDCAP_CACHE_LIMIT]",
    )
    pruning.set_defaults(run=_prune)

    push = subcommands.add_parser(
        "push",
        parents=[common],
        help="upload a folder of the cache as a data set",
        description="Upload the clips of one backbone and way of reading clips. File names and the folder's name are "
        "included, captions only as hashes. Decoded frames are the clips themselves: make sure you may share them.",
    )
    push.add_argument("repo_id", metavar="USER/NAME", help="data set repository, created if needed")
    push.add_argument(
        "--folder", metavar="NAME", help="folder to upload, or the beginning of its name; see vidcap cache list"
    )
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.set_defaults(run=_push)

    pull = subcommands.add_parser(
        "pull",
        parents=[common],
        help="download a pushed folder into the cache",
        description="Download the clips that the cache lacks. Training and evaluation with the same backbone and way "
        "of reading clips then need the data set's captions and file names, but not its videos.",
    )
    pull.add_argument("repo_id", metavar="USER/NAME", help="data set made by vidcap cache push")
    pull.set_defaults(run=_pull)


def _root(arguments: argparse.Namespace) -> Path:
    from processing.cache.feature_cache import default_cache_folder

    return arguments.feature_cache or default_cache_folder()


def _list(arguments: argparse.Namespace) -> int:
    from datetime import datetime

    from hub_card.cache_sharing import folder_facts
    from processing.cache.upkeep import folders

    rows = sorted(map(folder_facts, folders(_root(arguments))), key=lambda row: -(row["last_used"] or 0))
    if arguments.format == "json":
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        content = "decoded frames" if row.get("content") == "frames" else f"features of {row['backbone']}"
        content += ", mirrored" if row.get("mirrored") else ""
        frames = f", {row['num_frames']} frames of {row['frame_size']}" if "num_frames" in row else ""
        last = f"{datetime.fromtimestamp(row['last_used']):%Y-%m-%d %H:%M}" if row["last_used"] else "never"
        used = "in use" if row["in_use"] else f"last used {last}"
        print(f"{row['folder']}  {row['clips']:,} clips, {row['gigabytes']:.3g} GB, {content}{frames}, {used}")
    print(f"{_root(arguments)}: {sum(row['gigabytes'] for row in rows):.3g} GB", file=sys.stderr)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from processing.cache.names import tidy_names
    from processing.cache.upkeep import GB, entries, folders, prune

    from ..inference.clip_cache import cache_limit

    root = _root(arguments)
    limit = cache_limit() if arguments.limit is None else int(arguments.limit * GB)
    if limit is None:
        raise ValueError("no size to prune to; give --limit GB, or set VIDCAP_CACHE_LIMIT")
    removed, left = prune(root, limit)
    tidy_names(root, {Path(entry.path).stem for folder in folders(root) for entry in entries(folder)})
    for folder, count in sorted(removed.items()):
        print(f"{folder}: {count} clips removed")
    print(f"{root}: {removed.total()} clips removed, {left / GB:.3g} GB left")
    if left > limit:
        print("vidcap: running processes use the rest", file=sys.stderr)
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from huggingface_hub.errors import HfHubHTTPError

    from hub_card.cache_sharing import choose_folder, explain, push_cache

    root = _root(arguments)
    folder = choose_folder(root, arguments.folder)
    try:
        url, clips = push_cache(root, folder, arguments.repo_id, private=arguments.private or None)
    except HfHubHTTPError as error:
        raise explain(error, arguments.repo_id) from error
    print(f"{clips} clips of {folder.name}", file=sys.stderr)
    print(url)
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from huggingface_hub.errors import HfHubHTTPError

    from hub_card.cache_sharing import explain, pull_cache

    from ..inference.clip_cache import cache_limit

    try:
        folder, clips, new = pull_cache(_root(arguments), arguments.repo_id, limit=cache_limit())
    except HfHubHTTPError as error:
        raise explain(error, arguments.repo_id) from error
    print(f"{folder}: {clips} clips, {new} of them new")
    return 0
