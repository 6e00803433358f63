"""Caption scores in pure Python, equal to those of the reference scorer (pycocoevalcap), which needs Java.

Promised: on the same tokens CIDEr-D, BLEU-1 to BLEU-4 and ROUGE-L equal the reference to rounding error, its constants
and its treatment of empty captions included; the tokens are those of [`ptb_tokenize`]. The functions on tokens also
return one score a clip.

Left out: METEOR. The reference's version (1.5) draws on tables of paraphrases and synonyms of many megabytes; a
version without them would give other numbers under the same name.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Literal, NamedTuple

import numpy as np

from .ptb_tokenizer import ptb_tokenize

Tokens = Sequence[str]
NGram = tuple[str, ...]

_MAX_N = 4
_CIDER_SIGMA = 6.0
_ROUGE_BETA = 1.2
_BLEU_TINY, _BLEU_SMALL = 1e-15, 1e-9  # the reference's guards against 0 / 0; they show in the last digits of a score


class DocumentFrequencies(NamedTuple):
    """In the references of how many clips each n-gram occurs, and the number of clips."""

    counts: Mapping[NGram, int]
    clips: int


def _count_ngrams(tokens: Tokens) -> Counter[NGram]:
    counts: Counter[NGram] = Counter()
    for n in range(1, _MAX_N + 1):
        counts.update(zip(*(tokens[start:] for start in range(n)), strict=False))
    return counts


def _check_pairs(hypotheses: Sequence, references: Sequence) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses but {len(references)} lists of references: give one list of references for "
            "each hypothesis, in the same order."
        )
    if not hypotheses:
        raise ValueError("There is nothing to score: hypotheses and references are empty.")
    for index, alternatives in enumerate(references):
        if not alternatives:
            raise ValueError(f"Clip {index} has no reference: give it at least one, or leave the clip out.")


def count_document_frequencies(references: Sequence[Sequence[Tokens]]) -> DocumentFrequencies:
    """
    Counts in the references of how many clips each n-gram (n = 1 ... 4) occurs, for [`cider_d`].

    Args:
        references (`Sequence[Sequence[Sequence[str]]]`):
            For each clip its references, each a sequence of tokens.
    """
    counts: Counter[NGram] = Counter()
    for alternatives in references:
        counts.update(set().union(*map(_count_ngrams, alternatives)))
    return DocumentFrequencies(counts, len(references))


class _TfIdf(NamedTuple):
    weights: list[dict[NGram, float]]  # one dictionary for each n
    norms: list[float]
    length: int


def cider_d(
    hypotheses: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> tuple[float, np.ndarray]:
    """
    CIDEr-D (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726) as in `pycocoevalcap.cider`: n-gram weights
    clipped at the reference's, a Gaussian penalty (sigma = 6) on the difference in length, times 10.

    As in that implementation, n-grams never seen in a reference weigh as if they occurred in one clip.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            A caption for each clip, as tokens.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more true captions for each clip, as tokens.
        document_frequencies (`DocumentFrequencies`, *optional*):
            From [`count_document_frequencies`]. By default those of `references`. With a single clip every n-gram then
            occurs everywhere and the score is 0.

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,), from 0 to 10.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    _check_pairs(hypotheses, references)
    if document_frequencies is None:
        document_frequencies = count_document_frequencies(references)
    log_clips = math.log(document_frequencies.clips)
    idf = {ngram: log_clips - math.log(count) for ngram, count in document_frequencies.counts.items()}

    def tf_idf(tokens: Tokens) -> _TfIdf:
        weights: list[dict[NGram, float]] = [{} for _ in range(_MAX_N)]
        for ngram, count in _count_ngrams(tokens).items():
            weights[len(ngram) - 1][ngram] = count * idf.get(ngram, log_clips)
        norms = [math.sqrt(sum(weight * weight for weight in of_n.values())) for of_n in weights]
        return _TfIdf(weights, norms, len(tokens))

    scores = np.zeros(len(hypotheses))  # (N,)
    for clip, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        guess = tf_idf(hypothesis)
        for truth in map(tf_idf, alternatives):
            similarity = 0.0
            for n in range(_MAX_N):
                if guess.norms[n] and truth.norms[n]:
                    common = guess.weights[n].keys() & truth.weights[n].keys()
                    dot = sum(min(guess.weights[n][g], truth.weights[n][g]) * truth.weights[n][g] for g in common)
                    similarity += dot / (guess.norms[n] * truth.norms[n])
            penalty = math.exp(-((guess.length - truth.length) ** 2) / (2 * _CIDER_SIGMA**2))
            scores[clip] += 10 * penalty * similarity / _MAX_N / len(alternatives)
    return float(scores.mean()), scores


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[np.ndarray, np.ndarray]:
    """
    BLEU-1 to BLEU-4 (Papineni et al., 2002, https://aclanthology.org/P02-1040) as in `pycocoevalcap.bleu`: counts
    summed over the corpus, the length of the closest reference (the shorter of two equally close), no smoothing.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            A caption for each clip, as tokens.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more true captions for each clip, as tokens.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: BLEU-1 ... BLEU-4 of the corpus, (4,), and of each clip, (N, 4), from 0 to 1.
        The corpus score is not the mean of the clips' scores.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    _check_pairs(hypotheses, references)
    correct = np.zeros((len(hypotheses), _MAX_N))  # (N, 4)
    guessed = np.zeros((len(hypotheses), _MAX_N))  # (N, 4)
    lengths = np.zeros((len(hypotheses), 2))  # (N, 2): of the hypothesis, of the closest reference
    for clip, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        length = len(hypothesis)
        lengths[clip] = length, min((abs(len(truth) - length), len(truth)) for truth in alternatives)[1]
        guessed[clip] = [max(0, length - n) for n in range(_MAX_N)]
        most_in_one = reduce(or_, map(_count_ngrams, alternatives))  # of Counters, `|` is the maximum, `&` the minimum
        for ngram, count in (_count_ngrams(hypothesis) & most_in_one).items():
            correct[clip, len(ngram) - 1] += count
    corpus = _bleu_of_counts(correct.sum(axis=0), guessed.sum(axis=0), lengths.sum(axis=0))
    return corpus, _bleu_of_counts(correct, guessed, lengths)


def _bleu_of_counts(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    precisions = (correct + _BLEU_TINY) / (guessed + _BLEU_SMALL)  # (..., 4)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, _MAX_N + 1))  # (..., 4)
    ratio = (lengths[..., 0] + _BLEU_TINY) / (lengths[..., 1] + _BLEU_SMALL)  # (...)
    return means * np.exp(np.minimum(0, 1 - 1 / ratio))[..., None]  # (..., 4)


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, np.ndarray]:
    """
    ROUGE-L (Lin, 2004, https://aclanthology.org/W04-1013) as in `pycocoevalcap.rouge`: an F score with beta = 1.2 of
    the best precision and the best recall over a clip's references, which need not come from the same one.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            A caption for each clip, as tokens.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more true captions for each clip, as tokens.

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,), from 0 to 1.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    _check_pairs(hypotheses, references)
    scores = np.zeros(len(hypotheses))  # (N,)
    for clip, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        guess = hypothesis or [""]  # to the reference an empty caption is one empty token: it equals another such
        truths = [truth or [""] for truth in alternatives]
        common = [_longest_common_subsequence(guess, truth) for truth in truths]
        precision = max(common) / len(guess)
        recall = max(length / len(truth) for length, truth in zip(common, truths, strict=True))
        if precision and recall:
            scores[clip] = (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)
    return float(scores.mean()), scores


def _longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    # A row of the usual table as the bits of one integer (Hyyrö, 2004): a 0 wherever the length grows.
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = row = (1 << len(first)) - 1
    for token in second:
        hits = row & places.get(token, 0)
        row = (row + hits) | (row - hits)
    return len(first) - (row & full).bit_count()


def score_captions(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Literal["ptb", "whitespace"] = "ptb",
) -> dict[str, float]:
    """
    Scores captions against true ones, as published caption scores are computed.

    Args:
        hypotheses (`Sequence[str]`):
            A caption for each clip. An empty one counts.
        references (`Sequence[Sequence[str]]`):
            One or more true captions for each clip, in the order of `hypotheses`.
        tokenizer (`"ptb"` or `"whitespace"`, *optional*, defaults to `"ptb"`):
            `"ptb"`: lower case, contractions apart, punctuation removed (see [`ptb_tokenize`]). `"whitespace"`:
            captions are split at blanks and otherwise taken as they are.

    Returns:
        `dict[str, float]`: `cider` (CIDEr-D; document frequencies from the given references, so that scores of two
        sets of clips do not compare), `bleu1` ... `bleu4`, `rougeL`, all times 100 as papers print them; `exact`, the
        share of hypotheses equal to one of their references, and `distinct`, the number of different hypotheses over
        the number of all, both after tokenisation and from 0 to 1. METEOR is left out: it rests on tables of synonyms
        and paraphrases that do not come with this package.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, a clip has no reference, something is not a
        string, or the tokenizer is unknown.

    Example:

    ```python
    >>> from vidcap.evaluation import score_captions
    >>> scores = score_captions(["A dog runs.", "a cat"], [["a dog runs"], ["a cat sleeps", "the cat is asleep"]])
    >>> scores["exact"], scores["distinct"]
    (0.5, 1.0)
    ```
    """
    if tokenizer not in ("ptb", "whitespace"):
        raise ValueError(f"Unknown tokenizer {tokenizer!r}: choose 'ptb' or 'whitespace'.")
    if isinstance(hypotheses, str):
        raise ValueError("hypotheses is one string: give a list of strings, one for each clip.")
    _check_pairs(hypotheses, references)
    for index, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        if not isinstance(hypothesis, str):
            raise ValueError(f"Hypothesis {index} is of type {type(hypothesis).__name__}: give a string.")
        if isinstance(alternatives, str) or not isinstance(alternatives, Sequence):
            raise ValueError(
                f"The references of clip {index} are of type {type(alternatives).__name__}: give a list of strings."
            )
        for number, reference in enumerate(alternatives):
            if not isinstance(reference, str):
                raise ValueError(
                    f"Reference {number} of clip {index} is of type {type(reference).__name__}: give a string."
                )

    tokenize = ptb_tokenize if tokenizer == "ptb" else str.split
    guesses = [tokenize(hypothesis) for hypothesis in hypotheses]
    truths = [[tokenize(reference) for reference in alternatives] for alternatives in references]
    # The reference splits tokens such as "1 1/2", held together by a no-break space, for n-grams but not for ROUGE-L.
    ngram_guesses = [" ".join(guess).split() for guess in guesses]
    ngram_truths = [[" ".join(truth).split() for truth in alternatives] for alternatives in truths]
    bleus = bleu(ngram_guesses, ngram_truths)[0]
    exact = sum(guess in alternatives for guess, alternatives in zip(guesses, truths, strict=True))
    return {
        "cider": 100 * cider_d(ngram_guesses, ngram_truths)[0],
        **{f"bleu{n}": 100 * float(score) for n, score in enumerate(bleus, start=1)},
        "rougeL": 100 * rouge_l(guesses, truths)[0],
        "exact": exact / len(guesses),
        "distinct": len(set(map(tuple, guesses))) / len(guesses),
    }
