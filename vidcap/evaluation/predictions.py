"""Reads a file of captions and their references, and pairs them by clip.

Guarantees: every caption is scored, omitted and counted if the user allows it, or refused with file and line.

Limitations: names are matched as they are, or without suffix or folder; nothing else is guessed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.annotation_files import AnnotationError, get_value, list_entries, parse_json, read_json, text_lines
from ..data.annotations import SPLIT_NAMES, read_annotations

NAME_KEYS = ("file_name", "image_id", "video_id")
CAPTION_KEYS = ("hypothesis", "caption")
_NAMED = 3  # clips named in a message


@dataclass(frozen=True)
class Hypothesis:
    """A caption to score: the clip's name in the file, the caption, and its place in the file."""

    name: str
    caption: str
    place: str


@dataclass(frozen=True)
class References:
    """The true captions of a test set.

    Args:
        source: The file or data set, for messages.
        captions: The captions of each clip by its name, in the order of the source.
        aliases: Other names, such as file names where ids are names, and the clips they may refer to.
    """

    source: str
    captions: dict[str, list[str]]
    aliases: dict[str, set[str]] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """Map every accepted name to its clip: its own, its aliases, and both without suffix or folder.

        Ambiguous names are not accepted.
        """
        clips_by_alias = {alias: set(clips) & self.captions.keys() for alias, clips in self.aliases.items()}
        for name, clips in {**{name: {name} for name in self.captions}, **clips_by_alias}.items():
            for shorter in {str(Path(name).with_suffix("")), Path(name).stem} if Path(name).name else ():
                clips_by_alias[shorter] = clips_by_alias.get(shorter, set()) | clips
        unique = {alias: next(iter(clips)) for alias, clips in clips_by_alias.items() if len(clips) == 1}
        return unique | {name: name for name in self.captions}


@dataclass(frozen=True)
class MatchedCaptions:
    """Clips with a hypothesis and references, in the order of the references.

    Args:
        names: Names of the clips.
        hypotheses: One per clip.
        references: At least one per clip.
        coverage: `asked` (clips with references), `found` (those with a hypothesis), `scored`, `empty_hypotheses`, and
            `unknown_hypotheses` (of clips without references).
    """

    names: list[str]
    hypotheses: list[str]
    references: list[list[str]]
    coverage: dict[str, int]


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Read captions: lines `{"file_name", "hypothesis"}`, or COCO's JSON list `[{"image_id", "caption"}]`.

    In both, `image_id` or `video_id` may replace `file_name`, and `caption` may replace `hypothesis`; other keys are
    ignored. Empty captions are read.

    Raises:
        AnnotationError: For a mistake in the file, naming its line or entry.
        OSError: If the file cannot be read.
    """
    hypotheses = []
    for place, entry in _entries(path):
        name = _first_value(path, place, entry, NAME_KEYS, (str, int))
        caption = _first_value(path, place, entry, CAPTION_KEYS, str)
        hypotheses.append(Hypothesis(_encodable(path, place, str(name)), _encodable(path, place, caption), place))
    if not hypotheses:
        raise AnnotationError(path, "", "contains no captions")
    return hypotheses


def read_references(path: Path, *, split: str | None = None) -> References:
    """Read true captions: lines `{"file_name", "captions"}`, or the annotations of COCO or MSR-VTT.

    Args:
        path: `.jsonl`, whose lines may have `caption`, `captions` or `references`; or JSON, recognised by its keys.
        split: The split to read from a file that names splits, default `test`.

    Raises:
        AnnotationError: For a mistake in the file, an unknown format, or a split that the file does not have.
        OSError: If the file cannot be read.
    """
    if path.suffix == ".jsonl":
        references, splits = _line_references(path)
    else:
        content = read_json(path)
        keys = content.keys() if isinstance(content, dict) else set()
        if {"videos", "sentences"} <= keys:
            clips = read_annotations(path, "msrvtt")
            references = References(str(path), {clip.source: list(clip.captions) for clip in clips})
            splits = {clip.source: clip.split for clip in clips if clip.split is not None}
        elif {"images", "annotations"} <= keys:
            references, splits = _coco_references(path, content), {}
        else:
            raise AnnotationError(
                path, "", 'neither COCO ("images", "annotations") nor MSR-VTT ("videos", "sentences"); put lines of '
                '{"file_name", "captions"} into a file with the suffix .jsonl'
            )  # fmt: skip
    for name, captions in references.captions.items():
        for caption in captions:
            if not _encodable(path, name, caption).strip():
                raise AnnotationError(path, name, "has an empty reference; remove it from the file")
    return _select_split(path, references, splits, split)


def match_captions(
    hypotheses_file: Path,
    references: References,
    *,
    limit: int | None = None,
    allow_missing: bool = False,
) -> MatchedCaptions:
    """Pair the captions of a file with references.

    Args:
        hypotheses_file: See [`read_hypotheses`].
        references: References of the whole test set.
        limit: Score only the first clips; hypotheses of the others are ignored.
        allow_missing: Score the clips that have both, if clips lack a hypothesis or hypotheses are of unknown clips.

    Raises:
        AnnotationError: For a clip with two hypotheses; without `allow_missing` for a clip without a hypothesis and a
            hypothesis of an unknown clip; with it, if no clip can be scored.
    """
    names = references.names()
    known: dict[str, Hypothesis] = {}
    unknown_by_name: dict[str, Hypothesis] = {}
    for hypothesis in read_hypotheses(hypotheses_file):
        seen = known if hypothesis.name in names else unknown_by_name
        first = seen.setdefault(names.get(hypothesis.name, hypothesis.name), hypothesis)
        if first is not hypothesis:
            raise AnnotationError(
                hypotheses_file,
                hypothesis.place,
                f"a second hypothesis for {hypothesis.name}, after {first.place}; keep one of them",
            )
    unknown = list(unknown_by_name.values())
    asked = list(references.captions)[:limit]
    scored = [name for name in asked if name in known]
    if unknown and not allow_missing:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise AnnotationError(
            hypotheses_file,
            unknown[0].place,
            f"unknown clips: {unknown[0].name!r}{others}; {references.source} has {len(references.captions)} clips, "
            f"such as {next(iter(references.captions))!r}; --allow_missing omits unknown clips",
        )
    if len(scored) < len(asked) and not allow_missing:
        missing = [name for name in asked if name not in known]
        listed = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise AnnotationError(
            hypotheses_file,
            "",
            f"no hypothesis for {len(missing)} of {len(asked)} clips of {references.source} ({listed}); add them, or "
            "score only the others with --allow_missing",
        )
    if not scored:
        raise AnnotationError(
            hypotheses_file, "", f"no hypothesis for any clip of {references.source}; check the names of the clips"
        )
    captions = [known[name].caption for name in scored]
    return MatchedCaptions(
        scored,
        captions,
        [references.captions[name] for name in scored],
        {
            "asked": len(asked),
            "found": len(scored),
            "scored": len(scored),
            "empty_hypotheses": sum(not caption.strip() for caption in captions),
            "unknown_hypotheses": len(unknown),
        },
    )


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of each entry of a JSON list or of JSON lines."""
    with path.open("rb") as file:
        is_list = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_list:
        yield from list_entries(path, read_json(path), "")
        return
    for place, line in text_lines(path):
        yield place, parse_json(path, place, line)


def _first_value(path: Path, place: str, entry: object, keys: Sequence[str], kind: type | tuple[type, ...]) -> Any:
    """The value of the first of `keys` that an entry has."""
    key = next((key for key in keys if isinstance(entry, dict) and key in entry), None)
    if key is None:
        raise AnnotationError(path, place, f"has none of the keys {', '.join(keys)}")
    return get_value(path, place, entry, key, kind)


def _encodable(path: Path, place: str, text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can escape but no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AnnotationError(path, place, f"half of a surrogate pair at letter {error.start}; remove it") from error
    return text


def _line_references(path: Path) -> tuple[References, dict[str, str]]:
    from processing.clips.sources import caption_row  # loads `datasets`, which the other formats do not need

    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for place, line in text_lines(path):
        entry = parse_json(path, place, line)
        name = str(_first_value(path, place, entry, NAME_KEYS, (str, int)))
        if name in captions:
            raise AnnotationError(path, place, f"{name} has a line already; put all its captions on one line")
        captions[name] = caption_row(entry, f"{path}, {place}")["captions"]
        if entry.get("split") is not None:
            splits[name] = get_value(path, place, entry, "split", str)
    if not captions:
        raise AnnotationError(path, "", "contains no captions")
    return References(str(path), captions), splits


def _coco_references(path: Path, content: dict[str, Any]) -> References:
    """References by id; unlike `data.annotations.read_coco`, needs no file names."""
    texts: dict[str, list[str]] = {}
    for place, entry in list_entries(path, content["annotations"], "annotations"):
        caption = get_value(path, place, entry, "caption", str)
        texts.setdefault(str(get_value(path, place, entry, "image_id", (int, str))), []).append(caption)
    captions: dict[str, list[str]] = {}
    aliases: dict[str, set[str]] = {}
    for place, entry in list_entries(path, content["images"], "images"):
        number = str(get_value(path, place, entry, "id", (int, str)))
        if number in captions:
            raise AnnotationError(path, place, f"the id {number} occurs twice; remove one of the images")
        if number not in texts:
            raise AnnotationError(path, place, f"image {number} has no caption; add one, or remove the image")
        captions[number] = texts[number]
        if "file_name" in entry:
            aliases.setdefault(get_value(path, place, entry, "file_name", str), set()).add(number)
    if unknown := texts.keys() - captions.keys():
        raise AnnotationError(path, "annotations", f"image_id {min(unknown)} is not among the images; add the image")
    if not captions:
        raise AnnotationError(path, "", "contains no captions")
    return References(str(path), captions, aliases)


def _select_split(path: Path, references: References, splits: dict[str, str], split: str | None) -> References:
    if not splits:
        if split is not None:
            raise AnnotationError(path, "", f"does not name splits, so --split {split} cannot be selected; omit it")
        return references
    if without := [name for name in references.captions if name not in splits]:
        raise AnnotationError(
            path, without[0], f"has no split ({len(without)} of {len(references.captions)} clips have none); name the "
            "split of all clips, or of none"
        )  # fmt: skip
    chosen_split = split or "test"
    chosen = {
        name: captions
        for name, captions in references.captions.items()
        if SPLIT_NAMES.get(splits[name], splits[name]) == SPLIT_NAMES.get(chosen_split, chosen_split)
    }
    if not chosen:
        counts = ", ".join(f"{name} ({count} clips)" for name, count in sorted(Counter(splits.values()).items()))
        raise AnnotationError(path, "", f"has no split {chosen_split}; choose with --split from {counts}")
    return References(f"{references.source} ({chosen_split})", chosen, references.aliases)


def coverage_note(coverage: dict[str, int]) -> str:
    """Numbers of clips that were not scored and of empty captions, in one line; empty if there are none."""
    notes = []
    if missing := coverage["asked"] - coverage["scored"]:
        notes.append(f"{missing} of {coverage['asked']} clips are not scored")
    if count := coverage.get("unknown_hypotheses"):
        notes.append(f"{count} hypotheses are of unknown clips")
    if count := coverage.get("empty_hypotheses"):
        notes.append(f"{count} hypotheses are empty and score 0")
    return "; ".join(notes)
