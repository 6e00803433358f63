"""Options of the command line that captioners of other families have, and what of the others they refuse."""

import argparse
from typing import Any

DTYPES = ("auto", "bfloat16", "float16", "float32")


def add_family_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `vidcap caption` and `vidcap evaluate` take for models of other families."""
    group = parser.add_argument_group("models of other families", "GIT, VisionEncoderDecoder and chat models")
    group.add_argument("--prompt", metavar="TEXT", help="what a chat model is asked [for one sentence]")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights [the checkpoint's]")


def load_for_command(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Loads `arguments.model`, with its frames and prompt as the command line says.

    Returns:
        A model of this package and its processor, or an adapter in the place of both.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For an option that makes no sense for it, before any clip is read.
    """
    from ..adapters.base import CaptionAdapter
    from ..inference.loading import load_any_captioner

    model, processor = load_any_captioner(arguments.model, device=arguments.device, dtype=arguments.dtype)
    if isinstance(model, CaptionAdapter):
        model.check_options(vars(arguments), prefix="--")
        if arguments.backend == "openvino":
            raise ValueError(f"--backend {arguments.backend} is for models of `vidcap train`: leave it out")
        model.configure(num_frames=arguments.num_frames, prompt=arguments.prompt)
    elif arguments.prompt is not None:
        raise ValueError("--prompt is for chat models, those of `vidcap train` take none: leave it out")
    return model, processor
