"""The tokenizer of published caption scores, without Java.

Published caption scores are computed on the output of `PTBTokenizer -preserveLines -lowerCase` of Stanford CoreNLP
3.4.1, from which coco-caption then removes a list of punctuation marks.

Guarantees: for text in Latin script, with its typographic quotes, dashes and signs, [`ptb_tokenize`] returns those
tokens: the same contractions (`don't` -> `do n't`), abbreviations (`etc.`, `Mr.`), joined words (`end.the`), numbers,
addresses, smileys and brackets (`(` -> `-lrb-`, which coco-caption does not remove).

Limitations:
- The reference tokenises a whole file and sometimes looks into the next line to decide whether a caption that ends
  in "... letter T." or "... page no." ends in an abbreviation. Here each caption is read on its own.
- Line ends other than a line feed shift all following captions in the reference. Here they are spaces.
- Rare punctuation of non-Latin scripts.
- Time grows with the square of a word's length, which shows on "words" of thousands of characters.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

# Removed by coco-caption. Its brackets are in upper case and so never match a lower-case "-lrb-", which stays.
_REMOVED = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split()) | {""}

# --- Characters ---
# `\w` includes numerals such as superscripts and Roman numerals; the lexer knows the basic plane only.
_NUMERALS = r"\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u2189\u2460-\u24ff\u2776-\u2793"
_LETTER = rf"[^\W\d_{_NUMERALS}\U00010000-\U0010ffff]"
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)).startswith("M"))
_IN_WORD = rf"(?:{_LETTER}|[\u00ad{_MARKS}]|&[aeiouAEIOU](?ai:acute|grave|uml);)"
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_BLANK = r"[ \t\u00a0\u2000-\u200a\u3000\r\n\u2028\u2029\u000b\u000c\u0085]"
_APOSTROPHE = r"(?:['\u0092\u2019]|&(?ai:apos);)"
_ANY_APOSTROPHE = r"(?:['`\u0091\u0092\u2018\u2019\u201b]|&(?ai:apos);)"
_QUOTES = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$")}
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}


def _any_of(words: str) -> str:
    return f"(?ai:{'|'.join(words.split())})"


# --- Abbreviations ---
# Abbreviations that may end a sentence. Some are words as well, and abbreviations only with a capital.
_ABBREVIATION_MAYBE_LAST = "|".join(
    [
        _any_of("jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri"),
        _any_of("ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va"),
        _any_of("vt wisc? wyo inc cos? corp pp?t[ye]s? ltd plc rt bancorp bhd assn univ intl sys tel est ext sq jr"),
        _any_of(r"sr bros ed\.d ph\.d blvd rd esq etc al seq bldg"),
        rf"A{_any_of('rk z')}|D{_any_of('el')}|I{_any_of('ll')}|L{_any_of('a')}|M{_any_of('ass iss')}",
        rf"O{_any_of('re')}|P{_any_of('a')}|T{_any_of('ex')}|W{_any_of('ash')}",
    ]
)
_COUNTRY_PAIR = rf"{_any_of('canada sino korean eu japan non')}-(?ai:u\.s)|(?ai:u\.s\.-u\.(?:k|s\.s\.r))"
_INITIALS = rf"(?:[A-Za-z](?:\.[A-Za-z])+|{_COUNTRY_PAIR})"
_ABBREVIATION_BEFORE_NAME = "|".join(
    [
        _any_of("mr mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt capt ste?"),
        _any_of("ave pres lieut hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens insp mlle mme msgr"),
        _any_of("sfc vs alex wm jos cie cf treas ph invt elec natl m[ft]g dept"),
        rf"M{_any_of('iss')}|{_INITIALS}|[A-Za-z]",
    ]
)
_ABBREVIATION_BEFORE_NUMBER = _any_of("ca figs? prop nos? art bldg pp op")
# After a single letter and a period, these words show that the period ended a sentence ("vitamin C. The man ...").
_SENTENCE_STARTS = "|".join(
    word[0] + (f"(?ai:{word[1:]})" if word[1:] else "")
    for word in (
        "About According Additionally After An A As At But Did During Earlier Here Her However How He If In It Last "
        r"Many More Mr\. Ms\. Now Once One Other Our She Since Some So Such That Their There These They Then The This "
        "We When While What Who Why Yet You"
    ).split()
)

# --- Larger parts ---
_WORD = rf"{_IN_WORD}(?:{_IN_WORD}|\d)*(?:[.!?]{_IN_WORD}(?:{_IN_WORD}|\d)*)*"
_CLITIC = rf"{_APOSTROPHE}{_any_of('[msd] re ve ll')}"
_NOT = rf"(?ai:n){_ANY_APOSTROPHE}(?ai:t)"
_ALNUM = rf"(?:{_LETTER}|\d)"
_ELIDED = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?{_ALNUM}+"
_COMPOUND = rf"{_ELIDED}(?:[-_\u058a\u2010\u2011]{_ELIDED})*"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_INITIALS}\.|[A-Za-z0-9\u00ad]+))+"
_JOINED_CAPITALS = r"[A-Z]+(?:(?:[+&]|&(?ai:amp);)[A-Z]+)+"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_TAG = (
    rf"<(?:[!?][A-Za-z\-][^>\r\n]*|/{_TAG_NAME}"
    rf"|{_TAG_NAME}(?: +{_TAG_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?)* */?) *>"
)
_FILE_TYPES = _any_of(
    "bat bmp c class cgi cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png ppt ps py sql tar txt "
    "wav x xml zip"
)
_CLAUSE_MARK = r"[,;:\u3001]"  # a period before one of these belongs to the word


class _Rule(NamedTuple):
    pattern: re.Pattern[str]  # group 1 is the token; the rest of the pattern is lookahead
    write: Callable[[str], str]


def _rule(token: str, ahead: str = "", write: Callable[[str], str] = str.lower) -> _Rule:
    return _Rule(re.compile(f"({token}){ahead and f'(?:{ahead})'}"), write)


def _join(text: str) -> str:
    return text.lower().replace(" ", "\u00a0")


def _unbracket(text: str) -> str:
    return _join(text.replace("(", "-lrb-").replace(")", "-rrb-"))


def _drop_soft_hyphens(text: str) -> str:
    return text.lower().replace("\u00ad", "") or "-"


def _plain_ampersand(text: str) -> str:
    return text.lower().replace("&amp;", "&")


def _plain_quotes(text: str) -> str:
    text = text.lower().replace("&apos;", "'")
    return "".join(_QUOTES.get(character, character) for character in text)


def _plain_apostrophe(text: str) -> str:
    return text.lower().replace("&apos;", "'").replace("\u0092", "'").replace("\u2019", "'")


# The longest match wins, lookahead included; of two equally long ones, the first rule. A character that begins no
# rule is blank, punctuation that would be removed anyway, or unknown to the lexer: it is skipped.
_RULES = (
    _rule(f"{_SPACE}+", write=lambda _: ""),
    _rule(r"(?ai:c\+\+|[cf]\#)"),
    _rule("(?ai:can)", "(?ai:not)"),
    _rule("(?ai:gon|wan)", "(?ai:na)"),
    _rule("(?ai:got)", "(?ai:ta)"),
    _rule("(?ai:lem|gim)", "(?ai:me)"),
    _rule("'(?ai:t)", "(?ai:is|was)"),
    _rule(_TAG, write=_join),
    _rule("&(?ai:amp);", write=lambda _: "&"),
    _rule("&(?ai:nbsp|md|mdash|ndash);", write=lambda _: ""),
    _rule("&(?ai:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);"),
    _rule(_WORD, _CLITIC, _drop_soft_hyphens),
    _rule(r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", _NOT, _drop_soft_hyphens),
    _rule(_WORD, write=_drop_soft_hyphens),
    # Words with an apostrophe of their own: 'em, 'til, '90s, ol', dunkin', d'oh, O'Brien, ne'er, c'mon ...
    _rule(rf"{_APOSTROPHE}(?:{_any_of('cause till? em')}|(?ai:n){_APOSTROPHE}?|[2-9]0(?ai:s))"),
    _rule(rf"(?:[lLdDjJ]|{_any_of('dunkin somethin ol')}){_APOSTROPHE}"),
    _rule(rf"[A-HJ-XZn]{_ANY_APOSTROPHE}{_LETTER}{{2,}}|[oO]{_ANY_APOSTROPHE}[oO]"),
    _rule(rf"{_LETTER}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_LETTER}*"),
    _rule(_any_of(r"cont'd\.? nor'easter c'mon e'er s'mores ev'ry li'l nat'l")),
    _rule(rf"(?ai:y){_APOSTROPHE}", _LETTER),
    # Addresses. The range ",-_" is the lexer's own: it keeps digits and capitals out of the short form.
    _rule(r"(?ai:https?)://[^ \t\n\f\r\"<>|(){}]+[^ \t\n\f\r\"<>|.!?(){},-]"),
    _rule(
        r"(?:(?ai:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
        r"|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?ai:com|net|org|edu))"
        r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])?"
    ),
    _rule(
        r"(?:&(?ai:lt);|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00a0{}]*@"
        r"(?:[^ \t\n\f\r\"<>|(){}.\u00a0]+\.)*[^ \t\n\f\r\"<>|(){}.\u00a0]+(?:&(?ai:gt);|>)?"
    ),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|\#{_IN_WORD}+"),
    _rule(rf"{_CLITIC}|{_NOT}", "[^A-Za-z]", _plain_apostrophe),
    # Numbers
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(r"[-+]?(?:\d+|(?:[.:,\u00ad\u066b\u066c]\d+))(?:[.:,\u00ad\u066b\u066c]\d+)*", write=_drop_soft_hyphens),
    _rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", write=_join),
    _rule(r"[\u00bc-\u00be\u2153-\u215e]", write=lambda text: _FRACTIONS.get(text, text)),
    _rule(
        rf"-{_any_of('[rl][rcs]b')}-|(?ai:c\.d\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls)|(?ai:cap){_APOSTROPHE}(?ai:n)"
        rf"|(?ai:c){_APOSTROPHE}(?ai:est)",
        write=_plain_ampersand,
    ),
    _rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _rule(r"[A-Z]*\$|\#"),
    _rule(
        r"[\u00a2-\u00a5\u0080\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]",
        write=lambda text: _CURRENCIES.get(text, text),
    ),
    # Abbreviations
    _rule("[A-Za-z]", rf"\.{_BLANK}+(?:{_SENTENCE_STARTS}|{_TAG}){_BLANK}"),
    _rule(rf"{_ABBREVIATION_BEFORE_NUMBER}\.", rf"{_BLANK}?\d"),
    _rule(r"(?ai:pt[ey]|co)\.", rf"{_SPACE}{_any_of('ltd lim')}"),
    _rule(rf"(?:{_ABBREVIATION_MAYBE_LAST})\.", "(?s:..)"),
    _rule(rf"(?:{_ABBREVIATION_MAYBE_LAST}|{_ABBREVIATION_BEFORE_NAME})\."),
    _rule(_COUNTRY_PAIR, _BLANK),
    _rule(rf"{_APOSTROPHE}[0-9][0-9]", _BLANK),
    _rule(rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.{_FILE_TYPES}", rf"{_BLANK}|[.?!,]"),
    _rule(rf"{_WORD}\.", _CLAUSE_MARK, _drop_soft_hyphens),
    # Telephone numbers
    _rule(
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
        r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        write=_unbracket,
    ),
    # Signs and smileys
    _rule("<|&(?ai:lt);", write=lambda _: "<"),
    _rule(">|&(?ai:gt);", write=lambda _: ">"),
    _rule("&(?ai:quot);", write=lambda _: ""),
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", _unbracket),
    _rule(r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", write=_unbracket),
    _rule(r"[()\[\]{}]", write=_BRACKETS.__getitem__),
    _rule("-+", write=lambda text: text if len(text) > 4 else "--"),
    _rule(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.", write=lambda _: "..."),
    _rule(r"@+|\#+|_+|\*+|(?:\\\*){1,3}|[?!]+|[=/\u00a1\u00bf\u3001\u3002]"),
    # Compounds
    _rule(rf"{_HYPHENATED}\.", _CLAUSE_MARK, _drop_soft_hyphens),
    _rule(_HYPHENATED, write=_drop_soft_hyphens),
    _rule(rf"{_COMPOUND}\.", _CLAUSE_MARK),
    _rule(_COMPOUND),
    _rule(rf"{_JOINED_CAPITALS}\.", _CLAUSE_MARK, _plain_ampersand),
    _rule(_JOINED_CAPITALS, write=_plain_ampersand),
    # Quotes, once nothing better was found for an apostrophe
    _rule("'", r"[A-Za-z][^ \t\r\n\u00a0]"),
    _rule(
        r"''|[`\u0091-\u0094\u2018-\u201f\u2039\u203a\u00ab\u00bb]{1,2}|&(?ai:apos);|['\u0092\u2019]",
        write=_plain_quotes,
    ),
    _rule(rf"{_CLITIC}|{_NOT}", write=_plain_apostrophe),
    _rule("<<|>>"),
    _rule(
        r"[+%&~^|\\\u00a6-\u00ba\u00d7\u00f7\u0387\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044"
        r"\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
    ),
)

# A shortcut for most of a caption: unaccented words between blanks that no other rule could match (a no-break space
# may be part of an address).
_PLAIN_WORDS = re.compile(
    rf"[ \t]*(?:(?!(?ai:cannot|gonna|wanna|gotta|lemme|gimme)\b"
    rf"|(?:{_ABBREVIATION_MAYBE_LAST}|{_ABBREVIATION_BEFORE_NAME}|{_ABBREVIATION_BEFORE_NUMBER})\.)"
    rf"[A-Za-z]+(?: ?,|\.(?![ \u00a0]*\.))?(?:[ \t]+|\n))+"
)
_LETTERS = re.compile("[a-z]+")


def _next_token(text: str, start: int) -> tuple[str, int]:
    token, end, longest = "", start + 1, start
    for rule in _RULES:
        match = rule.pattern.match(text, start)
        if match and match.end() > longest:
            token, end, longest = rule.write(match[1]), match.end(1), match.end()
    return token, end


def ptb_tokenize(text: str) -> list[str]:
    """
    Split a caption into the lower-case tokens of published caption scores, without punctuation.

    Args:
        text (`str`):
            A caption. Line breaks count as spaces.

    Returns:
        `list[str]`: The tokens. None contains an ordinary space; some contain a no-break space (U+00A0) where the
        lexer keeps numbers together, as in `"1 1/2"`.

    Example:

    ```python
    >>> ptb_tokenize("Mr. Lee can't find it (he's lost), etc.")
    ['mr.', 'lee', 'ca', "n't", 'find', 'it', '-lrb-', 'he', "'s", 'lost', '-rrb-', 'etc.']
    ```
    """
    text = text.replace("\n", " ") + "\n"  # in the reference a line end follows each caption
    tokens: list[str] = []
    position = 0
    while position < len(text):
        plain = _PLAIN_WORDS.match(text, position)
        if plain:
            tokens += _LETTERS.findall(plain[0].lower())
            position = plain.end()
            continue
        token, position = _next_token(text, position)
        if token not in _REMOVED:
            tokens.append(token)
    return tokens
