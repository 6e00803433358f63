"""`vidcap cache`: what is kept of clips that were decoded once; less of it, and to and from the Hub."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .option_types import at_least_zero


def add_cache_command(commands: Any, parser_class: type[argparse.ArgumentParser]) -> None:
    """Adds `cache` with its subcommands to those of `vidcap`."""
    cache = commands.add_parser("cache", help="features and decoded clips: list, prune, push, pull")
    subcommands = cache.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=parser_class)
    common = parser_class(add_help=False)
    common.add_argument(
        "--feature_cache", type=Path, metavar="DIR", help="the cache [$VIDCAP_CACHE or ~/.cache/vidcap]"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of a failure")

    listing = subcommands.add_parser(
        "list", parents=[common], help="a line for each backbone and way of reading clips, the last used first"
    )
    listing.add_argument("--format", choices=("text", "json"), default="text", help="[text]")
    listing.set_defaults(run=_list)

    pruning = subcommands.add_parser(
        "prune",
        parents=[common],
        help="remove what was used least recently",
        description="Remove clips until the cache takes --limit GB, those first that no run has used for longest. "
        "Those of running processes stay.",
    )
    pruning.add_argument(
        "--limit", type=at_least_zero, metavar="GB", help="0 removes all that is in no use [$VIDCAP_CACHE_LIMIT]"
    )
    pruning.set_defaults(run=_prune)

    push = subcommands.add_parser(
        "push",
        parents=[common],
        help="upload a folder of the cache as a data set",
        description="Upload the clips of one backbone and way of reading clips. File names (with that of the folder) "
        "go along, captions as hashes only. Decoded frames are the clips themselves: see that you may share them.",
    )
    push.add_argument("repo_id", metavar="USER/NAME", help="created if need be")
    push.add_argument("--folder", metavar="NAME", help="which one, or how its name begins; see vidcap cache list")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.set_defaults(run=_push)

    pull = subcommands.add_parser(
        "pull",
        parents=[common],
        help="fetch what was pushed",
        description="Fetch the clips that the cache lacks. Training and evaluation with the same backbone and way of "
        "reading clips then need the captions and file names of the data set, but none of its videos.",
    )
    pull.add_argument("repo_id", metavar="USER/NAME", help="a data set made by vidcap cache push")
    pull.set_defaults(run=_pull)


def _root(arguments: argparse.Namespace) -> Path:
    from processing.cache.feature_cache import default_cache_folder

    return arguments.feature_cache or default_cache_folder()


def _list(arguments: argparse.Namespace) -> int:
    from datetime import datetime

    from hub_card.cache_sharing import folder_facts
    from processing.cache.upkeep import folders

    found = sorted(map(folder_facts, folders(_root(arguments))), key=lambda each: -(each["last_used"] or 0))
    if arguments.format == "json":
        print(json.dumps(found, indent=1))
        return 0
    for each in found:
        what = "decoded frames" if each.get("content") == "frames" else f"features of {each['backbone']}"
        what += ", mirrored" if each.get("mirrored") else ""
        frames = f", {each['num_frames']} frames of {each['frame_size']}" if "num_frames" in each else ""
        last = f"{datetime.fromtimestamp(each['last_used']):%Y-%m-%d %H:%M}" if each["last_used"] else "never"
        used = "in use" if each["in_use"] else f"last used {last}"
        print(f"{each['folder']}  {each['clips']:,} clips, {each['gigabytes']:.3g} GB, {what}{frames}, {used}")
    print(f"{_root(arguments)}: {sum(each['gigabytes'] for each in found):.3g} GB", file=sys.stderr)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from processing.cache.names import tidy_names
    from processing.cache.upkeep import GB, entries, folders, prune

    from ..inference.clip_cache import cache_limit

    root = _root(arguments)
    limit = cache_limit() if arguments.limit is None else int(arguments.limit * GB)
    if limit is None:
        raise ValueError("how much may be left? give --limit GB, or set VIDCAP_CACHE_LIMIT")
    removed, left = prune(root, limit)
    tidy_names(root, {Path(each.path).stem for folder in folders(root) for each in entries(folder)})
    for folder, count in sorted(removed.items()):
        print(f"{folder}: {count} clips removed")
    print(f"{root}: {removed.total()} clips removed, {left / GB:.3g} GB left")
    if left > limit:
        print("vidcap: the rest is in use by running processes", file=sys.stderr)
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
