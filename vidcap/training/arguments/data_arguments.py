"""What a training run can be told about where its clips come from and where what is decoded of them is kept."""

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from .bounds import check_above_zero, check_least


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


@dataclass
class DataArguments(SourceArguments):
    recipe: str | None = field(default=None, metadata={"help": "Name of a file in recipes/, without .yaml."})
    streaming: bool = field(default=False, metadata={"help": "Read clips as they come and store nothing."})
    skip_broken_clips: bool = field(
        default=False, metadata={"help": "Leave out clips that cannot be read; list them."}
    )
    max_validation_clips: int = field(default=500, metadata={"help": "Clips captioned at each evaluation."})
    feature_backend: Literal["auto", "torch", "openvino"] = field(
        default="auto",
        metadata={
            "help": "Engine that computes features; openvino is an extra [openvino where it is installed and the CPU "
            "has instructions for bf16, else torch]."
        },
    )
    augment: str = field(
        default="none",
        metadata={
            "help": "Parts of the augmentation of training clips, such as crop,flip=0.3,color,speed, or none. Flip "
            "mirrors where no caption tells a side; crop, color and hue need pixels that are read anew (--backbone "
            "cnn, or --streaming)."
        },
    )
    frame_pool: int | None = field(
        default=None,
        metadata={
            "help": "Frames that are kept of each training clip; every look at it takes num_frames of them, one at "
            "random of each of as many stretches [num_frames: always the same ones]."
        },
    )
    direction_words: str | None = field(
        default=None, metadata={"help": "Further words, comma-separated, that keep a clip from being mirrored."}
    )
    near_misses: str | None = field(
        default=None,
        metadata={
            "help": "Hard negatives of the contrastive loss, captions that nearly fit: word, order, or word,order."
        },
    )
    text_corpus: str | None = field(
        default=None, metadata={"help": "File of sentences, one a line, on which the decoder is trained first."}
    )
    decoding_workers: int | None = field(default=None, metadata={"help": "Threads that decode clips [one a core]."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, max_validation_clips=1, decoding_workers=1)
