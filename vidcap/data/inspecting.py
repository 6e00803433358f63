"""Inspection of a data set: quantiles per split, unreadable and suspicious clips, content in several splits.

Two clips look the same if their fingerprints, small pictures at a few moments evenly spaced over the clip, differ by
less than compression changes one: clips encoded again, at another size or rate.

Guarantees: every frame of a clip is decoded, so that a clip damaged anywhere counts as unreadable.

Limitations: in scripts without spaces a sentence counts as one word. All frames of a clip are in memory at once, 27 kB
each. A clip that is cut, cropped, mirrored, bordered or brightened looks different.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from processing import VideoDecodeError, decode_video
from processing.cache.feature_cache import content_hash, in_threads

from .checking import SIDE, why_still

if TYPE_CHECKING:
    from datasets import Dataset

MOMENTS, THUMBNAIL_SIDE = 4, 8  # pictures in a fingerprint, and pixels per side
NEAR = 3.0  # of 255, root mean square; measured in docs/log.md
_PAIRS_AT_ONCE = 1 << 24
WORD = re.compile(r"\w+(?:[-'’]\w+)*")  # as in `processing.clips.tokenizers`, without the marks
QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
SHORTEST = 0.3  # seconds
LONGEST = 60  # words of a caption
FREQUENT_SHARE, FREQUENT_CLIPS = 0.01, 10  # share and number of clips from which a caption is suspicious
MOST_FREQUENT = 10  # captions listed
REASONS = {
    "still": "a clip that does not move",
    "short": f"a clip shorter than {SHORTEST} s",
    "few_words": "a caption of fewer than two words",
    "many_words": f"a caption of more than {LONGEST} words",
    "frequent_caption": f"a caption of more than {FREQUENT_SHARE:.0%} of the clips and of at least {FREQUENT_CLIPS}",
    "contradiction": "the same content twice, with different captions",
}


@dataclass(frozen=True)
class InspectedClip:
    """
    A clip and its measures.

    Args:
        file_name: Its name in the data set.
        captions: At least one.
        sha256: Hash of its bytes; empty if they cannot be read.
        seconds: Duration from the start of the first frame to the end of the last.
        frames: Number of frames.
        height, width: Displayed size of a frame in pixels.
        still: The reason why it does not count as moving; empty if it moves.
        error: The reason why it cannot be read; all measures are then 0.
        look: Its fingerprint, see [`fingerprint`]; without one it looks like no other clip.
    """

    file_name: str
    captions: tuple[str, ...]
    sha256: str = ""
    seconds: float = 0.0
    frames: int = 0
    height: int = 0
    width: int = 0
    still: str = ""
    error: str = ""
    look: torch.Tensor | None = field(default=None, compare=False, repr=False)


def inspect_clip(row: Mapping[str, Any]) -> InspectedClip:
    """Measure one clip; an unreadable clip is a result, not an error.

    Args:
        row: A row as described in `processing.clips.rows`.
    """
    name, captions, video = row["file_name"], tuple(row["captions"]), row["video"]
    digest = ""
    try:
        digest = content_hash(video)
        clip = decode_video(video, num_frames=None, fit=(SIDE, SIDE))
        height, width = decode_video(video, num_frames=1).frames.shape[-2:]
    except VideoDecodeError as error:
        return InspectedClip(name, captions, digest, error=error.reason)
    return InspectedClip(
        name,
        captions,
        digest,
        seconds=clip.duration,
        frames=len(clip.frames),
        height=height,
        width=width,
        still=why_still(clip.frames),
        look=fingerprint(clip.frames),
    )


def inspect_rows(rows: "Dataset", description: str, *, workers: int | None = None) -> list[InspectedClip]:
    """Measure all clips of a split in threads, with a progress bar.

    Args:
        rows: From `load_clips`. Clips that are bytes are read one by one.
        description: Label of the progress bar.
        workers: Clips decoded at once; by default one per core.
    """
    return in_threads(
        lambda index: inspect_clip(rows[index]), range(len(rows)), description, workers or os.cpu_count() or 1
    )


def fingerprint(frames: torch.Tensor) -> torch.Tensor:
    """Small pictures `(MOMENTS * 3 * THUMBNAIL_SIDE**2,)`, 0 to 255, of a clip's frames `(T, 3, H, W)`, uint8."""
    moments = [int(len(frames) * (moment + 0.5) / MOMENTS) for moment in range(MOMENTS)]
    return torch.nn.functional.adaptive_avg_pool2d(frames[moments].float(), THUMBNAIL_SIDE).flatten()


def near_pairs(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> list[tuple[int, int, float]]:
    """Pairs of nearly equal fingerprints of two splits: both indices and the root mean square of their difference.

    All are compared with all, in at most some 100 MB.
    """
    if not first or not second:
        return []
    known, pairs = torch.stack(list(second)), []
    rows = max(1, _PAIRS_AT_ONCE // len(known))
    for start in range(0, len(first), rows):
        part = torch.stack(list(first[start : start + rows]))
        # Without matrix products, whose rounding would hide small differences.
        distances = torch.cdist(part, known, compute_mode="donot_use_mm_for_euclid_dist") / part.shape[1] ** 0.5
        for row, column in (distances < NEAR).nonzero().tolist():
            pairs.append((start + row, column, distances[row, column].item()))
    return pairs


def summarise(clips: Sequence[InspectedClip]) -> dict[str, Any]:
    """Summarise a split for `inspection.json`.

    Args:
        clips: The clips of the split, at least one.

    Returns:
        `clips`; `captions` with counts, quantiles of `per_clip` and `words` (per caption), `vocabulary` and
        `most_frequent`; quantiles of `seconds`, `frames`, `width` and `height` of the readable clips, `None` if there
        are none; `unreadable` with reasons; `suspicious`, each with one of `REASONS`; `repeated_content`, the number
        of clips with the bytes of an earlier one.
    """
    readable = [clip for clip in clips if not clip.error]
    captions = [caption for clip in clips for caption in clip.captions]
    words = Counter(word for caption in captions for word in words_of(caption))
    once = sum(count == 1 for count in words.values())
    hashed = [clip for clip in clips if clip.sha256]
    return {
        "clips": len(clips),
        "captions": {
            "count": len(captions),
            "different": len({same_caption(caption) for caption in captions}),
            "per_clip": quantiles(len(clip.captions) for clip in clips),
            "words": quantiles(len(words_of(caption)) for caption in captions),
            "vocabulary": {
                "words": len(words),
                "seen_once": once,
                "share_seen_once": round(once / len(words), 4) if words else None,
            },
            "most_frequent": list(_most_frequent(clips))[:MOST_FREQUENT],
        },
        **{
            name: quantiles(getattr(clip, name) for clip in readable)
            for name in ("seconds", "frames", "width", "height")
        },
        "unreadable": [{"file_name": clip.file_name, "reason": clip.error} for clip in clips if clip.error],
        "suspicious": list(_suspicious(clips)),
        "repeated_content": len(hashed) - len({clip.sha256 for clip in hashed}),
    }


def find_leaks(splits: Mapping[str, Sequence[InspectedClip]]) -> dict[str, Any]:
    """Find content that splits have in common.

    Returns:
        `content`: for each content in two splits, its `sha256` and the names of its files by split.
        `near_content`: clips of two splits that look the same but have different bytes: the name by split, and their
        `difference` (of 255).
        `captions_in_train`: for each other split, the share of its captions that occur in `train`. This is for
        information: short descriptions repeat.
    """
    by_content = {split: _group(clips) for split, clips in splits.items()}
    content = [
        {"sha256": digest, "files": {split: [clip.file_name for clip in by_content[split][digest]] for split in pair}}
        for pair in combinations(splits, 2)
        for digest in by_content[pair[0]]
        if digest in by_content[pair[1]]
    ]
    near = [match for pair in combinations(splits, 2) for match in _near_content(pair, splits)]
    known = {same_caption(caption) for clip in splits.get("train", ()) for caption in clip.captions}
    shares = {}
    for split in [split for split in splits if split != "train" and "train" in splits]:
        captions = [same_caption(caption) for clip in splits[split] for caption in clip.captions]
        shares[split] = round(sum(caption in known for caption in captions) / len(captions), 4)
    return {"content": content, "near_content": near, "captions_in_train": shares}


def _near_content(pair: tuple[str, str], splits: Mapping[str, Sequence[InspectedClip]]) -> Iterator[dict[str, Any]]:
    first, second = ([(clip, clip.look) for clip in splits[split] if clip.look is not None] for split in pair)
    for row, column, difference in near_pairs([look for _, look in first], [look for _, look in second]):
        clips = first[row][0], second[column][0]
        if clips[0].sha256 != clips[1].sha256:
            names = dict(zip(pair, (clip.file_name for clip in clips), strict=True))
            yield {"files": names, "difference": round(difference, 2)}


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """The `QUANTILES` of some numbers, interpolated linearly, and their mean; `None` if there are none."""
    numbers = list(values)
    if not numbers:
        return None
    quantile_values = np.quantile(numbers, list(QUANTILES.values())).tolist()
    named = dict(zip(QUANTILES, quantile_values, strict=True)) | {"mean": float(np.mean(numbers))}
    return {name: round(value, 4) for name, value in named.items()}


def words_of(caption: str) -> list[str]:
    """The words of a caption as split by the package's tokenizer, in lower case, without punctuation."""
    return WORD.findall(unicodedata.normalize("NFKC", caption).lower())


def same_caption(caption: str) -> str:
    """A key that is equal for captions that differ in case and spaces alone."""
    return " ".join(caption.casefold().split())


def _most_frequent(clips: Sequence[InspectedClip]) -> Iterator[dict[str, Any]]:
    """Captions by number of clips, most frequent first."""
    spellings: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for clip in clips:
        captions = {same_caption(caption): caption for caption in clip.captions}
        counts.update(captions.keys())
        spellings = captions | spellings  # the first spelling is kept
    for key, count in counts.most_common():
        yield {"caption": spellings[key], "clips": count, "share": round(count / len(clips), 4)}


def _suspicious(clips: Sequence[InspectedClip]) -> Iterator[dict[str, str]]:
    """Suspicious clips with their reasons, in the order of `REASONS`; captions and contents of several clips last."""
    for clip in clips:
        if clip.still:
            yield _item(clip.file_name, "still", clip.still)
        # A single picture has no duration.
        if clip.frames > 1 and clip.seconds < SHORTEST:
            yield _item(clip.file_name, "short", f"{clip.seconds:.2f} s")
        for caption in clip.captions:
            count = len(words_of(caption))
            if count < 2:
                yield _item(clip.file_name, "few_words", caption)
            elif count > LONGEST:
                yield _item(clip.file_name, "many_words", f"{count} words: {caption}")
    for row in _most_frequent(clips):
        if row["clips"] >= FREQUENT_CLIPS and row["clips"] > FREQUENT_SHARE * len(clips):
            first = next(clip for clip in clips if same_caption(row["caption"]) in map(same_caption, clip.captions))
            detail = f"{row['caption']} ({row['clips']} clips, {row['share']:.1%})"
            yield _item(first.file_name, "frequent_caption", detail)
    for first, *others in _group(clips).values():
        for other in others:
            if set(map(same_caption, first.captions)) != set(map(same_caption, other.captions)):
                detail = f"{first.file_name} is the same clip: {first.captions[0]!r} and {other.captions[0]!r}"
                yield _item(other.file_name, "contradiction", detail)


def _item(file_name: str, reason: str, detail: str) -> dict[str, str]:
    return {"file_name": file_name, "reason": reason, "detail": detail}


def _group(clips: Sequence[InspectedClip]) -> dict[str, list[InspectedClip]]:
    """Clips by content, without those whose bytes cannot be read."""
    groups: defaultdict[str, list[InspectedClip]] = defaultdict(list)
    for clip in clips:
        if clip.sha256:
            groups[clip.sha256].append(clip)
    return groups
