"""Caption scores as rewards of training."""

from collections.abc import Sequence
from functools import lru_cache

from .metrics import cider_d, count_document_frequencies
from .ptb_tokenizer import ptb_tokenize


class CiderReward:
    """CIDEr-D of each caption, from 0 to 10, with the document frequencies of the training captions.

    Args:
        references: All captions of each training clip.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        self._tokenize = lru_cache(maxsize=200_000)(lambda caption: tuple(ptb_tokenize(caption)))
        self._frequencies = count_document_frequencies(self._tokenized(references))

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        guesses = [self._tokenize(caption) for caption in captions]
        return cider_d(guesses, self._tokenized(references), document_frequencies=self._frequencies)[1].tolist()

    def _tokenized(self, references: Sequence[Sequence[str]]) -> list[list[tuple[str, ...]]]:
        return [[self._tokenize(caption) for caption in alternatives] for alternatives in references]
