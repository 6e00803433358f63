"""Declaring and checking the options of a training."""

import math
from dataclasses import field
from typing import Any


def option(default: object, text: str, **metadata: object) -> Any:
    """Declare a field of a dataclass of options.

    Args:
        default: Shown in brackets behind the text, unless the text has brackets of its own or the option is a switch.
        text: A whole phrase that starts with a noun or a verb, without a full stop.
        metadata: Further arguments of `ArgumentParser.add_argument`.
    """
    shown = default is not None and not isinstance(default, bool) and "[" not in text
    # argparse's formatter adds the default to a text that does not refer to it; `.0` refers to it but prints nothing.
    return field(
        default=default, metadata={"help": text + (" [%(default)s]" if shown else "%(default).0s"), **metadata}
    )


def check_least(arguments: object, **least: float) -> None:
    """Refuse options below their least value, or not finite; `None` passes.

    Args:
        arguments: A dataclass of options.
        least: The least value per option.

    Raises:
        ValueError: Names option, value and limit.
    """
    for name, limit in least.items():
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value >= limit):
            raise ValueError(f"--{name} {value} must be {limit} or more")


def check_above_zero(arguments: object, *names: str) -> None:
    """Refuse options that are not finite numbers above 0; `None` passes."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} {value} must be above 0")
