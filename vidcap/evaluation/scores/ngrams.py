"""N-grams of captions, counted for all captions at once.

Promised: the counts that a loop over captions with a dictionary would give, in a fraction of its time. Given up:
n-grams of more than four words.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from .pairs import Tokens

MAX_N = 4
NGram = tuple[str, ...]


class NGramTable(NamedTuple):
    """
    How often each n-gram occurs in each text. A row is a text and an n-gram (R rows, sorted by both); an n-gram has a
    number below G.

    Args:
        text (`np.ndarray`): (R,), number of the text.
        ngram (`np.ndarray`): (R,), number of the n-gram.
        counts (`np.ndarray`): (R,), how often it occurs there.
        order (`np.ndarray`): (G,), words of the n-gram less one.
        first (`np.ndarray`): (G,), where in `words` it occurs first.
        words (`list[str]`): of all texts.
        lengths (`np.ndarray`): (texts,), in words.
    """

    text: np.ndarray
    ngram: np.ndarray
    counts: np.ndarray
    order: np.ndarray
    first: np.ndarray
    words: list[str]
    lengths: np.ndarray

    def spellings(self) -> list[NGram]:
        """(G): the words of each n-gram."""
        ends = self.first + self.order + 1
        return [tuple(self.words[start:end]) for start, end in zip(self.first.tolist(), ends.tolist(), strict=True)]

    def sums(self, rows: np.ndarray | slice, of: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(texts, 4): `values` of some `rows`, added up by text (`of`) and by the length of the n-gram."""
        slots = MAX_N * of + self.order[self.ngram[rows]]
        size = MAX_N * len(self.lengths)
        return np.bincount(slots, weights=values, minlength=size).reshape(-1, MAX_N).astype(float)


def count_ngrams(texts: Sequence[Tokens]) -> NGramTable:
    """Counts the n-grams (n = 1 ... 4) of tokenised texts."""
    words = list(chain.from_iterable(texts))
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    text_of = np.repeat(np.arange(len(texts)), lengths)  # (words,)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # (words,): to the end of the text
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    word_ids = np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))
    ids = word_ids  # of the n-gram that begins at each word
    found, orders, firsts = [], [], []
    total = 0
    for n in range(MAX_N):
        starts = np.flatnonzero(left > n)
        keys = ids[starts] * len(numbers) + word_ids[starts + n] if n else word_ids
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        ids = np.zeros_like(word_ids)
        ids[starts] = inverse
        found.append((text_of[starts], inverse + total))
        orders.append(np.full(len(first), n))
        firsts.append(starts[first])
        total += len(first)
    rows, counts = np.unique(
        np.concatenate([texts_of_n * total + of_n for texts_of_n, of_n in found]), return_counts=True
    )
    text, ngram = np.divmod(rows, max(1, total))
    return NGramTable(text, ngram, counts, np.concatenate(orders), np.concatenate(firsts), words, lengths)


class NGramPairs:
    """
    The n-grams of hypotheses and references, and which they share.

    Args:
        hypotheses (`Sequence[Sequence[str]]`): a caption for each of N clips, as tokens.
        references (`Sequence[Sequence[Sequence[str]]]`): one or more for each clip.

    Attributes:
        table: of the hypotheses (texts 0 ... N - 1), then of all references (M).
        clip_of_text: (N + M,).
        references: rows of the table that belong to references and hold an n-gram of the hypothesis, (S,).
        hypotheses: rows of the hypotheses with the same n-gram, (S,).
    """

    def __init__(self, hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]):
        self.clips = len(hypotheses)
        self.alternatives = np.array([len(truths) for truths in references])  # (N,)
        self.table = count_ngrams([*hypotheses, *chain.from_iterable(references)])
        clips = np.arange(self.clips)
        self.clip_of_text = np.concatenate([clips, np.repeat(clips, self.alternatives)])
        ngrams = len(self.table.order)
        keys = self.clip_of_text[self.table.text] * ngrams + self.table.ngram  # (R,)
        split = int(np.searchsorted(self.table.text, self.clips))
        ours, theirs = keys[:split], keys[split:]
        places = np.searchsorted(ours, theirs)
        shared = (
            np.flatnonzero(ours[np.minimum(places, split - 1)] == theirs) if split else np.zeros(0, dtype=np.int64)
        )
        self.hypotheses = places[shared]
        self.references = split + shared
        self._reference_keys = theirs

    def document_frequencies(self) -> np.ndarray:
        """(G,): in the references of how many clips each n-gram occurs."""
        ngrams = len(self.table.order)
        keys = np.sort(self._reference_keys, kind="stable")  # nearly in order already: much faster than `np.unique`
        new = np.diff(keys, prepend=-1) > 0
        return np.bincount(keys[new] % max(1, ngrams), minlength=ngrams)
