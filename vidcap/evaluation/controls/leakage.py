"""Overlap of a test set with training: equal or nearly equal captions, equal or similar clips."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from processing.cache.feature_cache import content_hash
from vidcap.data.inspecting import InspectedClip, find_leaks, inspect_rows, words_of

if TYPE_CHECKING:
    from datasets import Dataset

_LEAST_WORDS = 6  # of a near match; shorter captions are similar by chance


def caption_leakage(references: Sequence[Sequence[str]], train_captions: Sequence[str]) -> dict[str, float]:
    """Shares of the true captions that occur in training, or nearly.

    Args:
        references: The true captions of each clip.
        train_captions: Captions of all training clips.

    Returns:
        `references_in_train`, the share of references with the words of a training caption, and
        `references_near_train`, the share of references that have at least six words and differ from a training
        caption by one word: replaced, deleted or inserted.
    """
    known = {tuple(words_of(caption)) for caption in train_captions}
    known_without = {part for words in known for part in _without_one(words)}
    captions = [tuple(words_of(caption)) for truths in references for caption in truths]
    same = [words in known for words in captions]
    near = [
        not equal and len(words) >= _LEAST_WORDS and _is_near(words, known, known_without)
        for words, equal in zip(captions, same, strict=True)
    ]
    return {
        "references_in_train": sum(same) / len(captions),
        "references_near_train": sum(near) / len(captions),
    }


def shared_clips(rows: "Dataset", train_rows: "Dataset") -> list[dict[str, Any]]:
    """Clips whose bytes occur in training, as in [`find_leaks`]; only clips of equal size are read.

    Args:
        rows, train_rows: From `load_clips`, with local files, folders of frames, or clips as bytes; missing files are
            ignored.
    """
    sizes = [[_size(row["video"]) for row in split] for split in (rows, train_rows)]
    both = set(sizes[0]) & set(sizes[1]) - {None}
    splits = {
        split: [
            InspectedClip(row["file_name"], tuple(row["captions"]), content_hash(row["video"]))
            for row, size in zip(split_rows, split_sizes, strict=True)
            if size in both
        ]
        for split, split_rows, split_sizes in zip(("test", "train"), (rows, train_rows), sizes, strict=True)
    }
    if not all(splits.values()):
        return []
    return find_leaks(splits)["content"]


def near_clips(rows: "Dataset", train_rows: "Dataset", *, workers: int | None = None) -> dict[str, Any]:
    """Clips that look like a training clip of other bytes. Decodes all clips of both, with a progress bar.

    Args:
        rows, train_rows: From `load_clips`.
        workers: Clips decoded at once; by default one per core.

    Returns:
        `near_clips` as `near_content` of [`find_leaks`], `clips_near_train`, the number of these test clips, and
        `not_compared`, the number of unreadable clips in both.
    """
    splits = {
        "test": inspect_rows(rows, "comparing test clips", workers=workers),
        "train": inspect_rows(train_rows, "comparing training clips", workers=workers),
    }
    near = find_leaks(splits)["near_content"]
    return {
        "near_clips": near,
        "clips_near_train": len({pair["files"]["test"] for pair in near}),
        "not_compared": sum(bool(clip.error) for clips in splits.values() for clip in clips),
    }


def _size(video: dict[str, Any]) -> int | tuple[int, ...] | None:
    """Size of a clip in bytes, for a folder that of each file; `None` for a missing file."""
    if video["bytes"] is not None:
        return len(video["bytes"])
    if os.path.isdir(video["path"]):
        return tuple(sorted(entry.stat().st_size for entry in os.scandir(video["path"]) if entry.is_file()))
    return os.path.getsize(video["path"]) if os.path.isfile(video["path"]) else None


def _without_one(words: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    for index in range(len(words)):
        yield index, words[:index] + words[index + 1 :]


def _is_near(
    words: tuple[str, ...], known: set[tuple[str, ...]], known_without: set[tuple[int, tuple[str, ...]]]
) -> bool:
    """Whether one word replaced, inserted or deleted makes a known caption."""
    shortened = list(_without_one(words))
    return (
        any(part in known_without for part in shortened)
        or any(part in known for _, part in shortened)
        or any((index, words) in known_without for index in range(len(words) + 1))
    )
