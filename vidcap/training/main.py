"""`vidcap train` and `train_hf.py`: from a command line to an exit status."""

import logging
import os
import sys
import time

from .arguments.short_help import asks_for_help, short_help


def main(argv: list[str] | None = None, program: str = "train_hf.py") -> int:
    """Run one training.

    Args:
        argv: Arguments, by default those of the process.
        program: Name of the command in help and errors.

    Returns:
        The exit status: 1 for a mistake of the user, reported in one line.

    Raises:
        SystemExit: With status 2 on wrong usage, 0 after `--help all`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if asks_for_help(argv) == "short":
        print(short_help(program), end="")
        return 0
    from ..messages import as_options

    try:
        run(argv, program)
    except (ValueError, ImportError, OSError) as error:
        if os.environ.get("VIDCAP_DEBUG"):
            raise
        print(f"{program}: error: {as_options(str(error))}", file=sys.stderr)
        return 1
    return 0


def run(argv: list[str], program: str) -> None:
    """Run one training, and raise its errors.

    Args:
        program: Name of the command in errors.
    """
    started = time.perf_counter()
    from .arguments.command_line import parse
    from .run import train

    options = parse(argv, program)
    _configure_output()
    train(options, started)


def _configure_output() -> None:
    """Log this project's progress, without the libraries' bars in log files."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    from processing.support.progress import shows_bars

    logging.basicConfig(format="%(message)s")
    for name in ("hub_card", "modeling_vidcap", "processing", "vidcap"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not shows_bars():
        datasets.disable_progress_bars()
        disable_progress_bars()
        transformers_logging.disable_progress_bar()
