"""Models of others, by the Auto classes, without the code that may lie beside them."""

from collections.abc import Callable
from typing import Any


class ForeignCodeError(ValueError):
    """A model that cannot be loaded without running code of its own."""


def load_pretrained(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What `load` makes of a folder or Hub id; code in it is not run, and nobody is asked whether it may be.

    Args:
        load: `from_pretrained` of an Auto class.
        source: Folder or Hub id.
        options: For `load`.

    Raises:
        ForeignCodeError: If only code in `source` could load it.
    """
    try:
        return load(source, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code=True" not in str(error):
            raise
        raise ForeignCodeError(
            f"{source}: needs code of its own, which is never run; take a model that transformers knows by itself"
        ) from error
