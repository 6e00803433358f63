"""`vidcap compare`: two reports of the same clips -> what changed, and whether it is more than noise."""

import argparse
import json
from pathlib import Path
from typing import Any

from .option_types import whole


def add_compare_command(commands: Any) -> argparse.ArgumentParser:
    """Adds `compare` to the commands of `vidcap`."""
    command = commands.add_parser(
        "compare",
        help="say what changed between two reports",
        description="Compare two reports of vidcap evaluate or train on the same clips: each score and control, with "
        "the 95 % interval of a paired bootstrap over the clips.",
    )
    command.add_argument("first", type=Path, metavar="A/report.json", help="the report before")
    command.add_argument("second", type=Path, metavar="B/report.json", help="the report after")
    command.add_argument("--format", choices=("text", "json"), default="text", help="[text]")
    command.add_argument(
        "--common_clips", action="store_true", help="compare the clips that both have, where one has others, too"
    )
    command.add_argument("--samples", type=whole, default=1000, metavar="N", help="draws of the bootstrap [1000]")
    command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    command.set_defaults(run=_run)
    return command


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
