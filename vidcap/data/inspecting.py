"""What is in a data set: counts and quantiles of each split, clips that cannot be read, what looks wrong, and content
that several splits share.

Every frame of a clip is decoded, so that a clip damaged anywhere counts as unreadable, also where the few frames that
training takes of it happen to be sound.

Given up: words of scripts that put no space between them, where a sentence counts as one word; and long videos: their
frames are in memory at once, 27 kB each. What nearly the same is, and is not, stands in `fingerprints.py`.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch

from processing import VideoDecodeError, decode_video
from processing.cache.feature_cache import content_hash, in_threads

from .checking import SIDE, why_still
from .fingerprints import fingerprint, near_pairs

WORD = re.compile(r"\w+(?:[-'’]\w+)*")  # as in `processing.clips.tokenizers`, without the marks
QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
SHORTEST = 0.3  # seconds
LONGEST = 60  # words of a caption
FREQUENT_SHARE, FREQUENT_CLIPS = 0.01, 10  # a caption of more than this share of the clips, and of at least so many
MOST_FREQUENT = 10  # captions that are listed
REASONS = {
    "still": "a picture that does not move",
    "short": f"shorter than {SHORTEST} s",
    "few_words": "a caption of less than two words",
    "many_words": f"a caption of more than {LONGEST} words",
    "frequent_caption": f"a caption shared by more than {FREQUENT_SHARE:.0%} of the clips, and at least "
    f"{FREQUENT_CLIPS}",
    "contradiction": "the same content twice, with different captions",
}


@dataclass(frozen=True)
class InspectedClip:
    """
    A clip and what it holds.

    Args:
        file_name: Its name in the data set.
        captions: At least one.
        sha256: Of its bytes; empty where they cannot be read.
        seconds: From the first frame's presentation to the end of the last one's.
        frames: How many it has.
        height, width: Of a frame as it is displayed, in pixels.
        still: Why it does not count as moving; empty if it moves.
        error: Why it cannot be read; all measures are then 0.
        look: Its fingerprint, see [`fingerprint`]; without one it is like no other clip.
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
    """Looks at one clip; one that cannot be read is a result, not an error.

    Args:
        row: As `processing.clips.rows` describes it.
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


def inspect_rows(rows: Any, description: str, *, workers: int | None = None) -> list[InspectedClip]:
    """Looks at all clips of a split, in threads, and shows progress.

    Args:
        rows: From `load_clips`. Clips that are bytes are taken out of it one by one.
        description: What is shown beside the progress.
        workers: Clips decoded at once; by default one a core.
    """
    return in_threads(
        lambda index: inspect_clip(rows[index]), range(len(rows)), description, workers or os.cpu_count() or 1
    )


def summarise(clips: Sequence[InspectedClip]) -> dict[str, Any]:
    """What a split holds, for `inspection.json`.

    Args:
        clips: Of the split, at least one.

    Returns:
        `clips`; `captions` with counts, quantiles of `per_clip` and `words` (of each caption), `vocabulary` and
        `most_frequent`; quantiles of `seconds`, `frames`, `width` and `height` of the readable clips, `None` if there
        are none; `unreadable` with reasons; `suspicious` with one of `REASONS` each; `repeated_content`, the number of
        clips whose bytes an earlier one has.
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
    """What splits have in common.

    Returns:
        `content`: for each content that two splits share, its `sha256`, and the names of its files by split.
        `near_content`: clips of two splits that look the same and have other bytes: the name by split, and their
        `difference` (of 255).
        `captions_in_train`: for each other split, the share of its captions that `train` has too. This is information
        and no fault: short descriptions repeat.
    """
    by_content = {split: _group(clips) for split, clips in splits.items()}
    content = [
        {"sha256": digest, "files": {split: [clip.file_name for clip in by_content[split][digest]] for split in pair}}
        for pair in combinations(splits, 2)
        for digest in by_content[pair[0]]
        if digest in by_content[pair[1]]
    ]
    near = [each for pair in combinations(splits, 2) for each in _near(pair, splits)]
    known = {same_caption(caption) for clip in splits.get("train", ()) for caption in clip.captions}
    shares = {}
    for split in [split for split in splits if split != "train" and "train" in splits]:
        captions = [same_caption(caption) for clip in splits[split] for caption in clip.captions]
        shares[split] = round(sum(caption in known for caption in captions) / len(captions), 4)
    return {"content": content, "near_content": near, "captions_in_train": shares}


def _near(pair: tuple[str, str], splits: Mapping[str, Sequence[InspectedClip]]) -> Iterator[dict[str, Any]]:
    first, second = ([(clip, clip.look) for clip in splits[split] if clip.look is not None] for split in pair)
    for ours, theirs, difference in near_pairs([look for _, look in first], [look for _, look in second]):
        one, other = first[ours][0], second[theirs][0]
        if one.sha256 != other.sha256:
            names = (one.file_name, other.file_name)
            yield {"files": dict(zip(pair, names, strict=True)), "difference": round(difference, 2)}


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """The `QUANTILES` of some numbers, linear between neighbours, and their mean; `None` if there are none."""
    numbers = list(values)
    if not numbers:
        return None
    found = np.quantile(numbers, list(QUANTILES.values()))
    named = dict(zip(QUANTILES, found.tolist(), strict=True)) | {"mean": float(np.mean(numbers))}
    return {name: round(value, 4) for name, value in named.items()}


def words_of(caption: str) -> list[str]:
    """The words of a caption as the package's own tokenizer sees them, in lower case, without marks."""
    return WORD.findall(unicodedata.normalize("NFKC", caption).lower())


def same_caption(caption: str) -> str:
    """What captions have in common that differ in upper and lower case and in spaces alone."""
    return " ".join(caption.casefold().split())


def _most_frequent(clips: Sequence[InspectedClip]) -> Iterator[dict[str, Any]]:
    """Captions by the number of clips that have them, the commonest first."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for clip in clips:
        own = {same_caption(caption): caption for caption in clip.captions}
        counts.update(own.keys())
        spelled = own | spelled  # as it was first written
    for caption, count in counts.most_common():
        yield {"caption": spelled[caption], "clips": count, "share": round(count / len(clips), 4)}


def _suspicious(clips: Sequence[InspectedClip]) -> Iterator[dict[str, str]]:
    """Items that are worth a look, in the order of `REASONS` for each clip; captions and contents of several clips
    come last and once."""
    for clip in clips:
        if clip.still:
            yield _item(clip.file_name, "still", clip.still)
        # A single picture has no duration of its own.
        if clip.frames > 1 and clip.seconds < SHORTEST:
            yield _item(clip.file_name, "short", f"{clip.seconds:.2f} s")
        for caption in clip.captions:
            count = len(words_of(caption))
            if count < 2:
                yield _item(clip.file_name, "few_words", caption)
            elif count > LONGEST:
                yield _item(clip.file_name, "many_words", f"{count} words: {caption}")
    for each in _most_frequent(clips):
        if each["clips"] >= FREQUENT_CLIPS and each["clips"] > FREQUENT_SHARE * len(clips):
            first = next(clip for clip in clips if same_caption(each["caption"]) in map(same_caption, clip.captions))
            detail = f"{each['caption']} ({each['clips']} clips, {each['share']:.1%})"
            yield _item(first.file_name, "frequent_caption", detail)
    for first, *others in _group(clips).values():
        for other in others:
            if set(map(same_caption, first.captions)) != set(map(same_caption, other.captions)):
                detail = f"{first.file_name} is the same clip: {first.captions[0]!r} and {other.captions[0]!r}"
                yield _item(other.file_name, "contradiction", detail)


def _item(file_name: str, reason: str, detail: str) -> dict[str, str]:
    return {"file_name": file_name, "reason": reason, "detail": detail}


def _group(clips: Sequence[InspectedClip]) -> dict[str, list[InspectedClip]]:
    """Clips by content; those whose bytes cannot be read are left out."""
    groups: defaultdict[str, list[InspectedClip]] = defaultdict(list)
    for clip in clips:
        if clip.sha256:
            groups[clip.sha256].append(clip)
    return groups
