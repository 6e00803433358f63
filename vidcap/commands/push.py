"""`vidcap push`: a trained model -> the Hub."""

import argparse
from pathlib import Path
from typing import Any


def add_push_command(commands: Any) -> argparse.ArgumentParser:
    """Adds `push` to the commands of `vidcap`."""
    push = commands.add_parser(
        "push",
        help="upload a trained model to the Hub",
        description="Upload a trained model to the Hub as one commit: its main revision is what it was or the whole "
        "model, wherever the upload breaks. The same command again sends only what is missing.",
    )
    push.add_argument("directory", type=Path, metavar="DIR", help="output folder of a training run")
    push.add_argument("repo_id", metavar="USER/NAME", help="created if need be")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--force", action="store_true", help="replace what the repository holds, whatever it is")
    push.set_defaults(run=_run)
    return push


def _run(arguments: argparse.Namespace) -> int:
    from hub_card import push_to_hub

    private = arguments.private or None
    print(push_to_hub(arguments.directory, arguments.repo_id, private=private, force=arguments.force))
    return 0
