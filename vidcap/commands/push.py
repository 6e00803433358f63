"""`vidcap push`: a trained model -> the Hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Subcommands


def add_push_command(commands: "Subcommands") -> argparse.ArgumentParser:
    """Add `push` to the commands of `vidcap`."""
    push = commands.add_parser(
        "push",
        help="upload a trained model to the Hub",
        description="Upload a trained model to the Hub as one commit: wherever the upload breaks, the main revision "
        "is either unchanged or the whole model. The same command, given again, sends only what is missing.",
    )
    push.add_argument("directory", type=Path, metavar="DIR", help="output folder of a training run")
    push.add_argument("repo_id", metavar="USER/NAME", help="repository, created if needed")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--force", action="store_true", help="replace the content of the repository, whatever it is")
    push.set_defaults(run=_run)
    return push


def _run(arguments: argparse.Namespace) -> int:
    from hub_card import push_to_hub

    private = arguments.private or None
    print(push_to_hub(arguments.directory, arguments.repo_id, private=private, force=arguments.force))
    return 0
