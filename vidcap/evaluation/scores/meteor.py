"""METEOR 1.5 for English, as `meteor-1.5.jar -l en -norm` computes it.

Guarantees: the alignment, the parameters and the sums over a corpus of METEOR 1.5, its beam search with all its
peculiarities included, with its own synonyms and paraphrases (see `meteor_data`).

Limitations: English only. Stems are those of today's Snowball stemmer, which differs on a few words ("added" is now
"add"). Abbreviations that METEOR recognises by a capital letter are not recognised, since words are lower case here.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import snowballstemmer

from .meteor_data import MAX_PHRASE, MeteorData, Paraphrases, load_meteor_data
from .pairs import Tokens, check_pairs

__all__ = ["load_meteor_data", "meteor"]

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5, English, tuned for ranking
_EXACT, _STEM, _SYNONYM, _PARAPHRASE = range(4)
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # per stage
_BEAM = 40

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
    hypothesis: int  # position of the first word
    reference: int
    stage: int
    hypothesis_words: int = 1
    reference_words: int = 1


class _Path(NamedTuple):
    """Part of an alignment, up to some word of the reference. The first three fields rank it, lowest first."""

    missed: int = 0  # less one per word of an exact match, less a half, rounded down, per word of any other
    chunks: int = 0  # chunks that have ended
    distance: int = 0  # sum of the distances between matched words
    next: int = 0  # position behind the last match in the reference
    end: int = -1  # position behind the last match in the hypothesis, -1 if the word before was not matched
    used: int = 0  # words of the hypothesis that are matched, as bits
    matches: tuple | None = None  # (the last match, (the one before, (...)))


_RANK = itemgetter(0, 1, 2)


def _extend(path: _Path, match: _Match, distance: int) -> _Path:
    missed, chunks, _, _, end, used, matches = path
    place, position, stage, words, reference_words = match
    missed -= words + reference_words if stage == _EXACT else words // 2 + reference_words // 2
    chunks += 0 <= end != place
    used |= ((1 << words) - 1) << place
    return _Path(missed, chunks, distance, position + reference_words, place + words, used, (match, matches))


def _skip(path: _Path, distance: int) -> _Path:
    missed, chunks, _, position, end, used, matches = path
    return _Path(missed, chunks + (end >= 0), distance, position + 1, -1, used, matches)


def _phrases(words: Tokens) -> Iterator[tuple[int, int, str]]:
    """Start, number of words and spelling of each phrase that a paraphrase could have, by start and length."""
    for start in range(len(words)):
        for end in range(start + 1, min(start + MAX_PHRASE, len(words)) + 1):
            yield start, end - start, " ".join(words[start:end])


class _Aligner:
    def __init__(self, data: MeteorData, paraphrases: Paraphrases):
        self._function_words = data.function_words
        self._synsets = lru_cache(maxsize=None)(data.synsets)
        self._stem = lru_cache(maxsize=None)(snowballstemmer.stemmer("english").stemWord)
        self._paraphrases = paraphrases

    def _paraphrased(self, source: Tokens, target: Tokens) -> Iterator[tuple[int, int, int, int]]:
        """Start and length of each phrase of `source` and of a phrase of `target` that the table gives for it."""
        places: dict[str, list[tuple[int, int]]] = {}
        for start, words, phrase in _phrases(target):
            places.setdefault(phrase, []).append((start, words))
        for start, words, phrase in _phrases(source):
            known = self._paraphrases.get(phrase)
            if known:
                for paraphrase in sorted(known.keys() & places.keys(), key=known.__getitem__):
                    for place, length in places[paraphrase]:
                        yield start, words, place, length

    def _candidates(self, hypothesis: Tokens, reference: Tokens) -> list[list[_Match]]:
        """For each word of the reference all matches that begin there, by stage."""
        candidates = [
            [_Match(i, j, _EXACT) for i, word in enumerate(hypothesis) if word == truth]
            for j, truth in enumerate(reference)
        ]
        if hypothesis == reference:  # METEOR spares its search these
            return candidates
        stems, synsets = map(self._stem, hypothesis), map(self._synsets, hypothesis)
        others = list(zip(hypothesis, stems, synsets, strict=True))
        for j, truth in enumerate(reference):
            stem, meanings = self._stem(truth), self._synsets(truth)
            different = [(i, *other) for i, other in enumerate(others) if other[0] != truth]
            candidates[j] += [_Match(i, j, _STEM) for i, _, other, _ in different if other == stem]
            if meanings:
                candidates[j] += [
                    _Match(i, j, _SYNONYM) for i, _, _, other in different if not meanings.isdisjoint(other)
                ]
        for j, reference_words, i, words in self._paraphrased(reference, hypothesis):
            candidates[j].append(_Match(i, j, _PARAPHRASE, words, reference_words))
        for i, words, j, reference_words in self._paraphrased(hypothesis, reference):
            candidates[j].append(_Match(i, j, _PARAPHRASE, words, reference_words))
        return candidates

    def align(self, hypothesis: Tokens, reference: Tokens) -> tuple[list[_Match], int]:
        """The matches chosen, and in how many chunks they lie."""
        candidates = self._candidates(hypothesis, reference)
        fixed = _unrivalled(candidates, len(hypothesis))
        taken = sum(((1 << match.hypothesis_words) - 1) << match.hypothesis for match in fixed.values())
        paths = [_Path(used=taken)]
        for position, matches in enumerate(candidates):
            if len(paths) > 1:
                paths = sorted(paths, key=_RANK)[:_BEAM]
            following = []
            for path in paths:
                distance = path.distance
                if position < path.next:
                    following.append(path)
                    continue
                if position in fixed:
                    match = fixed[position]
                    following.append(_extend(path, match, distance + abs(match.hypothesis - position)))
                    continue
                for match in matches:
                    if not path.used >> match.hypothesis & ((1 << match.hypothesis_words) - 1):
                        following.append(_extend(path, match, distance))
                        # In METEOR 1.5 a match adds its distance to the paths that are made without it.
                        distance += abs(match.hypothesis - position)
                following.append(_skip(path, distance))
            paths = following
        ended = [_skip(path, path.distance) for path in sorted(paths, key=_RANK)[:_BEAM]]
        best = min(ended, key=_RANK)
        chosen: list[_Match] = []
        rest = best.matches
        while rest:
            match, rest = rest
            chosen.append(match)
        return chosen, best.chunks

    def statistics(self, hypothesis: Tokens, reference: Tokens) -> np.ndarray:
        """What a score is computed from, and summed over a corpus: (9,)."""
        chosen, chunks = self.align(hypothesis, reference)
        ours, theirs = (
            [1 - _DELTA if word in self._function_words else _DELTA for word in words]
            for words in (hypothesis, reference)
        )
        matched = reference_matched = 0.0
        for place, position, stage, words, reference_words in chosen:
            matched += sum(ours[place : place + words]) * _WEIGHTS[stage]
            reference_matched += sum(theirs[position : position + reference_words]) * _WEIGHTS[stage]
        return np.array(
            [
                len(hypothesis),
                len(reference),
                sum(ours),
                sum(theirs),
                matched,
                reference_matched,
                sum(match.hypothesis_words for match in chosen),
                sum(match.reference_words for match in chosen),
                chunks,
            ]
        )


def _unrivalled(candidates: list[list[_Match]], words: int) -> dict[int, _Match]:
    """By position in the reference the matches none of whose words, in either text, is in another match."""
    ours, theirs = [0] * words, [0] * len(candidates)  # matches per word
    for match in (match for matches in candidates for match in matches):
        for place in range(match.hypothesis, match.hypothesis + match.hypothesis_words):
            ours[place] += 1
        for place in range(match.reference, match.reference + match.reference_words):
            theirs[place] += 1
    return {
        j: match
        for j, matches in enumerate(candidates)
        if len(matches) == 1
        for match in matches
        if set(theirs[j : j + match.reference_words]) == {1}
        and set(ours[match.hypothesis : match.hypothesis + match.hypothesis_words]) == {1}
    }


# --- Score ---
def _is_whole(statistics: np.ndarray) -> bool:
    """Whether all words of both match in one chunk."""
    length, reference_length, *_, matches, reference_matches, chunks = statistics
    return chunks == 1 and matches == length and reference_matches == reference_length


def _score(statistics: np.ndarray) -> float:
    _, _, length, reference_length, matched, reference_matched, matches, reference_matches, chunks = (
        statistics.tolist()
    )
    if not matches:
        return 0.0
    mean = 1 / ((1 - _ALPHA) * length / matched + _ALPHA * reference_length / reference_matched)
    fragmentation = 0.0 if _is_whole(statistics) else chunks / ((matches + reference_matches) / 2)
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def meteor(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], *, data: MeteorData
) -> tuple[float, np.ndarray]:
    """
    METEOR 1.5 (Denkowski and Lavie, 2014, https://aclanthology.org/W14-3348) for English.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            One tokenised caption per clip.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more tokenised true captions per clip. The one with the best score counts.
        data (`MeteorData`):
            METEOR's synonyms and paraphrases, from [`load_meteor_data`].

    Returns:
        `tuple[float, np.ndarray]`: the score of the corpus, from sums over the clips' best references, and the score
        of each clip, (N,), from 0 to 1. The corpus score is not the mean of the clips' scores.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    check_pairs(hypotheses, references)
    guesses = [_normalise(hypothesis) for hypothesis in hypotheses]
    truths = [[_normalise(reference) for reference in alternatives] for alternatives in references]
    captions = [*guesses, *(truth for alternatives in truths for truth in alternatives)]
    paraphrases = data.paraphrases({phrase for words in captions for _, _, phrase in _phrases(words)})
    aligner = _Aligner(data, paraphrases)
    scores = np.zeros(len(hypotheses))  # (N,)
    total = np.zeros(9)
    for clip, (guess, alternatives) in enumerate(zip(guesses, truths, strict=True)):
        statistics = [aligner.statistics(guess, truth) for truth in alternatives]
        reference_scores = [_score(row) for row in statistics]
        scores[clip] = max(reference_scores)
        best = statistics[reference_scores.index(scores[clip])]
        if _is_whole(best):
            best[8] = 0  # a perfect caption has no chunks
        total += best
    return _score(total), scores
