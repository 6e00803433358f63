"""What a test set shares with training: captions, also but for a word, and clips, also those that look the same."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from processing.cache.feature_cache import content_hash
from vidcap.data.inspecting import InspectedClip, find_leaks, inspect_rows, words_of

_LEAST_WORDS = 6  # of a caption that one word may set apart; shorter ones are alike by chance


def caption_leakage(references: Sequence[Sequence[str]], train_captions: Sequence[str]) -> dict[str, float]:
    """How many of the true captions training has.

    Args:
        references: Of each clip.
        train_captions: Of all training clips.

    Returns:
        `references_in_train`, the share of references with the words of a training caption, and
        `references_near_train`, the share of the others that have at least six words and differ from a training
        caption in one of them: replaced, left out or put in.
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


def shared_clips(rows: Any, train_rows: Any) -> list[dict[str, Any]]:
    """Clips whose bytes training has, too, as in [`find_leaks`]; only clips of equal size are read.

    Args:
        rows, train_rows: From `load_clips`, of local files, folders of frames, or with the clips inside; files that
            are missing are no clips.
    """
    sizes = [[_size(row["video"]) for row in split] for split in (rows, train_rows)]
    both = set(sizes[0]) & set(sizes[1]) - {None}
    splits = {
        split: [
            InspectedClip(row["file_name"], tuple(row["captions"]), content_hash(row["video"]))
            for row, size in zip(part, own, strict=True)
            if size in both
        ]
        for split, part, own in zip(("test", "train"), (rows, train_rows), sizes, strict=True)
    }
    if not all(splits.values()):
        return []
    return find_leaks(splits)["content"]


def near_clips(rows: Any, train_rows: Any, *, workers: int | None = None) -> dict[str, Any]:
    """Clips that look like a training clip and have other bytes. All clips of both are decoded, with a progress bar.

    Args:
        rows, train_rows: From `load_clips`.
        workers: Clips decoded at once; by default one a core.

    Returns:
        `near_clips` as `near_content` of [`find_leaks`], `clips_near_train`, how many clips these are, and
        `not_compared`, how many clips of both cannot be read.
    """
    splits = {
        "test": inspect_rows(rows, "looks of test clips", workers=workers),
        "train": inspect_rows(train_rows, "looks of training clips", workers=workers),
    }
    found = find_leaks(splits)["near_content"]
    return {
        "near_clips": found,
        "clips_near_train": len({each["files"]["test"] for each in found}),
        "not_compared": sum(bool(clip.error) for clips in splits.values() for clip in clips),
    }


def _size(video: dict[str, Any]) -> int | tuple[int, ...] | None:
    """Bytes of a clip, of a folder those of each of its files; `None` of what is not there."""
    if video["bytes"] is not None:
        return len(video["bytes"])
    if os.path.isdir(video["path"]):
        return tuple(sorted(each.stat().st_size for each in os.scandir(video["path"]) if each.is_file()))
    return os.path.getsize(video["path"]) if os.path.isfile(video["path"]) else None


def _without_one(words: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    for index in range(len(words)):
        yield index, words[:index] + words[index + 1 :]


def _is_near(
    words: tuple[str, ...], known: set[tuple[str, ...]], known_without: set[tuple[int, tuple[str, ...]]]
) -> bool:
    """Whether one word replaced, put in or left out makes a known caption."""
    shortened = list(_without_one(words))
    return (
        any(part in known_without for part in shortened)
        or any(part in known for _, part in shortened)
        or any((index, words) in known_without for index in range(len(words) + 1))
    )
