"""`vidcap compare`: two reports on the same clips -> significant differences."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_debug_option, whole

if TYPE_CHECKING:
    from .options import Subcommands


def add_compare_command(commands: "Subcommands") -> None:
    """Add `compare` to the commands of `vidcap`."""
    command = commands.add_parser(
        "compare",
        help="compare two reports",
        description="Compare two reports of vidcap evaluate or vidcap train on the same clips: each score and "
        "control, with the 95 % interval of a paired bootstrap over the clips.",
    )
    command.add_argument("first", type=Path, metavar="A/report.json", help="earlier report")
    command.add_argument("second", type=Path, metavar="B/report.json", help="later report")
    command.add_argument("--format", choices=("text", "json"), default="text", help="format of the output [text]")
    command.add_argument(
        "--common_clips", action="store_true", help="compare the clips that both reports have, if their clips differ"
    )
    command.add_argument("--samples", type=whole, default=1000, metavar="N", help="bootstrap draws [1000]")
    add_debug_option(command)
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..evaluation.compare import compare_reports, describe_comparison, read_report

    first, second = read_report(arguments.first), read_report(arguments.second)
    comparison = compare_reports(
        first,
        second,
        names=(str(arguments.first), str(arguments.second)),
        common_clips=arguments.common_clips,
        samples=arguments.samples,
    )
    if arguments.format == "json":
        print(json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(describe_comparison(comparison))
    return 0
