"""Caption cleaning by named rules, which can be omitted and which count their changes.

`REWRITES` change a caption and never drop it, `FILTERS` drop captions of a clip and change none. They apply in the
order of `RULES`: encoding repair needs the control characters that a misread caption contains.

Limitations: languages are not told apart. `script` looks at the writing system, so French captions are kept.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

TAGS = "a|abbr|b|big|blockquote|center|code|em|font|i|img|s|small|span|strike|strong|sub|sup|tt|u"
BREAKING_TAGS = "br|div|h[1-6]|hr|li|ol|p|pre|table|td|th|tr|ul"  # these separate words
ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z]+\d*);")
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff\ufffd"))  # soft hyphen, zero widths, BOM, lost character


def _byte_of(character: str) -> bytes:
    """The byte that cp1252 decodes to this character, empty if none; its five undefined bytes as in latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1") if ord(character) < 256 else b""


_BYTES = {
    character: _byte_of(character)
    for character in [*map(chr, range(128, 256)), *bytes(range(128, 256)).decode("cp1252", "ignore")]
}


def _class(low: int, high: int) -> str:
    characters = [character for character, byte in _BYTES.items() if low <= byte[0] <= high]
    return f"[{re.escape(''.join(characters))}]"


_NEXT = _class(0x80, 0xBF)
# UTF-8 sequences of two, three and four bytes (RFC 3629), each byte read as a character of its own.
MOJIBAKE = re.compile(f"{_class(0xC2, 0xDF)}{_NEXT}|{_class(0xE0, 0xEF)}{_NEXT}{{2}}|{_class(0xF0, 0xF4)}{_NEXT}{{3}}")


def repair_encoding(caption: str) -> str:
    """Repair UTF-8 that was read as latin-1 or cp1252, also several times.

    Unicode is composed (NFC), control characters become spaces, invisible characters are removed.
    """

    def repair(match: re.Match[str]) -> str:
        try:
            return b"".join(_BYTES[character] for character in match[0]).decode("utf-8")
        except UnicodeDecodeError:  # not UTF-8 after all: keep the characters
            return match[0]

    while (repaired := MOJIBAKE.sub(repair, caption)) != caption:  # each pass makes it shorter
        caption = repaired
    visible = caption.translate(INVISIBLE)
    return unicodedata.normalize("NFC", "".join(" " if unicodedata.category(c) == "Cc" else c for c in visible))


def strip_markup(caption: str) -> str:
    """Replace HTML entities, also those escaped twice, and remove HTML tags and comments."""
    while (plain := ENTITY.sub(lambda match: html.unescape(match[0]), caption)) != caption:
        caption = plain
    caption = re.sub(r"<!--.*?-->", "", caption, flags=re.DOTALL)
    caption = re.sub(rf"</?(?:{BREAKING_TAGS})(?:\s[^<>]*)?/?>", " ", caption, flags=re.IGNORECASE)
    return re.sub(rf"</?(?:{TAGS})(?:\s[^<>]*)?/?>", "", caption, flags=re.IGNORECASE)


def collapse_spaces(caption: str) -> str:
    """Replace white space of any kind between words by one space."""
    return " ".join(caption.split())


def drop_empty(captions: list[str]) -> list[str]:
    """Drop captions without a letter or digit."""
    return [caption for caption in captions if any(character.isalnum() for character in caption)]


def drop_other_scripts(captions: list[str]) -> list[str]:
    """Drop captions more than half of whose letters are not Latin."""

    def is_latin(caption: str) -> bool:
        letters = [character for character in caption if character.isalpha()]
        others = sum("LATIN" not in unicodedata.name(character, "") for character in letters)
        return 2 * others <= len(letters)

    return [caption for caption in captions if is_latin(caption)]


def drop_repeated(captions: list[str]) -> list[str]:
    """Keep the first of the captions of a clip that differ in case alone."""
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(caption.casefold(), caption)
    return list(first.values())


REWRITES: dict[str, Callable[[str], str]] = {
    "encoding": repair_encoding,
    "markup": strip_markup,
    "spaces": collapse_spaces,
}
FILTERS: dict[str, Callable[[list[str]], list[str]]] = {
    "empty": drop_empty,
    "script": drop_other_scripts,
    "repeated": drop_repeated,
}
RULES = (*REWRITES, *FILTERS)


@dataclass
class RuleCount:
    """Numbers of captions before, after and changed by a rule."""

    before: int = 0
    after: int = 0
    changed: int = 0


class CaptionCleaner:
    """
    Cleans captions clip by clip.

    Args:
        keep: Rules to omit, of `RULES`.

    Attributes:
        counts: Counts of each applied rule so far.

    Raises:
        ValueError: For an unknown rule.
    """

    def __init__(self, keep: Collection[str] = ()):
        if unknown := [name for name in keep if name not in RULES]:
            raise ValueError(f"unknown rule {', '.join(unknown)}; the rules are {', '.join(RULES)}")
        self.counts = {name: RuleCount() for name in RULES if name not in keep}

    def __call__(self, captions: Collection[str]) -> list[str]:
        """The cleaned captions of one clip, in order."""
        cleaned = list(captions)
        for name, count in self.counts.items():
            before = cleaned
            cleaned = list(map(REWRITES[name], before)) if name in REWRITES else FILTERS[name](before)
            count.before += len(before)
            count.after += len(cleaned)
            if name in REWRITES:
                count.changed += sum(old != new for old, new in zip(before, cleaned, strict=True))
        return cleaned

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The counts, for the manifest."""
        return {name: asdict(count) for name, count in self.counts.items()}
