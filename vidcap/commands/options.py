"""Options that several commands have, and types of their values."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]  # what `add_subparsers` returns

Number = TypeVar("Number", int, float)


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device that runs the model [auto: a GPU if there is one]",
    )


def add_batch_size_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch_size", type=whole, default=16, metavar="N", help="clips per batch [16]")


def add_model_option(
    parser: argparse.ArgumentParser, text: str = "captioner to use: a folder, or a Hub id user/name"
) -> None:
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help=text)


def add_column_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--video_column", metavar="NAME", help="column of the clips [recognised]")
    parser.add_argument("--caption_column", metavar="NAME", help="column of the captions [recognised]")


def checked(text: str, kind: str, read: Callable[[str], Number], fits: Callable[[Number], bool]) -> Number:
    """Read a finite value.

    Raises:
        argparse.ArgumentTypeError: If it cannot be read or does not fit; the message says that it is not `kind`.
    """
    try:
        value = read(text)
    except ValueError:
        value = None
    if value is None or not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return value


def whole(text: str) -> int:
    """A whole number of at least 1."""
    return checked(text, "a whole number of at least 1", int, lambda value: value >= 1)


def whole_or_none(text: str) -> int:
    """A whole number of at least 0."""
    return checked(text, "a whole number of at least 0", int, lambda value: value >= 0)


def number(kind: str, fits: Callable[[float], bool] = math.isfinite) -> Callable[[str], float]:
    """The type of finite numbers that fit; `kind` describes them."""
    return lambda text: checked(text, kind, float, fits)


share = number("a share from 0 to below 1", lambda value: 0 <= value < 1)
share_kept = number("a share above 0, up to 1", lambda value: 0 < value <= 1)
cosine = number("a number from -1 to 1", lambda value: -1 <= value <= 1)
above_zero = number("a number above 0", lambda value: value > 0)
at_least_zero = number("a number of at least 0", lambda value: value >= 0)


def control_names(text: str) -> tuple[str, ...]:
    """Comma-separated names of controls of an evaluation, `all`, or `none`."""
    from ..evaluation.controls.controls import CONTROLS

    if text in ("all", "none"):
        return tuple(CONTROLS) if text == "all" else ()
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in CONTROLS]:
        raise argparse.ArgumentTypeError(
            f"there is no control {unknown[0]!r}; name all, none, or some of {','.join(CONTROLS)}"
        )
    return names
