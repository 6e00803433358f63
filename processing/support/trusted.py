"""Third-party models through the Auto classes, without the code that may lie beside them."""

from collections.abc import Callable
from typing import Any, TypeVar

from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, cached_file

Loaded = TypeVar("Loaded")


class ForeignCodeError(ValueError):
    """A model that only its own code could load."""


def load_pretrained(load: Callable[..., Loaded], source: str, **options: Any) -> Loaded:
    """Load a folder or Hub id without running code in it, and without asking whether to.

    Args:
        load: `from_pretrained` of an Auto class.
        source: Folder or Hub id.
        options: Options of `load`.

    Raises:
        ForeignCodeError: If only code in `source` could load it.
        ValueError: If it is damaged; the message begins with `source`.
        OSError: If there is no such folder or Hub id.
        ImportError: If a package is missing.
    """
    try:
        return load(source, trust_remote_code=False, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:  # damaged configs, tokenizers and weights raise errors of any type
        if "trust_remote_code=True" in str(error):
            raise ForeignCodeError(
                f"{source}: needs code of its own, which is never run; choose one that transformers supports itself"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: {reason.removeprefix(f'{source}: ')}") from error


def has_frame_processor(source: str, **where: Any) -> bool:
    """Whether a folder or Hub id holds the file of an image or video processor, readable or not.

    Args:
        source: Folder or Hub id.
        where: `revision`, `token` and the like, as for `from_pretrained`.

    Raises:
        OSError: If the Hub cannot be reached.
    """
    where = {**where, "_raise_exceptions_for_missing_entries": False}
    return any(cached_file(source, name, **where) for name in (IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME))
