"""What numbers the options of a training may be: mistakes show before any clip is read, not at the end of the run."""

import math
from typing import Any


def check_least(arguments: Any, **least: float) -> None:
    """Refuses options that are below the least value that makes sense, or no finite number; None means not given.

    Args:
        arguments: A dataclass of options.
        least: The least value of each, by name.

    Raises:
        ValueError: Names option, value and limit.
    """
    for name, limit in least.items():
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value >= limit):
            raise ValueError(f"--{name} {value} must be {limit} or more")


def check_above_zero(arguments: Any, *names: str) -> None:
    """The same for options that may be any finite number above 0."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} {value} must be above 0")
