"""Loading of pretrained weights, with a check that they fit their config."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from processing.support.trusted import load_pretrained

RANDOM = "random weights (the folder holds no safetensors)"
PROBLEMS = ("missing_keys", "mismatched_keys", "unexpected_keys")


def short_name(source: str) -> str:
    """A Hub id, or the name of a folder without its parents."""
    return Path(source).name if Path(source).is_dir() else source


def has_weights(source: str) -> bool:
    """Whether a folder holds weights beside its configuration; assumed of a Hub id."""
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    return not Path(source).is_dir() or any(Path(source, name).is_file() for name in names)


def load_weights(
    auto_class: type,
    source: str,
    *,
    problems: tuple[str, ...] = PROBLEMS,
    optional: re.Pattern[str] | None = None,
    **options,
) -> tuple[Any, dict[str, Any]]:
    """A pretrained model in fp32, from which a captioner is trained, whatever the stored precision.

    Args:
        auto_class: For example `AutoModel`.
        source: Folder or Hub id; only safetensors are read.
        problems: Those of [`PROBLEMS`] that are refused.
        optional: Names of tensors that may be missing.
        options: For `from_pretrained`.

    Returns:
        The model, and the information of `output_loading_info`.

    Raises:
        ValueError: If the model cannot be loaded, or tensors are missing, unknown or of another shape.
        OSError: If there is no such folder or Hub id.
    """
    options |= {"output_loading_info": True, "use_safetensors": True, "dtype": torch.float32}
    loader: Any = auto_class
    # Mismatches are refused below, by name; transformers would print a table of all.
    model, info = load_pretrained(loader.from_pretrained, source, ignore_mismatched_sizes=True, **options)
    for problem in problems:
        # A mismatch is (name, stored shape, expected shape).
        names = sorted(name if isinstance(name, str) else name[0] for name in info[problem])
        if wrong := [name for name in names if optional is None or not optional.search(name)]:
            raise ValueError(
                f"{source}: the weights do not fit the config of type {model.config.model_type}, "
                f"{problem.replace('_', ' ')}: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} ({len(wrong)} "
                "in all); take another checkpoint"
            )
    return model, info
