"""Which clips a run is trained, validated and tested on: those of one data set, or of several that are mixed."""

import itertools
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets

from processing import VideoDecodeError
from processing.clips.hub_files import fetch_clip
from processing.clips.mixtures import Mixture
from processing.clips.rows import SOURCE_COLUMN, has_split, join_sources, load_clips, split_off_validation
from processing.clips.sources import Columns, DatasetError

from ..data.cards import origin
from ..files import public_name
from .arguments.data_arguments import DataArguments
from .arguments.training_arguments import VideoCaptionTrainingArguments

logger = logging.getLogger("vidcap")
SHUFFLE_BUFFER = 1000  # rows, of all streams together
STREAM_SAMPLE = 20_000  # captions read ahead for the tokenizer when the data are streamed


@dataclass
class TrainingData:
    """What a run reads.

    Args:
        arguments: What it was told.
        train: The rows to train on; of streams a list, one for each data set.
        validation: The rows to choose the best checkpoint by.
        test: The rows to score at the end, of every data set that has some.
        mixture: Names and weights, where there are several data sets.
        texts: Of streams: the captions of `train` alone, for each data set in the same order.
    """

    arguments: DataArguments
    train: Any
    validation: datasets.Dataset
    test: datasets.Dataset | None
    mixture: Mixture | None
    texts: list[datasets.IterableDataset] | None = None

    def captions(self) -> list[list[str]]:
        """The captions of each training clip; of streams, those of the first ones."""
        if self.texts is None:
            return list(self.train["captions"])
        parts = [each.take(STREAM_SAMPLE // len(self.texts)) for each in self.texts]
        return [row["captions"] for row in itertools.chain(*parts)]

    def facts(self) -> list[dict[str, Any]]:
        """For the report: what [`counts`] and the data set's own card and manifest tell ([`origin`])."""
        return [{**counts, **origin(name)} for name, counts in zip(self.arguments.dataset, self.counts(), strict=True)]

    def counts(self) -> list[dict[str, Any]]:
        """Name, weight and numbers of clips of each data set, as far as they are known."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = {split: count_sources(rows, self.mixture) for split, rows in splits.items()}
        weights = self.arguments.dataset_weights
        return [
            {
                "name": public_name(name),
                **({"weight": weights[number]} if weights is not None else {}),
                **{split: found[number] for split, found in counts.items() if found is not None},
            }
            for number, name in enumerate(self.arguments.dataset)
        ]


def load_training_data(data: DataArguments, args: VideoCaptionTrainingArguments) -> TrainingData:
    """Opens the splits of every data set, and says what is used of each.

    Raises:
        ValueError: If a data set has no training split, nothing is left to validate on, or a stream has no end.
    """
    if data.streaming and args.max_steps <= 0 and args.max_train_minutes is None:
        raise ValueError("a stream has no known length: give --max_steps or --max_train_minutes")
    if data.streaming and args.dataloader_num_workers:
        raise ValueError(
            f"--dataloader_num_workers {args.dataloader_num_workers}: a stream is decoded by threads; give "
            f"--decoding_workers {args.dataloader_num_workers} in its place"
        )
    mixture = None
    if len(data.dataset) > 1:
        weights = tuple(data.dataset_weights) if data.dataset_weights is not None else None
        mixture = Mixture(tuple(data.dataset), weights)
    train: Any = [_load(data, number, data.train_split) for number in range(len(data.dataset))]
    texts = None
    validation = _load_where_present(data, data.validation_split)
    present = [each for each in validation if each is not None]
    if data.streaming:
        if not present:
            raise ValueError(
                f"a stream cannot give up a share: name a --validation_split, there is no {data.validation_split!r}"
            )
        share = -(-data.max_validation_clips // len(present))
        validation = [
            None
            if each is None
            else datasets.Dataset.from_list([_with_clip(row, data.skip_broken_clips) for row in each.take(share)])
            for each in validation
        ]
        texts = [_load(data, number, data.train_split, captions_only=True) for number in range(len(train))]
        shuffled = {
            "seed": args.draw_seed,
            "buffer_size": max(1, SHUFFLE_BUFFER // len(train)),
            "max_buffer_input_shards": 1,
        }
        train, texts = ([each.shuffle(**shuffled) for each in streams] for streams in (train, texts))
    else:
        if not present:
            parts = [_split_off(name, rows, args.seed) for name, rows in zip(data.dataset, train, strict=True)]
            train, validation = [part[0] for part in parts], [part[1] for part in parts]
            logger.info(f"no {data.validation_split} split: {sum(map(len, validation))} training clips serve")
        train = _join(train, mixture)
    rows = _join(validation, mixture)
    if len(rows) > data.max_validation_clips:
        rows = rows.shuffle(seed=args.seed).select(range(data.max_validation_clips))
    test = _load_where_present(data, data.test_split, stream=False)
    tested = None if all(each is None for each in test) else _join(test, mixture)
    found = TrainingData(data, train, rows, tested, mixture, texts)
    if mixture is not None:
        whole = sum(mixture.weights or (1.0,))
        for number, facts in enumerate(found.counts()):
            share_of = f"{mixture.weights[number] / whole:.1%} of the training clips; " if mixture.weights else ""
            counts = [f"{facts[split]:,} {split}" for split in ("train", "validation", "test") if split in facts]
            logger.info(f"{data.dataset[number]}: {share_of}clips: {', '.join(counts)}")
    return found


def count_sources(rows: Any, mixture: Mixture | None) -> list[int] | None:
    """How many clips of each data set are among the rows; of streams that is not known."""
    if isinstance(rows, list):
        return None
    if mixture is None:
        return [0 if rows is None else len(rows)]
    counts = Counter([] if rows is None else rows[SOURCE_COLUMN])
    return [counts[number] for number in range(len(mixture.names))]


def public_names(sources: list[str]) -> str | list[str | None] | None:
    """The names of data sets for the report: a single one stands alone."""
    names = [public_name(source) for source in sources]
    return names if len(names) > 1 else names[0]


def _load(
    data: DataArguments, number: int, split: str, *, stream: bool | None = None, captions_only: bool = False
) -> Any:
    """The rows of a split of one of the data sets."""
    video, caption = (
        None if each is None else each[number if len(each) > 1 else 0]
        for each in (data.video_column, data.caption_column)
    )
    columns = Columns(video, caption)
    streaming = data.streaming if stream is None else stream
    return load_clips(data.dataset[number], split, streaming=streaming, columns=columns, captions_only=captions_only)


def _load_where_present(data: DataArguments, split: str, *, stream: bool | None = None) -> list[Any]:
    return [
        _load(data, number, split, stream=stream) if has_split(name, split) else None
        for number, name in enumerate(data.dataset)
    ]


def _with_clip(row: dict[str, Any], missing: bool) -> dict[str, Any]:
    """A row of a stream to keep; where clips may be `missing`, such a one stays a name, and counts when it is read."""
    try:
        return {**row, "video": fetch_clip(row["video"])}
    except VideoDecodeError:
        if not missing:
            raise
        return row


def _split_off(name: str, rows: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    try:
        return split_off_validation(rows, seed=seed)
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from error


def _join(parts: list[Any], mixture: Mixture | None) -> datasets.Dataset:
    return parts[0] if mixture is None else join_sources(parts)
