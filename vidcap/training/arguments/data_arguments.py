"""Options of a training on its data."""

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from .options import check_above_zero, check_least, option


@dataclass
class SourceArguments:
    dataset: list[str] = field(
        metadata={
            "help": "Data sets to train on, mixed if there are several: folders in videofolder form, Hub ids, or "
            "files (.csv, .tsv, .jsonl, .parquet, .tar) (required)%(default).0s"
        }
    )
    dataset_weights: list[float] | None = option(
        None,
        "Shares of the training clips to draw from several data sets, such as 2 1 1 [every clip of each data set once "
        "per epoch]",
    )
    train_split: str = option("train", "Split to train on, in every data set")
    validation_split: str = option(
        "validation", "Split to choose checkpoints by; 5 %% of the training split are set aside if no data set has it"
    )
    test_split: str = option("test", "Split to score once at the end, where it exists")
    video_column: list[str] | None = option(
        None,
        "Columns of the clips in tables, Parquet, WebDataset and Hub data sets: one for all data sets, or one per "
        "data set [recognised]",
    )
    caption_column: list[str] | None = option(
        None, "Columns of the captions: one for all data sets, or one per data set [recognised]"
    )
    feature_cache: str | None = option(
        None, "Folder for decoded clips and features [$VIDCAP_CACHE or ~/.cache/vidcap]"
    )
    feature_cache_limit: float | None = option(
        None, "Size limit of the feature cache in GB; least recently used clips are removed [$VIDCAP_CACHE_LIMIT]"
    )

    def __post_init__(self) -> None:
        count = len(self.dataset)
        seen: dict[str, str] = {}
        for name in self.dataset:
            path = os.path.realpath(name) if os.path.exists(name) else name
            if path in seen:
                raise ValueError(
                    f"--dataset {seen[path]} and {name} are the same: name it once, and give it a larger weight"
                )
            seen[path] = name
        if self.dataset_weights is not None:
            weights = " ".join(f"{weight:g}" for weight in self.dataset_weights)
            if len(self.dataset_weights) != count:
                raise ValueError(
                    f"--dataset_weights {weights}: {_counted(len(self.dataset_weights), 'weight')} for "
                    f"{_counted(count, 'data set')} ({', '.join(self.dataset)}); give one per data set"
                )
            for name, weight in zip(self.dataset, self.dataset_weights, strict=True):
                if not (math.isfinite(weight) and weight > 0):
                    raise ValueError(
                        f"--dataset_weights {weights}: the weight of {name} is {weight:g}, not a number above 0; to "
                        "train without it, drop it from --dataset"
                    )
        for name in ("video_column", "caption_column"):
            columns = getattr(self, name)
            if columns is not None and len(columns) not in (1, count):
                raise ValueError(
                    f"--{name} {' '.join(columns)}: {_counted(len(columns), 'column')} for "
                    f"{_counted(count, 'data set')}; give one for all of them, or one per data set"
                )
        check_above_zero(self, "feature_cache_limit")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass
class DataArguments(SourceArguments):
    _argument_group_name = "data"  # read by HfArgumentParser

    recipe: str | None = option(None, "Recipe to start from: the name of a file in recipes/, without .yaml")
    streaming: bool = option(False, "Read clips as they arrive and store nothing")
    skip_broken_clips: bool = option(False, "Leave out clips that cannot be read, and list them in the report")
    max_validation_clips: int = option(500, "Validation clips to caption at each evaluation, at most")
    feature_backend: Literal["auto", "torch", "openvino"] = option(
        "auto",
        "Engine that computes features [openvino if its extra is installed and the CPU has bf16 instructions, "
        "otherwise torch]",
    )
    augment: str = option(
        "none",
        "Augmentation of training clips: parts such as crop,flip=0.3,color,speed, or none. Flip mirrors clips whose "
        "captions name no side; crop, color and hue need clips that are decoded again (--backbone cnn or --streaming)",
    )
    frame_pool: int | None = option(
        None,
        "Frames to keep per training clip; num_frames of them are drawn each time the clip is used [num_frames, "
        "without drawing]",
    )
    direction_words: str | None = option(
        None, "Additional words, comma-separated, whose presence in a caption keeps the clip from being mirrored"
    )
    near_misses: str | None = option(
        None, "Hard negatives of the contrastive loss, captions that nearly fit: word, order, or word,order"
    )
    text_corpus: str | None = option(None, "Text file, one sentence per line, to train the decoder on first")
    decoding_workers: int | None = option(None, "Threads that decode clips [one per core]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, max_validation_clips=1, decoding_workers=1)
