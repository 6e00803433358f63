"""Rows of the splits of a run, from one or several data sets."""

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
from processing.support.progress import plural

from ..data.cards import origin
from ..data.leftovers import describe_unused, unused_files
from ..files import public_name
from .arguments.data_arguments import DataArguments
from .arguments.training_arguments import VideoCaptionTrainingArguments

logger = logging.getLogger(__name__)
SHUFFLE_BUFFER = 1000  # rows, over all streams
STREAM_SAMPLE = 20_000  # captions read ahead for the tokenizer when the data are streamed


@dataclass
class TrainingData:
    """Rows of the splits of a run.

    Args:
        arguments: Options on data.
        train: Rows to train on; a list of streams, one per data set, if they are streamed.
        validation: Rows to choose the best checkpoint by.
        test: Rows to score at the end, from every data set that has some.
        mixture: Names and weights of several data sets.
        texts: Captions of `train` alone, if they are streamed, per data set in the same order.
    """

    arguments: DataArguments
    train: datasets.Dataset | list[datasets.IterableDataset]
    validation: datasets.Dataset
    test: datasets.Dataset | None
    mixture: Mixture | None
    texts: list[datasets.IterableDataset] | None = None

    def captions(self) -> list[list[str]]:
        """Captions of each training clip; of streams, those of the first clips."""
        if self.texts is None:
            assert isinstance(self.train, datasets.Dataset)
            return list(self.train["captions"])
        parts = [stream.take(STREAM_SAMPLE // len(self.texts)) for stream in self.texts]
        return [row["captions"] for row in itertools.chain(*parts)]

    def facts(self) -> list[dict[str, Any]]:
        """Facts per data set for the report: [`counts`] and [`origin`]."""
        return [{**counts, **origin(name)} for name, counts in zip(self.arguments.dataset, self.counts(), strict=True)]

    def counts(self) -> list[dict[str, Any]]:
        """Name, weight and known numbers of clips per data set."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = {split: count_sources(rows, self.mixture) for split, rows in splits.items()}
        weights = self.arguments.dataset_weights
        return [
            {
                "name": public_name(name),
                **({"weight": weights[number]} if weights is not None else {}),
                **{split: numbers[number] for split, numbers in counts.items() if numbers is not None},
            }
            for number, name in enumerate(self.arguments.dataset)
        ]


def load_training_data(data: DataArguments, args: VideoCaptionTrainingArguments) -> TrainingData:
    """Open the splits of every data set.

    Raises:
        ValueError: If a data set has no training split, nothing is left to validate on, or a stream has no end.
    """
    if data.streaming and args.max_steps <= 0 and args.max_train_minutes is None:
        raise ValueError("--streaming needs --max_steps or --max_train_minutes, since a stream has no known length")
    if data.streaming and args.dataloader_num_workers:
        raise ValueError(
            f"--dataloader_num_workers {args.dataloader_num_workers}: a stream is decoded by threads; use "
            f"--decoding_workers {args.dataloader_num_workers} instead"
        )
    mixture = None
    if len(data.dataset) > 1:
        weights = tuple(data.dataset_weights) if data.dataset_weights is not None else None
        mixture = Mixture(tuple(data.dataset), weights)
    train: list[Any] = [_load(data, number, data.train_split) for number in range(len(data.dataset))]
    validation = _load_where_present(data, data.validation_split)
    test = _load_where_present(data, data.test_split, stream=False)
    _log_unused(data, {data.train_split: train, data.validation_split: validation, data.test_split: test})
    texts = None
    if data.streaming:
        validation = _take_validation(data, validation)
        texts = [_load(data, number, data.train_split, captions_only=True) for number in range(len(train))]
        shuffled = {
            "seed": args.draw_seed,
            "buffer_size": max(1, SHUFFLE_BUFFER // len(train)),
            "max_buffer_input_shards": 1,
        }
        train, texts = ([stream.shuffle(**shuffled) for stream in streams] for streams in (train, texts))
    elif all(part is None for part in validation):
        parts = [_split_off(name, rows, args.seed) for name, rows in zip(data.dataset, train, strict=True)]
        train, validation = [part[0] for part in parts], [part[1] for part in parts]
        count = sum(map(len, validation))
        clips = f"{count} {plural('clip', count)}"
        logger.info(f"no {data.validation_split} split: validating on {clips} set aside from training")
    rows = _join(validation, mixture)
    if len(rows) > data.max_validation_clips:
        rows = rows.shuffle(seed=args.seed).select(range(data.max_validation_clips))
    tested = None if all(part is None for part in test) else _join(test, mixture)
    if not data.streaming and (caption := _only_caption(train)) is not None:
        logger.warning(
            f"all training clips have the caption {caption!r:.100}: there is nothing to learn from them; name another "
            "--caption_column, or write what happens in each"
        )
    loaded = TrainingData(data, train if data.streaming else _join(train, mixture), rows, tested, mixture, texts)
    if mixture is not None:
        _log_mixture(loaded, mixture)
    return loaded


def _log_unused(data: DataArguments, splits: dict[str, list[Any]]) -> None:
    """One line for each data set with files that no split of the run uses."""
    for number, name in enumerate(data.dataset):
        used = {split: rows[number] for split, rows in splits.items() if rows[number] is not None}
        if items := unused_files(name, used):
            logger.warning(f"{name}: {describe_unused(name, items)}")


def _only_caption(parts: list[datasets.Dataset]) -> str | None:
    """The caption that all clips have, if there is but one."""
    captions = (caption for rows in parts for row in rows.select_columns(["captions"]) for caption in row["captions"])
    first = next(captions)
    return first if all(caption == first for caption in captions) else None


def _take_validation(data: DataArguments, streams: list[Any]) -> list[datasets.Dataset | None]:
    """Validation clips from the beginning of streams, an equal share from each."""
    present = sum(stream is not None for stream in streams)
    if not present:
        raise ValueError(
            f"there is no {data.validation_split!r} split, and none can be set aside from a stream; name one by "
            "--validation_split"
        )
    share = -(-data.max_validation_clips // present)
    return [
        None
        if stream is None
        else datasets.Dataset.from_list([_with_clip(row, data.skip_broken_clips) for row in stream.take(share)])
        for stream in streams
    ]


def _log_mixture(data: TrainingData, mixture: Mixture) -> None:
    whole = sum(mixture.weights or (1.0,))
    for number, (name, facts) in enumerate(zip(mixture.names, data.counts(), strict=True)):
        share = f"{mixture.weights[number] / whole:.1%} of the training clips; " if mixture.weights else ""
        counts = [f"{facts[split]:,} {split}" for split in ("train", "validation", "test") if split in facts]
        logger.info(f"{name}: {share}clips: {', '.join(counts)}")


def count_sources(
    rows: datasets.Dataset | list[datasets.IterableDataset] | None, mixture: Mixture | None
) -> list[int] | None:
    """Number of clips per data set; `None` for streams."""
    if isinstance(rows, list):
        return None
    if mixture is None:
        return [0 if rows is None else len(rows)]
    counts = Counter([] if rows is None else rows[SOURCE_COLUMN])
    return [counts[number] for number in range(len(mixture.names))]


def public_names(sources: list[str]) -> str | list[str | None] | None:
    """Names of data sets for the report; a single one stands alone."""
    names = [public_name(source) for source in sources]
    return names if len(names) > 1 else names[0]


def _load(
    data: DataArguments, number: int, split: str, *, stream: bool | None = None, captions_only: bool = False
) -> Any:
    """Rows of a split of one of the data sets."""
    video, caption = (
        None if names is None else names[number if len(names) > 1 else 0]
        for names in (data.video_column, data.caption_column)
    )
    columns = Columns(video, caption)
    streaming = data.streaming if stream is None else stream
    return load_clips(data.dataset[number], split, streaming=streaming, columns=columns, captions_only=captions_only)


def _load_where_present(data: DataArguments, split: str, *, stream: bool | None = None) -> list[Any]:
    return [
        _load(data, number, split, stream=stream) if has_split(name, split) else None
        for number, name in enumerate(data.dataset)
    ]


def _with_clip(row: dict[str, Any], skip_broken: bool) -> dict[str, Any]:
    """A row with its clip fetched, unless it is missing and `skip_broken`."""
    try:
        return {**row, "video": fetch_clip(row["video"])}
    except VideoDecodeError:
        if not skip_broken:
            raise
        return row


def _split_off(name: str, rows: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    try:
        return split_off_validation(rows, seed=seed)
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from error


def _join(parts: list[Any], mixture: Mixture | None) -> datasets.Dataset:
    return parts[0] if mixture is None else join_sources(parts)
