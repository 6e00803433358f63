"""Prepares a data set: from annotations to usable clips, shards, a manifest, and a list of refused clips.

Guarantees: nothing is dropped silently; every annotation is a kept clip or a line of `refused.jsonl` (a broken row
under its place in the file), and the manifest counts both. A second run fetches, decodes and writes only what is
missing, and ends with the same manifest, which contains no times.

Limitations: duplicates and placeholders are recognised by equal bytes only.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .annotation_files import BadRows
from .annotations import STILL_FORMATS, Annotation, read_annotations, read_split_lists, split_of_name
from .cards import MANIFEST, write_card
from .checking import Check, ClipFolder, Task, check_all, file_name_of, find_clip, names_of
from .cleaning import CaptionCleaner, drop_repeated
from .fetching import FetchOptions, fetch_all
from .sharding import SPLITS, Clip, are_intact, write_shards

logger = logging.getLogger(__name__)
REASONS = {
    "annotation": "its row in the annotations is broken",
    "no_split": "no split list contains it",
    "no_caption": "cleaning left no caption",
    "missing": "its file does not exist",
    "gone": "its server no longer has it",
    "not_fetched": "it could not be fetched",
    "unreadable": "it cannot be decoded",
    "segment": "the video does not contain the annotated part",
    "still": "a picture that does not move in place of a clip",
    "placeholder": "the same content under three or more sources with different captions",
    "duplicate": "the same content as another clip, which now has its captions",
}
WITHOUT_FILE = ("annotation", "no_split", "no_caption", "missing", "gone", "not_fetched")
PLACEHOLDER_SOURCES = 3


class PrepareError(ValueError):
    """The data set cannot be prepared; the message is one line."""


@dataclass(frozen=True)
class PrepareOptions:
    """
    Options of [`prepare`].

    Args:
        format: A key of `annotations.READERS`.
        clips: Folder of clips; None to fetch all.
        split: The split of all clips; None for the annotations' own, otherwise by shares.
        split_lists: Files named after splits that list their sources; a clip in none of them is refused.
        validation, test: Shares of the clips without a split in the annotations, assigned by a hash of their source,
            so that new clips move no other.
        keep: Cleaning rules to omit.
        shards: A key of `sharding.WRITERS`.
        shard_bytes: Limit for the clips of a shard.
        workers: Clips decoded at once.
        fetch: Options for fetching clips that `clips` lacks; None fetches nothing.
        license: Licence of the data set, for its card.
    """

    format: str
    clips: Path | None = None
    split: str | None = None
    split_lists: tuple[Path, ...] = ()
    validation: float = 0.05
    test: float = 0.05
    keep: tuple[str, ...] = ()
    shards: str = "parquet"
    shard_bytes: int = 256 << 20
    workers: int = 1
    fetch: FetchOptions | None = field(default_factory=FetchOptions)
    license: str | None = None


@dataclass
class _Item:
    """An annotation with its cleaned captions, its split, and its check or the reason of refusal."""

    annotation: Annotation
    captions: list[str]
    split: str
    check: Check | None = None
    refused: str = ""
    detail: str = ""

    def refuse(self, reason: str, detail: str = "") -> None:
        self.refused, self.detail = reason, detail or REASONS[reason]


def prepare(annotations: Path, output: Path, options: PrepareOptions) -> dict[str, Any]:
    """Make a data set.

    Args:
        annotations: A published caption file.
        output: The folder of the data set; it also keeps fetched, cut and checked files.
        options: See [`PrepareOptions`].

    Returns:
        The manifest, as written to `manifest.json`.

    Raises:
        AnnotationError: For a mistake in the caption file as a whole, or in a split list.
        PrepareError: If `output` contains other files, a file matches two clips, or no clip can be used.
        OSError: If a file cannot be read or written.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / "checks.jsonl").is_file():
        raise PrepareError(f"{output} contains files of something else; empty it or give another folder")
    cleaner = CaptionCleaner(options.keep)
    bad = BadRows()
    clips = read_annotations(annotations, options.format, bad)
    if options.split_lists:
        lists = read_split_lists(options.split_lists)
        clips = [replace(clip, split=lists.get(clip.source) or lists.get(clip.clip or "")) for clip in clips]
    _report_hashed_splits(annotations, clips, options)
    items = [_Item(clip, cleaner(clip.captions), split_of(clip, options)) for clip in clips]
    output.mkdir(parents=True, exist_ok=True)
    (output / "checks.jsonl").touch()
    for item in items:
        if not item.split:
            item.refuse("no_split")
        elif not item.captions:
            item.refuse("no_caption")
    for mistake in bad.mistakes:
        items.append(_Item(Annotation(mistake.place, ()), [], ""))
        items[-1].refuse("annotation", str(mistake))
    _check(items, _locate(items, output, options), output, options)
    _refuse_placeholders(items)
    repeated = _merge_duplicates(items, options)
    kept = [item for item in items if not item.refused]
    missing = next((item.detail for item in items if item.refused == "missing"), None)
    lines = [json.dumps(_refusal(item), ensure_ascii=False) for item in items if item.refused]
    write_atomically(output / "refused.jsonl", "".join(f"{line}\n" for line in lines))
    if not kept:
        counts = Counter(item.refused for item in items)
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise PrepareError(
            f"none of the {len(items)} clips can be used ({listed}); {output / 'refused.jsonl'} lists them"
            + (f"; {missing}" if missing else "")
        )
    files = [_clip(item) for item in kept]
    manifest = {
        "format": options.format,
        **_counts(items),
        "missing_example": missing,
        "captions": _caption_counts(items, repeated),
        "cleaning": cleaner.as_dict(),
        "splits": {split: _counts([item for item in items if item.split == split]) for split in SPLITS},
        **_write(files, output, options),
        "clips": [
            {**_origin(item), "file_name": file.file_name, "sha256": file.sha256, "captions": len(file.captions)}
            for item, file in zip(kept, files, strict=True)
        ],
    }
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_card(output, manifest, REASONS, options.license)
    return manifest


def _report_hashed_splits(annotations: Path, clips: Sequence[Annotation], options: PrepareOptions) -> None:
    if options.split or options.split_lists or not any(clip.split is None for clip in clips):
        return
    shares = f"{options.validation:.0%} of the clips to validation and {options.test:.0%} to test"
    own = split_of_name(annotations)
    hint = f"its name says {own}: if all are, pass --split {own}" if own else "if all are of one split, pass --split"
    logger.warning(f"{annotations} names no split: a hash of their source deals {shares}; {hint}")


def split_of(annotation: Annotation, options: PrepareOptions) -> str:
    """The split of a clip, empty if it is in no split list. All parts of a video have the same split."""
    if options.split or annotation.split or options.split_lists:
        return options.split or annotation.split or ""
    place = int(hashlib.sha256(annotation.source.encode()).hexdigest()[:12], 16) / 16**12  # uniform in [0, 1)
    if place < options.validation:
        return "validation"
    return "test" if place < options.validation + options.test else "train"


def _locate(items: Sequence[_Item], output: Path, options: PrepareOptions) -> dict[int, Task]:
    """The file of each item that has one, by index of the item; the others are refused."""
    folder = ClipFolder(options.clips) if options.clips else None
    stills = options.format in STILL_FORMATS
    tasks: dict[int, Task] = {}
    urls: dict[int, str] = {}
    owners: dict[Path, str] = {}
    for index, item in enumerate(items):
        clip = item.annotation
        if item.refused:
            continue
        match = find_clip(clip, folder) if folder else None
        if match is not None:
            path, must_cut = match
            # The last part of several URLs may be the same, such as `video.mp4`.
            if clip.is_url and owners.setdefault(path, clip.source) != clip.source:
                raise PrepareError(f"{path} matches both {owners[path]} and {clip.source}; remove it from --clips")
            tasks[index] = Task(path, clip.start, clip.end, stills) if must_cut else Task(path, stills=stills)
        elif clip.is_url and options.fetch:
            urls[index] = clip.source
        else:
            item.refuse("missing", _missing(clip, options.clips, folder))
    if options.fetch and urls:
        fetched = fetch_all(urls.values(), output / "fetched", options.fetch)
        for index, url in urls.items():
            result, clip = fetched[url], items[index].annotation
            if result.path is None:
                items[index].refuse("gone" if result.gone else "not_fetched", result.failure)
            else:
                tasks[index] = Task(result.path, clip.start, clip.end, stills)
    return tasks


def _missing(clip: Annotation, clips: Path | None, folder: ClipFolder | None) -> str:
    """Why a clip has no file, with the names that were looked for; empty without a folder to look in."""
    if folder is None:
        return ""
    present = f"; it holds files such as {folder.example}" if folder.example else "; it holds no clips"
    return f"{clips} holds no {' or '.join(names_of(clip))}, with any common suffix{present}"


def _check(items: Sequence[_Item], tasks: dict[int, Task], output: Path, options: PrepareOptions) -> None:
    for index, result in zip(tasks, check_all(tasks.values(), output, workers=options.workers), strict=True):
        items[index].check = result
        if result.refused:
            items[index].refuse(result.refused, result.detail)


def _by_content(items: Sequence[_Item]) -> list[list[_Item]]:
    groups: dict[str, list[_Item]] = {}
    for item in items:
        if not item.refused and item.check:
            groups.setdefault(item.check.sha256, []).append(item)
    return list(groups.values())


def _refuse_placeholders(items: Sequence[_Item]) -> None:
    """Refuse pictures such as "no longer available", which many sources serve, each with other captions."""
    for group in _by_content(items):
        sources = {item.annotation.source for item in group}
        captions = {tuple(sorted(caption.casefold() for caption in item.captions)) for item in group}
        if min(len(sources), len(captions)) >= PLACEHOLDER_SOURCES:
            for item in group:
                item.refuse("placeholder", f"the same content as {len(sources) - 1} other sources")


def _merge_duplicates(items: Sequence[_Item], options: PrepareOptions) -> int:
    """Move the captions of equal clips to the first one; return the number of captions dropped as repeated."""
    repeated = 0
    for first, *others in _by_content(items):
        for other in others:
            other.refuse("duplicate", f"the same content as {first.annotation.source}, which now has its captions")
            first.captions += other.captions
        if others and "repeated" not in options.keep:
            before = len(first.captions)
            first.captions = drop_repeated(first.captions)
            repeated += before - len(first.captions)
    return repeated


def _clip(item: _Item) -> Clip:
    check = item.check
    assert check is not None
    stem = Path(item.annotation.clip or file_name_of(item.annotation)).stem
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40]
    # The hash makes the name unique; a dot in it would end the key of a WebDataset.
    name = f"{stem or 'clip'}-{check.sha256[:16]}{check.suffix}"
    return Clip(Path(check.path), name, item.split, check.size, check.sha256, tuple(item.captions))


def _write(clips: Sequence[Clip], output: Path, options: PrepareOptions) -> dict[str, Any]:
    """Write the shards, unless those of the last run have the same content; return the manifest's part on them."""
    content = [(clip.split, clip.file_name, clip.sha256, clip.captions) for clip in clips]
    settings = {"form": options.shards, "shard_bytes": options.shard_bytes}
    fingerprint = hashlib.sha256(json.dumps([settings, content]).encode()).hexdigest()
    path = output / MANIFEST
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    shards = earlier.get("shards", [])
    if earlier.get("fingerprint") != fingerprint or not are_intact(shards, clips, output, options.shards):
        path.unlink(missing_ok=True)  # it would describe shards that no longer exist
        shards = write_shards(clips, output, options.shards, options.shard_bytes)
    return {**settings, "fingerprint": fingerprint, "shards": shards}


def _counts(items: Sequence[_Item]) -> dict[str, Any]:
    refused = Counter(item.refused for item in items if item.refused)
    kept = len(items) - refused.total()
    return {
        "annotated": len(items),
        "found": len(items) - sum(refused[reason] for reason in WITHOUT_FILE),
        "refused": {reason: refused[reason] for reason in REASONS},
        "kept": kept,
        "coverage": round(kept / len(items), 4) if items else None,
    }


def _caption_counts(items: Sequence[_Item], repeated: int) -> dict[str, int]:
    """Counts of `annotated` and `cleaned` captions; `cleaned` is the sum of the counts after it."""
    kept = sum(len(item.captions) for item in items if not item.refused)
    lost = sum(len(item.captions) for item in items if item.refused not in ("", "duplicate"))
    return {
        "annotated": sum(len(item.annotation.captions) for item in items),
        "cleaned": kept + lost + repeated,
        "kept": kept,
        "of_refused_clips": lost,
        "repeated_by_merging": repeated,
    }


def _origin(item: _Item) -> dict[str, Any]:
    clip = item.annotation
    return {"source": clip.source, "start": clip.start, "end": clip.end, "split": item.split or None}


def _refusal(item: _Item) -> dict[str, Any]:
    return {**_origin(item), "reason": item.refused, "detail": item.detail}
