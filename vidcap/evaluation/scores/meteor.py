"""METEOR without paraphrases: exact words, stems and, with WordNet, synonyms.

Promised: given the same words, stages and WordNet 3.0, the alignment, the parameters and the sums over a corpus of
METEOR 1.5 for English (`-l en -norm`), its beam search with all its peculiarities included.

Given up: the stage of paraphrases, which rests on a table of 60 MB; so this is not the METEOR of papers, and its name
in a report says which stages it has (see [`meteor_key`]). Given up too: other languages, and abbreviations that METEOR
tells by their capital letter, since words are lower-case here.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import snowballstemmer

from .pairs import Tokens, check_pairs
from .wordnet import WordNet, find_wordnet, load_wordnet

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5, English, tuned for ranking
_WEIGHTS = (1.0, 0.6, 0.8)  # of an exact, a stem and a synonym match
_BEAM = 40
# Measured on three corpora by benchmarks/caption_scores.py (docs/evaluation.md).
_DIFFERENCE_WITH_SYNONYMS = "0.6 to 1.3 points (of 100) below it on three corpora whose METEOR 1.5 is 10, 41 and 30"
_DIFFERENCE_WITHOUT_SYNONYMS = "0.6 to 2.8 points (of 100) below it on three corpora whose METEOR 1.5 is 10, 41 and 30"
# Words and marks above 1e-3 of all in METEOR's corpus of English news, which make up its definition of function words.
_FUNCTION_WORDS = frozenset(
    "a about after all also an and are as at be been but by can could first for from had has have he her his i if "
    "in into is it its last more new no not of on one or other out over people said she so some than that the their "
    "there they this time to two up was we were what when which who will with would year years you s 's 't ' -lrb- "
    "-rrb- ( ) "
    ', . : ? $ - -- — " “ ” ’'.split()
)

# --- Words, as METEOR's option -norm splits a line ---
_LETTERS = r"A-Za-zŠŽšžŸÀ-ÖØ-öø-ž\u0400-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_BLANKS = r" \t\n\r\f"
_WIDE_BLANKS = frozenset("\u00a0\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_PERIOD_KEPT = frozenset({"v", "vs", "rev"})  # lower-case abbreviations of the list that METEOR takes from Moses
_SPLITS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"([^0-9{_LETTERS}{_BLANKS}\v.'`,\-‘’])", r" \1 "),
        (r"\.{2,}", lambda dots: f" {dots[0]} "),
        (r"([^0-9]),([^0-9])", r"\1 , \2"),
        (r"([0-9]),([^0-9])", r"\1 , \2"),
        (r"([^0-9]),([0-9])", r"\1 , \2"),
        ("[`‘’]", "'"),
        ("[“”]|''", ' " '),
        ("–", "-"),
        ("--", "-"),
        (rf"([0-9{_LETTERS}.])-([0-9{_LETTERS}])", r"\1 \2"),
        (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([^{_LETTERS}0-9])'([{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
        (r"([0-9])'(s)", r"\1 '\2"),
    )
)
_PLAIN = re.compile("[a-z0-9 ]*")


def _normalise(tokens: Tokens) -> list[str]:
    line = " ".join(tokens).lower()
    if _PLAIN.fullmatch(line):
        return line.split()
    line = f" {line} "
    for pattern, replacement in _SPLITS:
        line = pattern.sub(replacement, line)
    words = re.findall(f"[^{_BLANKS}]+", line)
    normalised: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        stem = word[:-1]
        if not word.endswith(".") or not stem.strip("."):
            normalised.append(word)
        elif "." in stem and re.search(f"[{_LETTERS}]", stem):
            normalised.append(word.replace(".", ""))
        elif stem in _PERIOD_KEPT or "a" <= following[:1] <= "z" or (stem == "pp" and following[:1].isdecimal()):
            normalised.append(word)
        else:
            normalised += [stem, "."]
    return [word for word in normalised if word not in _WIDE_BLANKS]


# --- Alignment ---
class _Match(NamedTuple):
    hypothesis: int  # position
    reference: int
    stage: int  # index into _WEIGHTS


# Part of an alignment, up to some word of the reference; a plain tuple for speed. It is ranked by its first three:
# - exact matches, less one for each: a stem or a synonym counts a half in METEOR 1.5, rounded down to nothing;
# - chunks begun and ended;
# - distances between matched words;
# - place behind the last match in the hypothesis, -1 if the word before was not matched;
# - words of the hypothesis that are used, as bits;
# - (the last match, (the one before, (...))) or None.
_Path = tuple[int, int, int, int, int, Any]
_RANK = itemgetter(0, 1, 2)


def _extend(path: _Path, match: _Match, distance: int) -> _Path:
    inexact, chunks, _, end, used, matches = path
    place, _, stage = match
    chunks += 0 <= end != place
    return inexact - (not stage), chunks, distance, place + 1, used | 1 << place, (match, matches)


def _skip(path: _Path, distance: int) -> _Path:
    inexact, chunks, _, end, used, matches = path
    return inexact, chunks + (end >= 0), distance, -1, used, matches


class _Aligner:
    def __init__(self, synonyms: WordNet | None):
        self._synsets = lru_cache(maxsize=None)(synonyms.synsets) if synonyms else None
        self._stem = lru_cache(maxsize=None)(snowballstemmer.stemmer("english").stemWord)

    def _candidates(self, hypothesis: Tokens, reference: Tokens) -> list[list[_Match]]:
        """For each word of the reference all words of the hypothesis that match it, by stage."""
        candidates: list[list[_Match]] = []
        for j, truth in enumerate(reference):
            candidates.append([_Match(i, j, 0) for i, word in enumerate(hypothesis) if word == truth])
        if hypothesis == reference:  # METEOR spares its search these
            return candidates
        stems = [self._stem(word) for word in hypothesis]
        for j, truth in enumerate(reference):
            stem = self._stem(truth)
            if stem in stems:
                candidates[j] += [
                    _Match(i, j, 1) for i, other in enumerate(stems) if other == stem and hypothesis[i] != truth
                ]
        if self._synsets:
            synsets = [self._synsets(word) for word in hypothesis]
            for j, truth in enumerate(reference):
                own = self._synsets(truth)
                if own:
                    candidates[j] += [
                        _Match(i, j, 2)
                        for i, others in enumerate(synsets)
                        if others and not own.isdisjoint(others) and hypothesis[i] != truth
                    ]
        return candidates

    def align(self, hypothesis: Tokens, reference: Tokens) -> tuple[list[_Match], int]:
        """The matches chosen, and in how many chunks they lie."""
        candidates = self._candidates(hypothesis, reference)
        times = [0] * len(hypothesis)  # how often each word is a candidate
        for matches in candidates:
            for match in matches:
                times[match.hypothesis] += 1
        fixed = [len(matches) == 1 and times[matches[0].hypothesis] == 1 for matches in candidates]
        taken = sum(1 << matches[0].hypothesis for matches, sure in zip(candidates, fixed, strict=True) if sure)
        paths: list[_Path] = [(0, 0, 0, -1, taken, None)]
        for matches, sure in zip(candidates, fixed, strict=True):
            if len(paths) > 1:
                paths = sorted(paths, key=_RANK)[:_BEAM]
            if sure:
                match = matches[0]
                far = abs(match.hypothesis - match.reference)
                paths = [_extend(path, match, path[2] + far) for path in paths]
                continue
            following = []
            for path in paths:
                distance, used = path[2], path[4]
                for match in matches:
                    if not used >> match.hypothesis & 1:
                        following.append(_extend(path, match, distance))
                        # In METEOR 1.5 a match adds its distance to the paths that are made without it.
                        distance += abs(match.hypothesis - match.reference)
                following.append(_skip(path, distance))
            paths = following
        ended = [_skip(path, path[2]) for path in sorted(paths, key=_RANK)[:_BEAM]]
        _, chunks, *_, rest = min(ended, key=_RANK)
        chosen: list[_Match] = []
        while rest:
            match, rest = rest
            chosen.append(match)
        return chosen, chunks


# --- Score ---
def _statistics(aligner: _Aligner, hypothesis: Tokens, reference: Tokens) -> np.ndarray:
    """What a score is computed of, and summed over a corpus: (8,)."""
    chosen, chunks = aligner.align(hypothesis, reference)
    weights = [
        [1 - _DELTA if word in _FUNCTION_WORDS else _DELTA for word in words] for words in (hypothesis, reference)
    ]
    return np.array(
        [
            len(hypothesis),
            len(reference),
            sum(weights[0]),
            sum(weights[1]),
            sum(weights[0][match.hypothesis] * _WEIGHTS[match.stage] for match in chosen),
            sum(weights[1][match.reference] * _WEIGHTS[match.stage] for match in chosen),
            len(chosen),
            chunks,
        ]
    )


def _is_whole(statistics: np.ndarray) -> bool:
    """Whether all words of both match in one piece."""
    matches = statistics[6]
    return statistics[7] == 1 and matches == statistics[0] and matches == statistics[1]


def _score(statistics: np.ndarray) -> float:
    _, _, length, reference_length, matched, reference_matched, matches, chunks = statistics.tolist()
    if not matches:
        return 0.0
    mean = 1 / ((1 - _ALPHA) * length / matched + _ALPHA * reference_length / reference_matched)
    fragmentation = 0.0 if _is_whole(statistics) else chunks / matches
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def meteor(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], *, synonyms: WordNet | None = None
) -> tuple[float, np.ndarray]:
    """
    METEOR 1.5 (Denkowski and Lavie, 2014, https://aclanthology.org/W14-3348) for English without its paraphrases.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            A caption for each clip, as tokens.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more true captions for each clip, as tokens. The one with the best score counts.
        synonyms (`WordNet`, *optional*):
            Without it there are the stages exact and stem only.

    Returns:
        `tuple[float, np.ndarray]`: the score of the corpus, from sums over the clips' best references, and of each
        clip, (N,), from 0 to 1. The corpus score is not the mean of the clips' scores.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    check_pairs(hypotheses, references)
    aligner = _Aligner(synonyms)
    scores = np.zeros(len(hypotheses))  # (N,)
    total = np.zeros(8)
    for clip, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        words = _normalise(hypothesis)
        each = [_statistics(aligner, words, _normalise(truth)) for truth in alternatives]
        of_each = [_score(statistics) for statistics in each]
        scores[clip] = max(of_each)
        best = each[of_each.index(scores[clip])]
        if _is_whole(best):
            best[7] = 0  # a perfect caption is in no pieces
        total += best
    return _score(total), scores


# --- What it is called ---
def installed_synonyms() -> WordNet | None:
    """WordNet, if [`find_wordnet`] finds it."""
    path = find_wordnet()
    return load_wordnet(path) if path else None


def meteor_key(synonyms: WordNet | None) -> str:
    """The name of the score: it names the stages, so that two that do not compare have two names."""
    return "meteor_exact_stem_synonym" if synonyms else "meteor_exact_stem"


def meteor_facts(synonyms: WordNet | None) -> dict[str, Any]:
    """What belongs beside the score: `stages`, `wordnet` (its version or `None`) and `difference` from METEOR 1.5."""
    return {
        "stages": ["exact", "stem", *(["synonym"] if synonyms else [])],
        "wordnet": synonyms.version if synonyms else None,
        "difference": "METEOR 1.5 for English without its paraphrases"
        + (": " if synonyms else " and synonyms: ")
        + (_DIFFERENCE_WITH_SYNONYMS if synonyms else _DIFFERENCE_WITHOUT_SYNONYMS),
    }
