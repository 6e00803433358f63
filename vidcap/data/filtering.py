"""Filters captions by their fit to the clip, in the space of a trained model's contrastive loss.

Guarantees: the given data set is not changed; the kept captions appear in a new folder, complete or not at all.

Limitations: the model ranks rare subjects low because they are rare, and its training clips high because it has seen
them. Look at the worst pairs before you drop them for good.
"""

import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, Video

from processing.clips.sources import OPTIONAL_COLUMNS

from ..files import json_lines
from ..inference.captioning import embed_clips, embed_texts
from ..inference.reading import readable_clips
from ..inference.subtitles import CaptionedClip

if TYPE_CHECKING:
    from modeling_vidcap import VideoCaptionForConditionalGeneration
    from processing import VideoCaptionProcessor

PART = 500  # clips read from a data set at once; those that come as bytes are in memory together
SHARD_BYTES = 256 << 20  # limit for the clips of a shard, except for a single larger one


@dataclass(frozen=True)
class ScoredPair:
    """
    A caption of a clip, with its score.

    Args:
        row: The clip's row in the data set.
        file_name: The clip's name.
        caption: One of its captions.
        score: Cosine of their embeddings, -1 to 1.
    """

    row: int
    file_name: str
    caption: str
    score: float


def score_pairs(
    model: "VideoCaptionForConditionalGeneration",
    processor: "VideoCaptionProcessor",
    rows: Dataset,
    *,
    batch_size: int = 16,
) -> tuple[list[ScoredPair], list[CaptionedClip]]:
    """Score every caption of every readable clip.

    Args:
        model: A model trained with a contrastive loss.
        processor: Its processor.
        rows: From `load_clips`.
        batch_size: Clips that the model encodes at once.

    Returns:
        The pairs in the order of the data set, and the unreadable clips.

    Raises:
        ValueError: If a score is not finite.
    """
    pairs: list[ScoredPair] = []
    unreadable: list[CaptionedClip] = []
    for start in range(0, len(rows), PART):
        part = list(rows.select(range(start, min(start + PART, len(rows)))))
        results = [CaptionedClip(row["file_name"], source=row["video"]) for row in part]
        clips = readable_clips(results, processor.video_processor, f"clips {start + 1} to {start + len(part)}")
        first = next(clips, None)
        if first is not None:
            videos = embed_clips(model, processor, itertools.chain([first], clips), batch_size=batch_size)
            read = [index for index, result in enumerate(results) if result.error is None]
            owners = [owner for owner, index in enumerate(read) for _ in part[index]["captions"]]
            captions = [caption for index in read for caption in part[index]["captions"]]
            texts = embed_texts(model, processor, captions)
            scores = (videos[owners] * texts).float().sum(dim=-1).tolist()  # (pairs,)
            for owner, caption, score in zip(owners, captions, scores, strict=True):
                pairs.append(ScoredPair(start + read[owner], part[read[owner]]["file_name"], caption, score))
        unreadable += [result for result in results if result.error is not None]
    if broken := [pair for pair in pairs if not math.isfinite(pair.score)]:
        raise ValueError(
            f"the model gives {broken[0].file_name} the score {broken[0].score}: its training probably diverged; use "
            "another model"
        )
    return pairs, unreadable


def choose_kept(
    pairs: Sequence[ScoredPair], *, keep_share: float | None = None, min_score: float | None = None
) -> list[bool]:
    """Choose the pairs to keep.

    Args:
        pairs: Scored pairs, at least one.
        keep_share: Share of the pairs to keep, the best ones; of equal ones the first.
        min_score: Lowest score to keep, in place of a share.

    Returns:
        Whether each pair is kept.

    Raises:
        ValueError: If not exactly one of the two is given, or nothing would be kept.
    """
    if (keep_share is None) == (min_score is None):
        raise ValueError(f"keep_share={keep_share} and min_score={min_score}: give exactly one of them")
    scores = [pair.score for pair in pairs]
    if min_score is not None:
        kept = [score >= min_score for score in scores]
    else:
        assert keep_share is not None
        count = round(keep_share * len(pairs))
        best = set(sorted(range(len(pairs)), key=lambda index: -scores[index])[:count])
        kept = [index in best for index in range(len(pairs))]
    if not any(kept):
        limit, change = f"keep_share={keep_share}", "raise it"
        if min_score is not None:
            limit, change = f"min_score={min_score}", "lower it"
        raise ValueError(
            f"{limit} keeps none of the {len(pairs)} captions, which score {min(scores):.3f} to {max(scores):.3f}; "
            f"{change}"
        )
    return kept


def write_filtered(
    output: Path,
    split: str,
    rows: Dataset,
    pairs: Sequence[ScoredPair],
    kept: Sequence[bool],
    unreadable: Sequence[CaptionedClip] = (),
) -> None:
    """Write the filtered data set and the scores of all captions.

    `scores.jsonl` lists the captions, worst first, and `unreadable.jsonl` unreadable clips. The data set is
    `SPLIT.jsonl` with relative paths, or Parquet files if clips come as bytes.

    Args:
        output: A new or empty folder whose parent exists.
        split: Name of the split in the new data set.
        rows: The data set.
        pairs: Its scored captions.
        kept: Whether each pair is kept; at least one is.
        unreadable: Unreadable clips.
    """
    captions: dict[int, list[str]] = {}
    for pair in itertools.compress(pairs, kept):
        captions.setdefault(pair.row, []).append(pair.caption)
    scores = [
        {"file_name": pair.file_name, "caption": pair.caption, "score": round(pair.score, 6), "kept": is_kept}
        for pair, is_kept in sorted(zip(pairs, kept, strict=True), key=lambda scored: scored[0].score)
    ]
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        unfinished = Path(scratch) / output.name
        unfinished.mkdir()
        chosen = rows.select(list(captions))
        if any(row["video"]["bytes"] is not None for row in chosen):
            _write_parquet(unfinished, split, _kept_rows(chosen, captions))
        else:
            table = [_with_path(row, output) for row in _kept_rows(chosen, captions)]
            (unfinished / f"{split}.jsonl").write_text(json_lines(table), encoding="utf-8")
        (unfinished / "scores.jsonl").write_text(json_lines(scores), encoding="utf-8")
        if unreadable:
            reasons = [{"file_name": clip.file, "reason": clip.error} for clip in unreadable]
            (unfinished / "unreadable.jsonl").write_text(json_lines(reasons), encoding="utf-8")
        os.replace(unfinished, output)


def _kept_rows(chosen: Dataset, captions: Mapping[int, list[str]]) -> Iterator[dict[str, Any]]:
    """The chosen rows with their kept captions."""
    for row, kept in zip(chosen, captions.values(), strict=True):
        optional = {name: row[name] for name in OPTIONAL_COLUMNS if row.get(name) is not None}
        yield {"video": row["video"], "file_name": row["file_name"], "captions": kept, **optional}


def _with_path(row: dict[str, Any], output: Path) -> dict[str, Any]:
    path = os.path.relpath(row.pop("video")["path"], output)
    return {"path": path, **row}


def _write_parquet(folder: Path, split: str, rows: Iterator[dict[str, Any]]) -> None:
    names = ("file_name", *OPTIONAL_COLUMNS)
    strings = {name: Value("string") for name in names}
    # `datasets` reads its features from the schema, so that the column loads as a `Video`.
    schema = Features({"video": Video(), "captions": List(Value("string")), **strings}).arrow_schema
    shards = itertools.count()
    part: list[dict[str, Any]] = []
    size = 0

    def write() -> None:
        pq.write_table(pa.Table.from_pylist(part, schema=schema), folder / f"{split}-{next(shards):05d}.parquet")

    for row in rows:
        row_size = len(row["video"]["bytes"] or b"")
        if part and size + row_size > SHARD_BYTES:
            write()
            part, size = [], 0
        part.append(row)
        size += row_size
    write()
