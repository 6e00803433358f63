"""Models of others, by the Auto classes, without the code that may lie beside them."""

from collections.abc import Callable
from typing import Any

from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, cached_file


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
        ValueError: If it is damaged; the message begins with `source`.
        OSError: If there is no such folder or Hub id.
        ImportError: If it needs a package that is missing.
    """
    try:
        return load(source, trust_remote_code=False, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:  # what a damaged config, tokenizer or weights file raises is of any type
        if "trust_remote_code=True" in str(error):
            raise ForeignCodeError(
                f"{source}: needs code of its own, which is never run; take a model that transformers knows by itself"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: {reason.removeprefix(f'{source}: ')}") from error


def has_frame_processor(source: str, **where: Any) -> bool:
    """Whether an image or video processor has a file in a folder or Hub id, be it readable or not.

    Args:
        source: Folder or Hub id.
        where: `revision`, `token` and the like, as for `from_pretrained`.

    Raises:
        OSError: If the Hub cannot be asked.
    """
    where = {**where, "_raise_exceptions_for_missing_entries": False}
    return any(cached_file(source, name, **where) for name in (IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME))
