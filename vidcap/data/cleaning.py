"""Caption cleaning by named rules, each of which can be left out and counts what it did.

`REWRITES` change a caption and never drop it, `FILTERS` drop captions of a clip and change none. They apply in the
order of `RULES`: the repair of a broken encoding has to see the control characters that it is made of.

Given up: languages. `script` tells writing systems apart, so that a French caption passes for an English one.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

TAGS = "a|abbr|b|big|blockquote|center|code|em|font|i|img|s|small|span|strike|strong|sub|sup|tt|u"
BREAKING_TAGS = "br|div|h[1-6]|hr|li|ol|p|pre|table|td|th|tr|ul"  # they part words
ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z]+\d*);")
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff\ufffd"))  # soft hyphen, zero widths, BOM, lost character


def _byte_of(character: str) -> bytes:
    """The byte that was read as this character; empty where there is none. cp1252 leaves five bytes undefined, which
    decoders pass on as in latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1") if ord(character) < 256 else b""


_BYTES = {
    each: _byte_of(each) for each in [*map(chr, range(128, 256)), *bytes(range(128, 256)).decode("cp1252", "ignore")]
}


def _class(low: int, high: int) -> str:
    characters = [character for character, byte in _BYTES.items() if low <= byte[0] <= high]
    return f"[{re.escape(''.join(characters))}]"


_NEXT = _class(0x80, 0xBF)
# UTF-8 sequences of two, three and four bytes (RFC 3629), each byte read as a character of its own.
MOJIBAKE = re.compile(f"{_class(0xC2, 0xDF)}{_NEXT}|{_class(0xE0, 0xEF)}{_NEXT}{{2}}|{_class(0xF0, 0xF4)}{_NEXT}{{3}}")


def repair_encoding(caption: str) -> str:
    """UTF-8 that was read as latin-1 or cp1252, once or several times, back to what it was; Unicode in its composed
    form (NFC); control characters become spaces, invisible ones go."""

    def repair(found: re.Match[str]) -> str:
        try:
            return b"".join(_BYTES[character] for character in found[0]).decode("utf-8")
        except UnicodeDecodeError:  # it only looked like UTF-8: these characters are meant
            return found[0]

    while (repaired := MOJIBAKE.sub(repair, caption)) != caption:  # each pass makes it shorter
        caption = repaired
    visible = caption.translate(INVISIBLE)
    return unicodedata.normalize("NFC", "".join(" " if unicodedata.category(c) == "Cc" else c for c in visible))


def strip_markup(caption: str) -> str:
    """HTML entities become their characters, also where they were escaped twice; HTML tags and comments go."""
    while (plain := ENTITY.sub(lambda found: html.unescape(found[0]), caption)) != caption:
        caption = plain
    caption = re.sub(r"<!--.*?-->", "", caption, flags=re.DOTALL)
    caption = re.sub(rf"</?(?:{BREAKING_TAGS})(?:\s[^<>]*)?/?>", " ", caption, flags=re.IGNORECASE)
    return re.sub(rf"</?(?:{TAGS})(?:\s[^<>]*)?/?>", "", caption, flags=re.IGNORECASE)


def collapse_spaces(caption: str) -> str:
    """One blank between words and none around them, whatever kind of space there was."""
    return " ".join(caption.split())


def drop_empty(captions: list[str]) -> list[str]:
    """Captions without a letter or digit go."""
    return [caption for caption in captions if any(character.isalnum() for character in caption)]


def drop_other_scripts(captions: list[str]) -> list[str]:
    """Captions more than half of whose letters are not Latin go. This tells scripts, not languages."""

    def is_latin(caption: str) -> bool:
        letters = [character for character in caption if character.isalpha()]
        others = sum("LATIN" not in unicodedata.name(character, "") for character in letters)
        return 2 * others <= len(letters)

    return [caption for caption in captions if is_latin(caption)]


def drop_repeated(captions: list[str]) -> list[str]:
    """Of captions of one clip that are equal but for upper and lower case, the first stays."""
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
    """Captions before and after a rule, and how many of them it changed."""

    before: int = 0
    after: int = 0
    changed: int = 0


class CaptionCleaner:
    """
    Cleans captions clip by clip.

    Args:
        keep: Rules to leave out, of `RULES`.

    Attributes:
        counts: What each applied rule has done so far.

    Raises:
        ValueError: For an unknown rule.
    """

    def __init__(self, keep: Collection[str] = ()):
        unknown = [name for name in keep if name not in RULES]
        if unknown:
            raise ValueError(f"no rule {', '.join(unknown)}; the rules are {', '.join(RULES)}")
        self.counts = {name: RuleCount() for name in RULES if name not in keep}

    def __call__(self, captions: Collection[str]) -> list[str]:
        """The captions of one clip that are left, cleaned, in their order."""
        cleaned = list(captions)
        for name, count in self.counts.items():
            before = cleaned
            cleaned = [REWRITES[name](each) for each in before] if name in REWRITES else FILTERS[name](before)
            count.before += len(before)
            count.after += len(cleaned)
            if name in REWRITES:
                count.changed += sum(old != new for old, new in zip(before, cleaned, strict=True))
        return cleaned

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The counts, for the manifest."""
        return {name: asdict(count) for name, count in self.counts.items()}
