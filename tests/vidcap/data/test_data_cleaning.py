"""Each cleaning rule by itself, what it must leave alone, and the counts."""

import pytest

from vidcap.data.cleaning import (
    RULES,
    CaptionCleaner,
    collapse_spaces,
    drop_empty,
    drop_other_scripts,
    drop_repeated,
    repair_encoding,
    strip_markup,
)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", ["a café", "naïve Ångström", "20 °C – warm", "it’s “quoted”", "smile 😀!", "é"])
def test_encoding_undoes_utf_8_that_was_read_as_something_else(text: str, encoding: str) -> None:
    once = misread(text, encoding)
    assert once != text
    assert repair_encoding(once) == text
    assert repair_encoding(misread(once, encoding)) == text
    assert repair_encoding(f"“{once}” — {text}") == f"“{text}” — {text}"  # right and wrong side by side


def misread(text: str, encoding: str) -> str:
    """Text as it comes out when its UTF-8 is decoded byte by byte; what cp1252 leaves undefined passes as latin-1."""
    characters = []
    for byte in text.encode():
        try:
            characters.append(bytes([byte]).decode(encoding))
        except UnicodeDecodeError:
            characters.append(chr(byte))
    return "".join(characters)


@pytest.mark.parametrize(
    "text", ["plain", "café", "À la carte", "Ångström", "NÃO", "naïve", "“so”", "日本", "5 € – ¾"]
)
def test_encoding_leaves_right_text_alone(text: str) -> None:
    assert repair_encoding(text) == text


def test_encoding_composes_and_removes_what_cannot_be_seen() -> None:
    assert repair_encoding("cafe\u0301") == "caf\u00e9"
    assert repair_encoding("a\x00b\tc\x85d\u200be\ufefff\u00ad") == "a b c def"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a &lt;b&gt;big&lt;/b&gt; dog", "a big dog"),
        ("Tom &amp;amp; Jerry&#39;s &#x41;", "Tom & Jerry's A"),
        ('one<br/>two<p class="x">three</p>', "one two three "),
        ("<i>a</i>, <!-- no -->b", "a, b"),
        ("3 < 4 and 5 > 2, I <3 you", "3 < 4 and 5 > 2, I <3 you"),
        ("AT&T and R&B; a <person> waves &copy", "AT&T and R&B; a <person> waves &copy"),
    ],
)
def test_markup(text: str, expected: str) -> None:
    assert strip_markup(text) == expected


def test_spaces_empty_and_repeated() -> None:
    assert collapse_spaces("  a\u00a0 dog \n runs\u3000") == "a dog runs"
    assert drop_empty(["", "  ", "...", "-", "a", "7", "日"]) == ["a", "7", "日"]
    assert drop_repeated(["A dog", "a cat", "a DOG", "Straße", "STRASSE"]) == ["A dog", "a cat", "Straße"]


def test_script_goes_by_the_majority_of_letters() -> None:
    latin = ["a dog", "Ein Bär läuft", "42", "a 狗", "ａ ｄｏｇ", "ba вг"]
    assert drop_other_scripts([*latin, "собака", "一只狗", "a 一只狗", "كلب"]) == latin


def test_rules_apply_in_order_and_count_what_they_did() -> None:
    cleaner = CaptionCleaner()
    assert cleaner(["A  caf\u00c3\u00a9 &amp; bar", "a caf\u00e9 & bar", "&nbsp;", "собака"]) == ["A caf\u00e9 & bar"]
    assert cleaner(["a dog"]) == ["a dog"]
    assert cleaner.as_dict() == {
        "encoding": {"before": 5, "after": 5, "changed": 1},
        "markup": {"before": 5, "after": 5, "changed": 2},
        "spaces": {"before": 5, "after": 5, "changed": 2},
        "empty": {"before": 5, "after": 4, "changed": 0},
        "script": {"before": 4, "after": 3, "changed": 0},
        "repeated": {"before": 3, "after": 2, "changed": 0},
    }


@pytest.mark.parametrize(
    ("rule", "caption"),
    [
        ("encoding", "caf\u00c3\u00a9"),
        ("markup", "a &amp; b"),
        ("spaces", "a  dog"),
        ("empty", "..."),
        ("script", "собака"),
    ],
)
def test_a_rule_that_is_left_out_does_nothing(rule: str, caption: str) -> None:
    cleaner = CaptionCleaner(keep=[rule])
    assert cleaner([caption]) == [caption] and rule not in cleaner.as_dict()
    assert CaptionCleaner()([caption]) != [caption]


def test_repeated_captions_can_be_kept_and_unknown_rules_are_named() -> None:
    assert CaptionCleaner(keep=["repeated"])(["a", "A"]) == ["a", "A"]
    assert CaptionCleaner(keep=RULES)(["..."]) == ["..."]
    with pytest.raises(ValueError, match="grammar; the rules are encoding, markup"):
        CaptionCleaner(keep=["grammar"])
