"""Weights of the pretrained parts of a captioner: whether there are some, and that they are those of their config."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from processing.support.trusted import load_pretrained

RANDOM = "random weights (the folder holds no safetensors)"
PROBLEMS = ("missing_keys", "mismatched_keys", "unexpected_keys")


def short_name(source: str) -> str:
    """A Hub id as it is, the last part of a folder's path."""
    return Path(source).name if Path(source).is_dir() else source


def has_weights(source: str) -> bool:
    """Whether a folder holds weights and no configuration alone; a Hub id is taken to."""
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    return not Path(source).is_dir() or any(Path(source, name).is_file() for name in names)


def load_weights(
    auto_class: Any,
    source: str,
    *,
    problems: tuple[str, ...] = PROBLEMS,
    optional: re.Pattern[str] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """A model in fp32, whatever precision its weights are stored in, since a captioner is trained from that.

    Args:
        auto_class: Such as `AutoModel`.
        source: Folder or Hub id; only safetensors are read.
        problems: What is refused, of [`PROBLEMS`].
        optional: Names of tensors that may be missing.
        options: For `from_pretrained`.

    Returns:
        The model, and what `output_loading_info` tells.

    Raises:
        ValueError: If tensors are missing, of another shape or unknown; or it cannot be loaded.
        OSError: If there is no such folder or Hub id.
    """
    options |= {"output_loading_info": True, "use_safetensors": True, "dtype": torch.float32}
    # A mismatch is refused here, by name; transformers would write a table of all.
    model, found = load_pretrained(auto_class.from_pretrained, source, ignore_mismatched_sizes=True, **options)
    for problem in problems:
        # Mismatches are told as (name, stored shape, the model's).
        names = sorted(name if isinstance(name, str) else name[0] for name in found[problem])
        if wrong := [name for name in names if optional is None or not optional.search(name)]:
            raise ValueError(
                f"{source}: its weights do not fit {model.config.model_type}, {problem.replace('_', ' ')}: "
                f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} ({len(wrong)} in all)"
            )
    return model, found
