"""Data of `vidcap evaluate`: the split to score on, and the training split."""

import argparse
import sys
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


class EvaluationData:
    """Data of an evaluation; each part is opened on first use."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments

    @cached_property
    def rows(self) -> "datasets.Dataset | None":
        """The split to score on; `None` for references without clips."""
        arguments = self.arguments
        return None if arguments.dataset is None else load_rows(arguments, arguments.split or "test")

    @cached_property
    def train_rows(self) -> "datasets.Dataset | None":
        """The training split; `None`, with a note, if it is unknown."""
        return load_train_rows(self.arguments)

    @cached_property
    def train_captions(self) -> list[str] | None:
        """All captions of that split, for the control `most_frequent`."""
        if self.train_rows is None:
            return None
        return [caption for row in self.train_rows.select_columns(["captions"]) for caption in row["captions"]]


def load_rows(arguments: argparse.Namespace, split: str) -> "datasets.Dataset":
    """Rows of a split of `--dataset`, with the columns of `--by`.

    Raises:
        DatasetError: As from `load_clips`, and if no row has a value in one of these columns.
    """
    from processing.clips.rows import load_clips
    from processing.clips.sources import Columns, DatasetError

    columns = Columns(arguments.video_column, arguments.caption_column, others=tuple(arguments.by))
    rows = load_clips(arguments.dataset, split, columns=columns)
    for name in arguments.by:
        if all(value is None for value in rows[name]):
            raise DatasetError(
                f"{arguments.dataset}: no clip of {split} has a value of {name!r} (--by); name another column"
            )
    return rows


def load_train_rows(arguments: argparse.Namespace) -> "datasets.Dataset | None":
    """The training split; `None`, with a note, if there is none.

    Columns of a `--train_dataset` are recognised by their content.

    Raises:
        DatasetError: If an option needs these rows, and there are none.
    """
    from processing.clips.rows import has_split, load_clips
    from processing.clips.sources import GUESSED, Columns, DatasetError

    dataset, split = arguments.train_dataset or arguments.dataset, arguments.train_split
    if dataset is not None and (arguments.train_dataset is not None or has_split(dataset, split)):
        own = Columns(arguments.video_column, arguments.caption_column)
        return load_clips(dataset, split, columns=own if arguments.train_dataset is None else GUESSED)
    if arguments.near_duplicates:
        raise DatasetError(
            f"{dataset}: no split {split} to compare with; name another --train_split or --train_dataset, or leave "
            "out --near_duplicates"
        )
    if dataset is None:
        problem = "references alone name no training captions"
    else:
        problem = f"{dataset} has no split {split}"
    note = f"{problem}, so the control most_frequent is left out; to include it, name a --train_dataset"
    print(f"vidcap: note: {note}", file=sys.stderr)
    return None
