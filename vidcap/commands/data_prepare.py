"""`vidcap data prepare`: published annotations and their clips -> a data set to train on. Adds the other commands
of `vidcap data`, too."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..data.annotations import READERS, SPLIT_FORMATS, URL_FORMATS
from ..data.cleaning import RULES
from .data_filter import add_filter_command
from .data_inspect import add_inspect_command
from .option_types import above_zero, share, whole, whole_or_none

FETCH_OPTIONS = ("connections", "rate", "timeout", "retries", "backoff", "max_bytes")  # as in `FetchOptions`
SHARE_DEFAULT = 0.05


def add_data_commands(commands: Any, parser_class: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `data` with its subcommands to those of `vidcap`.

    Args:
        commands: What `add_subparsers` of the main parser returned.
        parser_class: The class of the parsers.

    Returns:
        The parser of `data prepare`; its `run` takes the parsed arguments and returns the exit status.
    """
    data = commands.add_parser("data", help="make data sets to train on")
    subcommands = data.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=parser_class)
    prepare = subcommands.add_parser(
        "prepare",
        help="published annotations and their clips -> a data set",
        description="Turn a published caption file and its clips into a data set: find or fetch each clip, check that "
        "it can be read and moves, clean the captions, and write shards, manifest.json (counts and hashes), "
        "refused.jsonl (what was left out, and why) and a card. The same command again goes on where it "
        "stopped, and fetches what is missing.",
    )
    prepare.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="the caption file, as published")
    prepare.add_argument("--format", required=True, choices=tuple(READERS), help="what kind of file it is")
    # Not `output`: for other commands that is a file.
    prepare.add_argument(
        "--output", required=True, type=Path, dest="output_folder", metavar="DIR", help="folder of the data set"
    )
    prepare.add_argument("--clips", type=Path, metavar="DIR", help="clips that are there already, by file name or id")
    prepare.add_argument("--workers", type=whole, default=1, metavar="N", help="clips decoded at once [1]")
    prepare.add_argument(
        "--keep", nargs="+", choices=RULES, default=[], metavar="RULE", help=f"no cleaning by it: {', '.join(RULES)}"
    )

    splits = prepare.add_argument_group("splits, where the annotations name none")
    splits.add_argument("--split", choices=("train", "validation", "test"), help="the split of all clips")
    splits.add_argument(
        "--split_lists",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="train.txt, val.txt, test.txt: files named by splits, a source in each line",
    )
    for name in ("validation", "test"):
        splits.add_argument(
            f"--{name}",
            type=share,
            metavar="SHARE",
            help=f"share of {name}, by a hash of the source [{SHARE_DEFAULT}]",
        )

    shards = prepare.add_argument_group("what is written")
    shards.add_argument(
        "--shards",
        choices=("parquet", "webdataset", "folder"),
        default="parquet",
        help="folder: SPLIT/metadata.jsonl beside its clips [parquet]",
    )
    shards.add_argument("--license", metavar="ID", help="for its card, as the Hub writes it: cc-by-4.0")
    shards.add_argument("--shard_mb", type=whole, metavar="N", help="most megabytes of clips in a shard [256]")

    fetching = prepare.add_argument_group("fetching")
    fetching.add_argument("--no_fetch", action="store_true", help="take clips from --clips only")
    fetching.add_argument("--connections", type=whole, metavar="N", help="files fetched at once [4]")
    fetching.add_argument("--rate", type=above_zero, metavar="X", help="most requests a second to one host [4]")
    fetching.add_argument("--timeout", type=above_zero, metavar="S", help="seconds a server may stay silent [30]")
    fetching.add_argument("--retries", type=whole_or_none, metavar="N", help="new attempts after a failure [4]")
    fetching.add_argument("--backoff", type=above_zero, metavar="S", help="seconds before the first, then doubled [1]")
    fetching.add_argument("--max_bytes", type=whole, metavar="N", help="largest file [256 MB]")
    fetching.add_argument("--retry_gone", action="store_true", help="ask again for what was gone (404, 410)")
    prepare.set_defaults(run=partial(_run_prepare, prepare))
    add_inspect_command(subcommands)
    add_filter_command(subcommands)
    return prepare


def _run_prepare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _check_prepare(parser, arguments)
    if arguments.shards == "parquet":
        import datasets  # noqa: F401  # of an extra: better missed now than after hours of fetching

    from ..data.fetching import FetchOptions
    from ..data.preparing import PrepareOptions, prepare

    fetch = None
    if not arguments.no_fetch and arguments.format in URL_FORMATS:
        chosen = {name: getattr(arguments, name) for name in FETCH_OPTIONS if getattr(arguments, name) is not None}
        fetch = FetchOptions(**chosen, retry_gone=arguments.retry_gone)
    options = PrepareOptions(
        format=arguments.format,
        clips=arguments.clips,
        split=arguments.split,
        split_lists=tuple(arguments.split_lists),
        validation=_given(arguments, "validation", SHARE_DEFAULT),
        test=_given(arguments, "test", SHARE_DEFAULT),
        keep=tuple(arguments.keep),
        shards=arguments.shards,
        shard_bytes=_given(arguments, "shard_mb", 256) << 20,
        workers=arguments.workers,
        fetch=fetch,
        license=arguments.license,
    )
    manifest = prepare(arguments.annotations, arguments.output_folder, options)
    print(describe_manifest(manifest, arguments.output_folder))
    return 0


def describe_manifest(manifest: dict[str, Any], folder: Path) -> str:
    """What came of it, in a few lines."""
    refused = [f"{count} {reason}" for reason, count in manifest["refused"].items() if count]
    lines = [f"{folder}: {manifest['kept']} of {manifest['annotated']} clips kept ({manifest['coverage']:.1%})"]
    for split, counts in manifest["splits"].items():
        if counts["annotated"]:
            lines.append(f"  {split}: {counts['kept']} of {counts['annotated']} ({counts['coverage']:.1%})")
    captions = manifest["captions"]
    lines.append(f"captions: {captions['kept']} of {captions['annotated']}")
    if refused:
        lines.append(f"refused: {', '.join(refused)}; see {folder / 'refused.jsonl'}")
    return "\n".join(lines)


def _check_prepare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Options that contradict each other, and names that lead nowhere."""
    fetches = not arguments.no_fetch and arguments.format in URL_FORMATS
    if arguments.clips is None and not fetches:
        why = "--no_fetch" if arguments.no_fetch else f"--format {arguments.format} names no files to fetch"
        parser.error(f"{why}: say by --clips where the clips are")
    given = [name for name in FETCH_OPTIONS if getattr(arguments, name) is not None]
    given += ["retry_gone"] if arguments.retry_gone else []
    if given and not fetches:
        why = "--no_fetch" if arguments.no_fetch else f"--format {arguments.format}"
        parser.error(f"--{given[0]} is for fetching, and {why} fetches nothing: leave one of them out")
    ways = [f"--format {arguments.format}"] if arguments.format in SPLIT_FORMATS else []
    ways += [f"--split {arguments.split}"] if arguments.split else []
    ways += ["--split_lists"] if arguments.split_lists else []
    shares = [f"--{name}" for name in ("validation", "test") if getattr(arguments, name) is not None]
    if len(ways + shares[:1]) > 1:
        parser.error(f"{' and '.join((ways + shares)[:2])} both say in which split a clip is: leave one of them out")
    if sum(_given(arguments, name, SHARE_DEFAULT) for name in ("validation", "test")) >= 1:
        parser.error("--validation and --test leave nothing to train on: their sum must be below 1")
    if arguments.shards == "folder" and arguments.shard_mb is not None:
        parser.error("--shards folder writes no shards: leave --shard_mb out")
    if arguments.clips is not None and not arguments.clips.is_dir():
        parser.error(f"--clips {arguments.clips}: no such folder")
    for path in (arguments.annotations, *arguments.split_lists):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    if arguments.output_folder.exists() and not arguments.output_folder.is_dir():
        parser.error(f"--output {arguments.output_folder} is a file; name a folder")


def _given(arguments: argparse.Namespace, name: str, default: Any) -> Any:
    value = getattr(arguments, name)
    return default if value is None else value
