"""Options of the command line that captioners of other families have, and what of the others they refuse."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..captioner import Captioner

DTYPES = ("auto", "bfloat16", "float16", "float32")


def add_family_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `vidcap caption` and `vidcap evaluate` take for models of other families."""
    group = parser.add_argument_group("models of other families", "GIT, VisionEncoderDecoder and chat models")
    group.add_argument("--prompt", metavar="TEXT", help="what a chat model is asked [for one sentence]")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights [the checkpoint's]")


def load_for_command(arguments: argparse.Namespace) -> "Captioner":
    """Loads `arguments.model`, with the frames and the prompt of the command line.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For an option that it does not have, before any clip is read.
    """
    from ..inference.loading import load_any_captioner

    captioner = load_any_captioner(arguments.model, device=arguments.device, dtype=arguments.dtype)
    captioner.check_options(vars(arguments), prefix="--")
    captioner.configure(num_frames=arguments.num_frames, prompt=arguments.prompt)
    return captioner
