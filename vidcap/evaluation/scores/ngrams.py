"""N-grams of captions, counted for all captions at once.

Guarantees: the counts of a loop over captions with a dictionary, in a fraction of its time.

Limitations: n-grams of at most four words.
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
    Counts of each n-gram in each text.

    Each of the R rows, sorted by both, is one of the texts and one of the G n-grams.

    Args:
        text (`np.ndarray`): (R,), index of the text.
        ngram (`np.ndarray`): (R,), index of the n-gram.
        counts (`np.ndarray`): (R,), how often the n-gram occurs in the text.
        order (`np.ndarray`): (G,), number of words in the n-gram less one.
        first (`np.ndarray`): (G,), position in `words` where the n-gram first occurs.
        words (`list[str]`): the words of all texts.
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
        """The words of each n-gram, (G)."""
        ends = self.first + self.order + 1
        return [tuple(self.words[start:end]) for start, end in zip(self.first.tolist(), ends.tolist(), strict=True)]

    def sums(self, rows: np.ndarray | slice, of: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sums of `values` of some `rows` by text (`of`) and by length of the n-gram, (texts, 4)."""
        slots = MAX_N * of + self.order[self.ngram[rows]]
        size = MAX_N * len(self.lengths)
        return np.bincount(slots, weights=values, minlength=size).reshape(-1, MAX_N).astype(float)


def count_ngrams(texts: Sequence[Tokens]) -> NGramTable:
    """Count the n-grams (n = 1 ... 4) of tokenised texts."""
    words = list(chain.from_iterable(texts))
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    text_of = np.repeat(np.arange(len(texts)), lengths)  # (words,)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # (words,): words to the end of the text
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    word_ids = np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))
    ids = word_ids  # index of the n-gram that begins at each word
    occurrences, orders, firsts = [], [], []
    total = 0
    for n in range(MAX_N):
        starts = np.flatnonzero(left > n)
        keys = ids[starts] * len(numbers) + word_ids[starts + n] if n else word_ids
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        ids = np.zeros_like(word_ids)
        ids[starts] = inverse
        occurrences.append((text_of[starts], inverse + total))
        orders.append(np.full(len(first), n))
        firsts.append(starts[first])
        total += len(first)
    rows, counts = np.unique(
        np.concatenate([text_ids * total + ngram_ids for text_ids, ngram_ids in occurrences]), return_counts=True
    )
    text, ngram = np.divmod(rows, max(1, total))
    return NGramTable(text, ngram, counts, np.concatenate(orders), np.concatenate(firsts), words, lengths)


class NGramPairs:
    """
    The n-grams of hypotheses and references, and those they share.

    Args:
        hypotheses (`Sequence[Sequence[str]]`): one tokenised caption per clip (N).
        references (`Sequence[Sequence[Sequence[str]]]`): one or more per clip.

    Attributes:
        table: n-grams of the hypotheses (texts 0 ... N - 1), then of all references (M).
        clip_of_text: index of each text's clip, (N + M,).
        references: rows of references with an n-gram of their hypothesis, (S,).
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
        """Number of clips whose references contain each n-gram, (G,)."""
        ngrams = len(self.table.order)
        keys = np.sort(self._reference_keys, kind="stable")  # nearly sorted: much faster than `np.unique`
        new = np.diff(keys, prepend=-1) > 0
        return np.bincount(keys[new] % max(1, ngrams), minlength=ngrams)
