"""Messages of the library, as a command prints them."""

import re

# Parameters that messages of the library name, and that are options of the same name.
OPTIONS = (
    "backbone",
    "backbone_stages",
    "caption_column",
    "contrastive_weight",
    "dataloader_num_workers",
    "device",
    "dtype",
    "feature_cache",
    "feature_cache_limit",
    "force",
    "frame_dropout",
    "fusion",
    "keep_share",
    "max_vocab_size",
    "min_score",
    "near_misses",
    "private",
    "skip_broken_clips",
    "streaming",
    "video_column",
    "video_dropout",
    "word_dropout",
)
_PARAMETER = re.compile(rf"(?<![\w./-])({'|'.join(OPTIONS)})=([\w.,-]*\w)")


def as_options(message: str) -> str:
    """Write parameters as options: `skip_broken_clips=True` as `--skip_broken_clips`, `limit=GB` as `--limit GB`."""
    return _PARAMETER.sub(lambda match: f"--{match[1]}" + f" {match[2]}" * (match[2] != "True"), message)
