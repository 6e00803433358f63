"""What a training run can be told about where its clips come from and where what is decoded of them is kept."""

import math
import os
from dataclasses import dataclass, field

from .argument_bounds import check_above_zero


@dataclass
class SourceArguments:
    dataset: list[str] = field(
        metadata={
            "help": "Folder in videofolder form, Hub data set id, or a file (.csv, .tsv, .jsonl, .parquet, .tar); "
            "several are mixed."
        }
    )
    dataset_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "Share of the training clips to draw from each of several data sets, such as 2 1 1 [all clips of "
            "all, once an epoch]."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Of every data set."})
    validation_split: str = field(
        default="validation",
        metadata={"help": "Of every data set that has it; if none does, 5 %% of train take its place."},
    )
    test_split: str = field(default="test", metadata={"help": "Scored once, at the end, where it exists."})
    video_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of clips in tables, Parquet, WebDataset and on the Hub, one for all data sets or one for "
            "each [recognised]."
        },
    )
    caption_column: list[str] | None = field(
        default=None, metadata={"help": "Column of captions in these [recognised]."}
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder of decoded clips and features [$VIDCAP_CACHE or ~/.cache/vidcap]."}
    )
    feature_cache_limit: float | None = field(
        default=None,
        metadata={"help": "Its size in GB; clips that no run has used for longest are removed [$VIDCAP_CACHE_LIMIT]."},
    )

    def __post_init__(self) -> None:
        count = len(self.dataset)
        seen: dict[str, str] = {}
        for name in self.dataset:
            known = os.path.realpath(name) if os.path.exists(name) else name
            if known in seen:
                raise ValueError(
                    f"--dataset {seen[known]} and {name} are the same: name it once, and give it a larger weight"
                )
            seen[known] = name
        if self.dataset_weights is not None:
            weights = " ".join(f"{weight:g}" for weight in self.dataset_weights)
            if len(self.dataset_weights) != count:
                raise ValueError(
                    f"--dataset_weights {weights}: {_counted(len(self.dataset_weights), 'weight')} for "
                    f"{_counted(count, 'data set')} ({', '.join(self.dataset)}); give one for each"
                )
            for name, weight in zip(self.dataset, self.dataset_weights, strict=True):
                if not (math.isfinite(weight) and weight > 0):
                    raise ValueError(
                        f"--dataset_weights {weights}: that of {name} is {weight:g}, not a number above 0; leave the "
                        "data set out if it is not to be used"
                    )
        for option in ("video_column", "caption_column"):
            given = getattr(self, option)
            if given is not None and len(given) not in (1, count):
                raise ValueError(
                    f"--{option} {' '.join(given)}: {len(given)} for {_counted(count, 'data set')}; give one for all "
                    "of them, or one for each"
                )
        check_above_zero(self, "feature_cache_limit")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
