"""`vidcap data prepare`: published annotations and their clips -> a data set."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data.annotations import ARCHIVED_FORMATS, READERS, SPLIT_FORMATS, URL_FORMATS
from ..data.cleaning import RULES
from .data_filter import add_filter_command
from .data_inspect import add_inspect_command
from .options import above_zero, share, whole, whole_or_none

if TYPE_CHECKING:
    from .options import Subcommands

Value = TypeVar("Value")

FETCH_OPTIONS = ("connections", "rate", "timeout", "retries", "backoff", "max_bytes")  # fields of `FetchOptions`
SHARE_DEFAULT = 0.05


def add_data_commands(commands: "Subcommands", parser_class: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `data` with its subcommands to the commands of `vidcap`.

    Returns:
        The parser of `data prepare`.
    """
    data = commands.add_parser("data", help="prepare, inspect or filter a data set")
    subcommands = data.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=parser_class)
    prepare = subcommands.add_parser(
        "prepare",
        help="make a data set from published annotations and their clips",
        description="Turn a published caption file and its clips into a data set: find or fetch each clip, check that "
        "it can be read and that its picture moves, clean the captions, and write shards, manifest.json (counts and "
        "hashes), refused.jsonl (clips left out, with reasons) and a card. The same command, given again, continues "
        "where it stopped and fetches what is missing.",
    )
    prepare.add_argument(
        "annotations",
        type=Path,
        metavar="ANNOTATIONS",
        help="caption file, as published; of MSVD also the folder of sents_train_lc_nopunc.txt and others",
    )
    prepare.add_argument("--format", required=True, choices=tuple(READERS), help="format of the caption file")
    # Not `output`, which is a file in other commands.
    prepare.add_argument(
        "--output", required=True, type=Path, dest="output_folder", metavar="DIR", help="folder for the data set"
    )
    prepare.add_argument("--clips", type=Path, metavar="DIR", help="folder of local clips, named by file name or id")
    prepare.add_argument("--workers", type=whole, default=1, metavar="N", help="threads that decode clips [1]")
    prepare.add_argument(
        "--keep",
        nargs="+",
        choices=RULES,
        default=[],
        metavar="RULE",
        help=f"cleaning rules not to apply, of {', '.join(RULES)}",
    )

    splits = prepare.add_argument_group("splits, if the annotations name none")
    splits.add_argument("--split", choices=("train", "validation", "test"), help="split of all clips")
    splits.add_argument(
        "--split_lists",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="files named after splits (train.txt, val.txt, test.txt), with one source per line",
    )
    for name in ("validation", "test"):
        splits.add_argument(
            f"--{name}",
            type=share,
            metavar="SHARE",
            help=f"share of the {name} split, drawn by a hash of the source [{SHARE_DEFAULT}]",
        )

    shards = prepare.add_argument_group("output")
    shards.add_argument(
        "--shards",
        choices=("parquet", "webdataset", "folder"),
        default="parquet",
        help="form of the data set; folder: SPLIT/metadata.jsonl beside its clips [parquet]",
    )
    shards.add_argument(
        "--license", metavar="ID", help="licence for the card, in the Hub's spelling, such as cc-by-4.0"
    )
    shards.add_argument("--shard_mb", type=whole, metavar="N", help="maximum size of a shard, in megabytes [256]")

    fetching = prepare.add_argument_group("fetching")
    fetching.add_argument("--no_fetch", action="store_true", help="use the clips of --clips alone")
    fetching.add_argument(
        "--fetch",
        action="store_true",
        help=f"fetch each file by itself, although {' and '.join(ARCHIVED_FORMATS)} offers archives of them",
    )
    fetching.add_argument("--connections", type=whole, metavar="N", help="parallel downloads [4]")
    fetching.add_argument("--rate", type=above_zero, metavar="X", help="requests per second to one host, at most [4]")
    fetching.add_argument("--timeout", type=above_zero, metavar="S", help="seconds that a server may stay silent [30]")
    fetching.add_argument("--retries", type=whole_or_none, metavar="N", help="further attempts after a failure [4]")
    fetching.add_argument(
        "--backoff",
        type=above_zero,
        metavar="S",
        help="seconds to wait before the first retry, doubled for each later one [1]",
    )
    fetching.add_argument("--max_bytes", type=whole, metavar="N", help="size limit of a file in bytes [256 MB]")
    fetching.add_argument("--retry_gone", action="store_true", help="request files again that were gone (404, 410)")
    prepare.set_defaults(run=partial(_run_prepare, prepare))
    add_inspect_command(subcommands)
    add_filter_command(subcommands)
    return prepare


def _run_prepare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _check_prepare(parser, arguments)
    if arguments.shards == "parquet":
        import datasets  # noqa: F401  # fails now if it is missing, not after hours of fetching

    from ..data.fetching import FetchOptions
    from ..data.preparing import PrepareOptions, prepare

    fetch = None
    if _fetches(arguments):
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
    """Summarise the result in a few lines."""
    refused = [f"{count} {reason}" for reason, count in manifest["refused"].items() if count]
    lines = [f"{folder}: kept {manifest['kept']} of {manifest['annotated']} clips ({manifest['coverage']:.1%})"]
    for split, counts in manifest["splits"].items():
        if counts["annotated"]:
            lines.append(f"  {split}: {counts['kept']} of {counts['annotated']} ({counts['coverage']:.1%})")
    if manifest["missing_example"]:
        lines.append(f"missing, such as: {manifest['missing_example']}")
    captions = manifest["captions"]
    lines.append(f"captions: kept {captions['kept']} of {captions['annotated']}")
    if refused:
        lines.append(f"refused: {', '.join(refused)}; {folder / 'refused.jsonl'} lists them")
    return "\n".join(lines)


def _check_prepare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, and files that do not exist."""
    fetches = _fetches(arguments)
    if arguments.fetch and not fetches:
        reason = "--no_fetch" if arguments.no_fetch else f"--format {arguments.format}"
        parser.error(f"--fetch has no effect beside {reason}; leave one of them out")
    if arguments.clips is None and not fetches:
        reason = "--no_fetch" if arguments.no_fetch else f"--format {arguments.format} names no files to fetch"
        if arguments.format in ARCHIVED_FORMATS and not arguments.no_fetch:
            reason = f"--format {arguments.format} fetches files one by one only with --fetch"
        parser.error(f"{reason}: name the folder of the clips by --clips")
    given = [name for name in FETCH_OPTIONS if getattr(arguments, name) is not None]
    given += ["retry_gone"] if arguments.retry_gone else []
    if given and not fetches:
        unasked = " without --fetch" if arguments.format in ARCHIVED_FORMATS else ""
        reason = "--no_fetch" if arguments.no_fetch else f"--format {arguments.format}{unasked}"
        parser.error(f"--{given[0]} has no effect, since {reason} fetches nothing; leave one of them out")
    sources = [f"--format {arguments.format}"] if arguments.format in SPLIT_FORMATS else []
    sources += [f"--split {arguments.split}"] if arguments.split else []
    sources += ["--split_lists"] if arguments.split_lists else []
    shares = [f"--{name}" for name in ("validation", "test") if getattr(arguments, name) is not None]
    if len(sources + shares[:1]) > 1:
        parser.error(f"{' and '.join((sources + shares)[:2])} both assign clips to splits; leave one of them out")
    if sum(_given(arguments, name, SHARE_DEFAULT) for name in ("validation", "test")) >= 1:
        parser.error("--validation and --test leave nothing to train on; their sum must be below 1")
    if arguments.shards == "folder" and arguments.shard_mb is not None:
        parser.error("--shard_mb has no effect, since --shards folder writes no shards; leave it out")
    if arguments.clips is not None and not arguments.clips.is_dir():
        parser.error(f"--clips {arguments.clips}: no such folder")
    for path in (arguments.annotations, *arguments.split_lists):
        folder_of_lists = arguments.format == "msvd" and path == arguments.annotations and path.is_dir()
        if not path.is_file() and not folder_of_lists:
            parser.error(f"{path}: no such file")
    if arguments.output_folder.exists() and not arguments.output_folder.is_dir():
        parser.error(f"--output {arguments.output_folder} is a file; name a folder")


def _fetches(arguments: argparse.Namespace) -> bool:
    asked = arguments.fetch or arguments.format not in ARCHIVED_FORMATS
    return asked and not arguments.no_fetch and arguments.format in URL_FORMATS


def _given(arguments: argparse.Namespace, name: str, default: Value) -> Value:
    value = getattr(arguments, name)
    return default if value is None else value
