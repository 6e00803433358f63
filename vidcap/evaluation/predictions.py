"""Captions that something else wrote, and the true ones of the same clips -> pairs to score, and how many are missing.

Promises: every caption is scored, left out with the user's leave and counted, or refused with file and line. Gives up:
guesses which clip an unknown name may mean, beyond a file name without its ending.
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
_NAMED = 3  # clips that a message names


@dataclass(frozen=True)
class Hypothesis:
    """A caption to score: the clip as the file names it, the caption, and where in the file it stands."""

    name: str
    caption: str
    place: str


@dataclass(frozen=True)
class References:
    """The true captions of the clips of a test set.

    Args:
        source: The file or data set, for messages.
        captions: By the clip's name, in the order of the source.
        aliases: Other names, such as those of files where ids are names, and the clips that they may mean.
    """

    source: str
    captions: dict[str, list[str]]
    aliases: dict[str, set[str]] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """Every name a clip may be called by -> its name: its own, its aliases, and both without ending or folder.

        A name that two clips could mean is none.
        """
        meant: dict[str, set[str]] = {
            alias: set(clips) & self.captions.keys() for alias, clips in self.aliases.items()
        }
        whole = {**{name: {name} for name in self.captions}, **meant}
        for name, clips in whole.items():
            for shorter in {str(Path(name).with_suffix("")), Path(name).stem} if Path(name).name else ():
                meant[shorter] = meant.get(shorter, set()) | clips
        others = {alias: next(iter(names)) for alias, names in meant.items() if len(names) == 1}
        return others | {name: name for name in self.captions}


@dataclass(frozen=True)
class MatchedCaptions:
    """Clips with a hypothesis and references, in the order of the references.

    Args:
        names: Of the clips.
        hypotheses: One each.
        references: At least one each.
        coverage: `asked` (clips that have references), `found` (those of them with a hypothesis), `scored`,
            `empty_hypotheses`, and `unknown_hypotheses`, of clips without references.
    """

    names: list[str]
    hypotheses: list[str]
    references: list[list[str]]
    coverage: dict[str, int]


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Reads captions: lines `{"file_name", "hypothesis"}`, or the JSON list `[{"image_id", "caption"}]` of COCO.

    `image_id` and `video_id` may stand for `file_name` and `caption` for `hypothesis` in both; other keys are not
    looked at. An empty caption is one.

    Raises:
        AnnotationError: For a mistake in the file, naming its line or entry.
        OSError: If the file cannot be read.
    """
    found = []
    for place, entry in _entries(path):
        name = _first(path, place, entry, NAME_KEYS, (str, int))
        caption = _first(path, place, entry, CAPTION_KEYS, str)
        found.append(Hypothesis(_encodable(path, place, str(name)), _encodable(path, place, caption), place))
    if not found:
        raise AnnotationError(path, "", "no captions")
    return found


def read_references(path: Path, *, split: str | None = None) -> References:
    """Reads true captions: lines `{"file_name", "captions"}`, or the annotations of COCO or MSR-VTT.

    Args:
        path: `.jsonl`, whose lines may have `caption`, `captions` or `references`; or JSON, recognised by its keys.
        split: Which clips of a file that says which split each is in; by default `test`.

    Raises:
        AnnotationError: For a mistake in the file, a form that is none of these, and a split that it has not.
        OSError: If the file cannot be read.
    """
    if path.suffix == ".jsonl":
        found, splits = _line_references(path)
    else:
        content = read_json(path)
        keys = content.keys() if isinstance(content, dict) else set()
        if {"videos", "sentences"} <= keys:
            clips = read_annotations(path, "msrvtt")
            found = References(str(path), {each.source: list(each.captions) for each in clips})
            splits = {each.source: each.split for each in clips if each.split is not None}
        elif {"images", "annotations"} <= keys:
            found, splits = _coco_references(path, content), {}
        else:
            raise AnnotationError(
                path, "", 'neither COCO ("images", "annotations") nor MSR-VTT ("videos", "sentences"); lines of '
                '{"file_name", "captions"} go into a file named .jsonl'
            )  # fmt: skip
    for name, captions in found.captions.items():
        for caption in captions:
            if not _encodable(path, name, caption).strip():
                raise AnnotationError(path, name, "has an empty reference; leave it out of the file")
    return _of_split(path, found, splits, split)


def match_captions(
    hypotheses_file: Path,
    references: References,
    *,
    limit: int | None = None,
    allow_missing: bool = False,
) -> MatchedCaptions:
    """Pairs the captions of a file with references.

    Args:
        hypotheses_file: See [`read_hypotheses`].
        references: Of the whole test set.
        limit: Ask for its first clips only; hypotheses of the others are then not looked at.
        allow_missing: Score the clips that have both, where clips lack a hypothesis or hypotheses a clip.

    Raises:
        AnnotationError: For a clip with two hypotheses; without `allow_missing` for a clip with none and for a
            hypothesis of an unknown clip; with it, if nothing is left.
    """
    names = references.names()
    known: dict[str, Hypothesis] = {}
    strange: dict[str, Hypothesis] = {}
    for each in read_hypotheses(hypotheses_file):
        seen = known if each.name in names else strange
        first = seen.setdefault(names.get(each.name, each.name), each)
        if first is not each:
            raise AnnotationError(
                hypotheses_file, each.place, f"a second hypothesis of {each.name}, after {first.place}; keep one"
            )
    unknown = list(strange.values())
    asked = list(references.captions)[:limit]
    scored = [name for name in asked if name in known]
    if unknown and not allow_missing:
        others = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise AnnotationError(
            hypotheses_file,
            unknown[0].place,
            f"{unknown[0].name!r}{others}: none of the {len(references.captions)} clips of {references.source} (such "
            f"as {next(iter(references.captions))!r}); --allow_missing leaves such captions out",
        )
    if len(scored) < len(asked) and not allow_missing:
        missing = [name for name in asked if name not in known]
        listed = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise AnnotationError(
            hypotheses_file,
            "",
            f"no hypothesis for {len(missing)} of {len(asked)} clips of {references.source} ({listed}); add them, or "
            "score the others with --allow_missing",
        )
    if not scored:
        raise AnnotationError(hypotheses_file, "", f"no hypothesis for any clip of {references.source}")
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
    with path.open("rb") as file:
        is_list = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_list:
        yield from list_entries(path, read_json(path), "")
        return
    for place, line in text_lines(path):
        yield place, parse_json(path, place, line)


def _first(path: Path, place: str, entry: Any, keys: Sequence[str], kind: type | tuple[type, ...]) -> Any:
    """The value of the first of some keys that an entry has."""
    found = next((key for key in keys if isinstance(entry, dict) and key in entry), None)
    if found is None:
        raise AnnotationError(path, place, f"none of {', '.join(keys)}")
    return get_value(path, place, entry, found, kind)


def _encodable(path: Path, place: str, text: str) -> str:
    """JSON can escape half of a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AnnotationError(path, place, f"half of a surrogate pair at letter {error.start}, no text") from error
    return text


def _line_references(path: Path) -> tuple[References, dict[str, str]]:
    from processing.clips.sources import caption_row  # loads `datasets`, which the other forms do without

    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for place, line in text_lines(path):
        entry = parse_json(path, place, line)
        name = str(_first(path, place, entry, NAME_KEYS, (str, int)))
        if name in captions:
            raise AnnotationError(path, place, f"{name} a second time; give all its captions on one line")
        captions[name] = caption_row(entry, f"{path}, {place}")["captions"]
        if entry.get("split") is not None:
            splits[name] = get_value(path, place, entry, "split", str)
    if not captions:
        raise AnnotationError(path, "", "no captions")
    return References(str(path), captions), splits


def _coco_references(path: Path, content: dict[str, Any]) -> References:
    """Unlike `data.annotations.read_coco`, which is after files, this keeps ids and needs no file names."""
    texts: dict[str, list[str]] = {}
    for place, entry in list_entries(path, content["annotations"], "annotations"):
        caption = get_value(path, place, entry, "caption", str)
        texts.setdefault(str(get_value(path, place, entry, "image_id", (int, str))), []).append(caption)
    captions: dict[str, list[str]] = {}
    aliases: dict[str, set[str]] = {}
    for place, entry in list_entries(path, content["images"], "images"):
        number = str(get_value(path, place, entry, "id", (int, str)))
        if number in captions:
            raise AnnotationError(path, place, f"image {number} a second time")
        if number not in texts:
            raise AnnotationError(path, place, f"no caption of the image {number}")
        captions[number] = texts[number]
        if "file_name" in entry:
            aliases.setdefault(get_value(path, place, entry, "file_name", str), set()).add(number)
    if strange := texts.keys() - captions.keys():
        raise AnnotationError(path, "annotations", f"{min(strange)} is none of the images")
    if not captions:
        raise AnnotationError(path, "", "no captions")
    return References(str(path), captions, aliases)


def _of_split(path: Path, found: References, splits: dict[str, str], split: str | None) -> References:
    if not splits:
        if split is not None:
            raise AnnotationError(path, "", f"does not say which clips are of the split {split}; leave --split out")
        return found
    if without := [name for name in found.captions if name not in splits]:
        raise AnnotationError(
            path, without[0], f"has no split, as {len(without)} of the {len(found.captions)} clips, and others have "
            "one; name the split of each clip, or of none"
        )  # fmt: skip
    wanted = split or "test"
    chosen = {
        name: captions
        for name, captions in found.captions.items()
        if SPLIT_NAMES.get(splits[name], splits[name]) == SPLIT_NAMES.get(wanted, wanted)
    }
    if not chosen:
        there = ", ".join(f"{count} of {name}" for name, count in sorted(Counter(splits.values()).items()))
        raise AnnotationError(path, "", f"no clips of the split {wanted}; there are {there}; name one by --split")
    return References(f"{found.source} ({wanted})", chosen, found.aliases)


def coverage_note(coverage: dict[str, int]) -> str:
    """What was not scored and what was empty, in one line; nothing where all is well."""
    notes = []
    if missing := coverage["asked"] - coverage["scored"]:
        notes.append(f"{missing} of {coverage['asked']} clips are not scored")
    if count := coverage.get("unknown_hypotheses"):
        notes.append(f"{count} hypotheses are of unknown clips")
    if count := coverage.get("empty_hypotheses"):
        notes.append(f"{count} hypotheses are empty and score nothing")
    return "; ".join(notes)
