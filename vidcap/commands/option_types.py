"""Kinds of values that options of the command line take; a value of another kind is named in one line."""

import argparse
import math
from collections.abc import Callable
from typing import Any


def checked(text: str, kind: str, read: Callable[[str], Any], fits: Callable[[Any], bool]) -> Any:
    """The finite value that `read` makes of `text`.

    Raises:
        argparse.ArgumentTypeError: If there is none, or it does not fit; the message says that it is not `kind`.
    """
    try:
        value = read(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return value


def whole(text: str) -> int:
    """A whole number above 0."""
    return checked(text, "a whole number of at least 1", int, lambda value: value >= 1)


def whole_or_none(text: str) -> int:
    """A whole number, 0 included."""
    return checked(text, "a whole number of at least 0", int, lambda value: value >= 0)


def share(text: str) -> float:
    """A share that leaves something: 0, but not 1."""
    return checked(text, "a share from 0 to below 1", float, lambda value: 0 <= value < 1)


def share_kept(text: str) -> float:
    """A share that keeps something: 1, but not 0."""
    return checked(text, "a share above 0, up to 1", float, lambda value: 0 < value <= 1)


def cosine(text: str) -> float:
    """A cosine."""
    return checked(text, "a number from -1 to 1", float, lambda value: -1 <= value <= 1)


def above_zero(text: str) -> float:
    """A number above 0."""
    return checked(text, "a number above 0", float, lambda value: value > 0)


def control_names(text: str) -> tuple[str, ...]:
    """Names of controls of an evaluation, comma-separated; `all` and `none` stand for themselves."""
    from ..evaluation.controls.controls import CONTROLS

    if text in ("all", "none"):
        return tuple(CONTROLS) if text == "all" else ()
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in CONTROLS]:
        raise argparse.ArgumentTypeError(f"there is no control {unknown[0]!r}: all, none, or of {','.join(CONTROLS)}")
    return names


def at_least_zero(text: str) -> float:
    """A number of at least 0."""
    return checked(text, "a number of at least 0", float, lambda value: value >= 0)


def number(kind: str, fits: Callable[[float], bool] = math.isfinite) -> Callable[[str], float]:
    """The type of a finite number that `fits`; `kind` says which ones do."""
    return lambda text: checked(text, kind, float, fits)
