"""Annotations -> clips that are there, readable and worth training on -> shards, a manifest, and a list of the rest.

Nothing is dropped silently: every annotation is a kept clip or a line of `refused.jsonl`, and the manifest counts
both. A second run fetches, decodes and writes only what is missing, and ends with the same manifest, which holds no
times.

Given up: content that is nearly the same. Duplicates and placeholders are told by equal bytes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .annotations import STILL_FORMATS, Annotation, read_annotations, read_split_lists
from .cards import MANIFEST, write_card
from .checking import Check, ClipFolder, Task, check_all, file_name_of, find_clip
from .cleaning import CaptionCleaner, drop_repeated
from .fetching import FetchOptions, fetch_all
from .sharding import SPLITS, Clip, are_intact, write_shards

REASONS = {
    "no_split": "none of the split lists names it",
    "no_caption": "cleaning left no caption",
    "missing": "no file of it is there",
    "gone": "its server has it no more",
    "not_fetched": "it could not be fetched",
    "unreadable": "it cannot be decoded",
    "segment": "the video does not hold the annotated part",
    "still": "a picture that does not move, in place of a clip",
    "placeholder": "the same content under three or more sources of different captions",
    "duplicate": "the same content as another clip, which has its captions now",
}
WITHOUT_FILE = ("no_split", "no_caption", "missing", "gone", "not_fetched")
PLACEHOLDER_SOURCES = 3


class PrepareError(ValueError):
    """Nothing can be prepared, said in one line."""


@dataclass(frozen=True)
class PrepareOptions:
    """
    What to make of the annotations.

    Args:
        format: A key of `annotations.READERS`.
        clips: Folder of clips; None if all are to be fetched.
        split: The split of all clips; None takes the annotations' own, or shares.
        split_lists: Files named by splits that list the sources of each; a clip that none of them names is refused.
        validation, test: Shares of the clips whose split the annotations do not say, by a hash of their source: more
            clips move none of these.
        keep: Cleaning rules to leave out.
        shards: A key of `sharding.WRITERS`.
        shard_bytes: Most bytes of clips in a shard.
        workers: Clips decoded at once.
        fetch: How to fetch what `clips` lacks; None fetches nothing.
        license: Of the data set, for its card.
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
    """An annotation on its way, with its cleaned captions, split, and what was found; `refused` and why, if so."""

    annotation: Annotation
    captions: list[str]
    split: str
    check: Check | None = None
    refused: str = ""
    detail: str = ""

    def refuse(self, reason: str, detail: str = "") -> None:
        self.refused, self.detail = reason, detail or REASONS[reason]


def prepare(annotations: Path, output: Path, options: PrepareOptions) -> dict[str, Any]:
    """Makes a data set.

    Args:
        annotations: A published caption file.
        output: The folder of the data set; it also keeps what was fetched, cut and checked.
        options: What to make of it.

    Returns:
        The manifest, as written to `manifest.json`.

    Raises:
        AnnotationError: For a mistake in the caption file or a split list.
        PrepareError: If `output` holds other things, a file may be either of two clips, or no clip is left.
        OSError: If a file cannot be read or written.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / "checks.jsonl").is_file():
        raise PrepareError(f"{output} holds other things than a data set made here; empty it or name another folder")
    cleaner = CaptionCleaner(options.keep)
    read = read_annotations(annotations, options.format)
    if options.split_lists:
        lists = read_split_lists(options.split_lists)
        read = [replace(each, split=lists.get(each.source) or lists.get(each.clip or "")) for each in read]
    items = [_Item(each, cleaner(each.captions), split_of(each, options)) for each in read]
    output.mkdir(parents=True, exist_ok=True)
    (output / "checks.jsonl").touch()
    for item in items:
        if not item.split:
            item.refuse("no_split")
        elif not item.captions:
            item.refuse("no_caption")
    _check(items, _locate(items, output, options), output, options)
    _refuse_placeholders(items)
    repeated = _merge_duplicates(items, options)
    kept = [item for item in items if not item.refused]
    lines = [json.dumps(_refusal(item), ensure_ascii=False) for item in items if item.refused]
    write_atomically(output / "refused.jsonl", "".join(f"{line}\n" for line in lines))
    if not kept:
        counts = Counter(item.refused for item in items)
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise PrepareError(
            f"none of the {len(items)} clips can be used ({listed}); {output / 'refused.jsonl'} lists them"
        )
    clips = [_clip(item) for item in kept]
    manifest = {
        "format": options.format,
        **_counts(items),
        "captions": _caption_counts(items, repeated),
        "cleaning": cleaner.as_dict(),
        "splits": {split: _counts([item for item in items if item.split == split]) for split in SPLITS},
        **_write(clips, output, options),
        "clips": [
            {**_origin(item), "file_name": clip.file_name, "sha256": clip.sha256, "captions": len(clip.captions)}
            for item, clip in zip(kept, clips, strict=True)
        ],
    }
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_card(output, manifest, REASONS, options.license)
    return manifest


def split_of(each: Annotation, options: PrepareOptions) -> str:
    """The split of a clip, empty if split lists leave it out. All parts of one video share theirs."""
    if options.split or each.split or options.split_lists:
        return options.split or each.split or ""
    place = int(hashlib.sha256(each.source.encode()).hexdigest()[:12], 16) / 16**12  # uniform in [0, 1)
    if place < options.validation:
        return "validation"
    return "test" if place < options.validation + options.test else "train"


def _locate(items: Sequence[_Item], output: Path, options: PrepareOptions) -> dict[int, Task]:
    """The file of each item that has one, by its place among the items; the others are refused."""
    folder = ClipFolder(options.clips) if options.clips else None
    stills = options.format in STILL_FORMATS
    tasks: dict[int, Task] = {}
    wanted: dict[int, str] = {}
    owners: dict[Path, str] = {}
    for index, item in enumerate(items):
        each = item.annotation
        if item.refused:
            continue
        found = find_clip(each, folder) if folder else None
        if found is not None:
            path, longer = found
            # The last part of a URL may be that of many: `video.mp4`.
            if each.is_url and owners.setdefault(path, each.source) != each.source:
                raise PrepareError(f"{path} may be {owners[path]} or {each.source}; take it out of --clips")
            tasks[index] = Task(path, each.start, each.end, stills) if longer else Task(path, stills=stills)
        elif each.is_url and options.fetch:
            wanted[index] = each.source
        else:
            item.refuse("missing")
    if options.fetch and wanted:
        fetched = fetch_all(wanted.values(), output / "fetched", options.fetch)
        for index, url in wanted.items():
            result, each = fetched[url], items[index].annotation
            if result.path is None:
                items[index].refuse("gone" if result.gone else "not_fetched", result.failure)
            else:
                tasks[index] = Task(result.path, each.start, each.end, stills)
    return tasks


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
    """ "This picture is no longer available" comes under many addresses, each with another caption."""
    for group in _by_content(items):
        sources = {item.annotation.source for item in group}
        captions = {tuple(sorted(caption.casefold() for caption in item.captions)) for item in group}
        if min(len(sources), len(captions)) >= PLACEHOLDER_SOURCES:
            for item in group:
                item.refuse("placeholder", f"the same content as {len(sources) - 1} other sources")


def _merge_duplicates(items: Sequence[_Item], options: PrepareOptions) -> int:
    """Gives the captions of equal clips to the first, in its split; returns how many came twice by that."""
    repeated = 0
    for first, *others in _by_content(items):
        for other in others:
            other.refuse("duplicate", f"the same content as {first.annotation.source}, which has its captions now")
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
    # By its content the name is unique; a dot in it would end the key of a WebDataset.
    name = f"{stem or 'clip'}-{check.sha256[:16]}{check.suffix}"
    return Clip(Path(check.path), name, item.split, check.size, check.sha256, tuple(item.captions))


def _write(clips: Sequence[Clip], output: Path, options: PrepareOptions) -> dict[str, Any]:
    """Writes the shards, unless those of the last run hold the same; what the manifest says of them."""
    content = [(clip.split, clip.file_name, clip.sha256, clip.captions) for clip in clips]
    settings = {"form": options.shards, "shard_bytes": options.shard_bytes}
    fingerprint = hashlib.sha256(json.dumps([settings, content]).encode()).hexdigest()
    path = output / MANIFEST
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    shards = earlier.get("shards", [])
    if earlier.get("fingerprint") != fingerprint or not are_intact(shards, clips, output, options.shards):
        path.unlink(missing_ok=True)  # it would describe shards that are no longer there
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
    """`annotated` captions, those that cleaning left, and where these are: `cleaned` is the sum of what follows it."""
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
    each = item.annotation
    return {"source": each.source, "start": each.start, "end": each.end, "split": item.split or None}


def _refusal(item: _Item) -> dict[str, Any]:
    return {**_origin(item), "reason": item.refused, "detail": item.detail}
