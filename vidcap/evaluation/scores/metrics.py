"""Caption scores in pure Python, equal to those of the reference scorer (pycocoevalcap), which needs Java.

Guarantees: on the same tokens, CIDEr-D, BLEU-1 to BLEU-4 and ROUGE-L equal the reference to rounding error, its
constants and its treatment of empty captions included; the tokens are those of [`ptb_tokenize`]. METEOR is in
`vidcap.evaluation.scores.meteor`. The functions on tokens also return one score per clip.

Limitations: no SPICE, which needs a parser of English sentences.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .ngrams import MAX_N, NGram, NGramPairs
from .pairs import TOKENIZER_NAMES, Tokenizer, Tokens, check_pairs, check_tokenizer, tokenize_pairs

_CIDER_SIGMA = 6.0
_ROUGE_BETA = 1.2
_BLEU_TINY, _BLEU_SMALL = 1e-15, 1e-9  # the reference's guards against 0 / 0; they show in the last digits of a score


DEFAULT_METRICS = ("cider", "bleu", "rougeL", "exact", "distinct")
METRICS = (*DEFAULT_METRICS, "cider_plain", "meteor")


class DocumentFrequencies(NamedTuple):
    """Number of clips whose references contain each n-gram, number of all clips, and which clips these are."""

    counts: Mapping[NGram, int]
    clips: int
    source: str = "the references scored"


def count_document_frequencies(
    references: Sequence[Sequence[Tokens]], *, source: str = "the references scored"
) -> DocumentFrequencies:
    """
    Count the clips whose references contain each n-gram (n = 1 ... 4), for [`cider_d`].

    Args:
        references (`Sequence[Sequence[Sequence[str]]]`):
            The tokenised references of each clip.
        source (`str`, *optional*):
            Name of these clips, for [`scoring_facts`].
    """
    pairs = NGramPairs([()] * len(references), references)
    counts = dict(zip(pairs.table.spellings(), pairs.document_frequencies().tolist(), strict=True))
    return DocumentFrequencies(counts, len(references), source)


def caption_document_frequencies(
    references: Sequence[Sequence[str]], *, source: str, tokenizer: Tokenizer = "ptb"
) -> DocumentFrequencies:
    """
    Count document frequencies of captions, such as the training captions, for [`score_captions`].

    Args:
        references (`Sequence[Sequence[str]]`): the captions of each clip.
        source (`str`): name of these clips, such as `"train"`; stated beside the scores.
        tokenizer (`"ptb"` or `"whitespace"`, *optional*, defaults to `"ptb"`): the tokenizer of the scores.

    Raises:
        `ValueError`: if there are no clips, a clip has no caption, a caption is not a string, or the tokenizer is
        unknown.
    """
    pairs = tokenize_pairs([""] * len(references), references, tokenizer)
    return count_document_frequencies(pairs.split_references, source=source)


def cider_d(
    hypotheses: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> tuple[float, np.ndarray]:
    """
    CIDEr-D (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726) as in `pycocoevalcap.cider`: n-gram weights
    clipped at the reference's, a Gaussian penalty (sigma = 6) on the difference in length, times 10.

    As in that implementation, n-grams that occur in no reference weigh as if they occurred in one clip.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            One tokenised caption per clip.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One or more tokenised true captions per clip.
        document_frequencies (`DocumentFrequencies`, *optional*):
            From [`count_document_frequencies`]; by default those of `references`. With a single clip every n-gram then
            occurs everywhere and the score is 0.

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,), from 0 to 10.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, or a clip has no reference.
    """
    check_pairs(hypotheses, references)
    return _cider(NGramPairs(hypotheses, references), document_frequencies)


def _cider(
    pairs: NGramPairs, document_frequencies: DocumentFrequencies | None, *, plain: bool = False
) -> tuple[float, np.ndarray]:
    """CIDEr-D or, with `plain`, the original CIDEr (equations 2 and 3), without clipping and length penalty.

    Papers that print "CIDEr" mean CIDEr-D. Repeating rare words raises the original score; words are not stemmed.
    """
    table = pairs.table
    if document_frequencies is None:
        clips, frequencies = pairs.clips, pairs.document_frequencies()  # (G,)
    else:
        counts, clips, _ = document_frequencies
        frequencies = np.array([counts.get(ngram, 0) for ngram in table.spellings()])
    idf = np.log(clips / np.maximum(frequencies, 1))  # (G,), exactly 0 where an n-gram is everywhere
    weights = table.counts * idf[table.ngram]  # (R,)
    norms = np.sqrt(table.sums(slice(None), table.text, weights**2))  # (texts, 4)

    ours, theirs = weights[pairs.hypotheses], weights[pairs.references]  # (S,)
    products = (ours if plain else np.minimum(ours, theirs)) * theirs
    dots = table.sums(pairs.references, table.text[pairs.references], products)[pairs.clips :]  # (M, 4)
    clip = pairs.clip_of_text[pairs.clips :]  # (M,)
    scale = norms[clip] * norms[pairs.clips :]  # (M, 4)
    similarity = np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0).sum(axis=1)  # (M,)
    if not plain:
        difference = table.lengths[clip] - table.lengths[pairs.clips :]  # (M,)
        similarity *= np.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
    sums = np.bincount(clip, weights=similarity, minlength=pairs.clips)  # (N,)
    scores = 10 * sums / MAX_N / pairs.alternatives
    return float(scores.mean()), scores


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[np.ndarray, np.ndarray]:
    """
    BLEU-1 to BLEU-4 (Papineni et al., 2002, https://aclanthology.org/P02-1040) as in `pycocoevalcap.bleu`: counts
    summed over the corpus, the length of the closest reference (the shorter of two equally close), no smoothing.

    Args and errors are those of [`cider_d`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: BLEU-1 ... BLEU-4 of the corpus, (4,), and of each clip, (N, 4), from 0 to 1.
        The corpus score is not the mean of the clips' scores.
    """
    check_pairs(hypotheses, references)
    return _bleu(NGramPairs(hypotheses, references))


def _bleu(pairs: NGramPairs) -> tuple[np.ndarray, np.ndarray]:
    table, rows = pairs.table, pairs.hypotheses
    limits = np.zeros_like(table.counts)  # (R,): how often an n-gram of a hypothesis may count
    np.maximum.at(limits, rows, np.minimum(table.counts[rows], table.counts[pairs.references]))
    correct = table.sums(slice(None), table.text, limits)[: pairs.clips]  # (N, 4)
    length, lengths = table.lengths[: pairs.clips], table.lengths[pairs.clips :]  # (N,), (M,)
    guessed = np.maximum(0, length[:, None] - np.arange(MAX_N))  # (N, 4)
    clip = pairs.clip_of_text[pairs.clips :]
    order = np.lexsort((lengths, np.abs(lengths - length[clip]), clip))  # (M,): the closest reference first
    closest = lengths[order[np.cumsum(pairs.alternatives) - pairs.alternatives]]  # (N,)
    both = np.stack([length, closest], axis=1)  # (N, 2)
    corpus = _bleu_of_counts(correct.sum(axis=0), guessed.sum(axis=0), both.sum(axis=0))
    return corpus, _bleu_of_counts(correct, guessed, both)


def _bleu_of_counts(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    precisions = (correct + _BLEU_TINY) / (guessed + _BLEU_SMALL)  # (..., 4)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, MAX_N + 1))  # (..., 4)
    ratio = (lengths[..., 0] + _BLEU_TINY) / (lengths[..., 1] + _BLEU_SMALL)  # (...)
    return means * np.exp(np.minimum(0, 1 - 1 / ratio))[..., None]  # (..., 4)


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, np.ndarray]:
    """
    ROUGE-L (Lin, 2004, https://aclanthology.org/W04-1013) as in `pycocoevalcap.rouge`: an F score with beta = 1.2 of
    the best precision and the best recall over a clip's references, which may come from two references.

    Args and errors are those of [`cider_d`].

    Returns:
        `tuple[float, np.ndarray]`: the mean over clips and the score of each clip, (N,), from 0 to 1.
    """
    check_pairs(hypotheses, references)
    scores = np.zeros(len(hypotheses))  # (N,)
    for clip, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        guess = hypothesis or [""]  # for the reference scorer an empty caption is one empty token
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
    tokenizer: Tokenizer = "ptb",
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """
    Score captions against true ones, as published caption scores are computed.

    Args:
        hypotheses (`Sequence[str]`):
            One caption per clip. Empty captions count.
        references (`Sequence[Sequence[str]]`):
            One or more true captions per clip, in the order of `hypotheses`.
        tokenizer (`"ptb"` or `"whitespace"`, *optional*, defaults to `"ptb"`):
            `"ptb"`: lower case, contractions split, punctuation removed (see [`ptb_tokenize`]). `"whitespace"`:
            captions are split at white space and otherwise unchanged.
        metrics (`Sequence[str]`, *optional*):
            Any of `"cider"`, `"bleu"`, `"rougeL"`, `"exact"`, `"distinct"` (the default), `"cider_plain"` and
            `"meteor"` (METEOR 1.5 for English), which takes far longer than the others and needs the extra `meteor`.
        document_frequencies (`DocumentFrequencies`, *optional*):
            From [`caption_document_frequencies`], for CIDEr; by default those of `references`, so that the scores of
            two sets of clips are not comparable.

    Returns:
        `dict[str, float]`: `cider` (CIDEr-D), `cider_plain`, `bleu1` ... `bleu4`, `rougeL` and `meteor`, all times
        100, as papers print them; `exact`, the share of hypotheses equal to one of their references, and `distinct`,
        the number of different hypotheses over the number of all, both after tokenisation and from 0 to 1.
        [`scoring_facts`] returns the settings that belong beside the scores.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, a clip has no reference, a caption is not a
        string, or the tokenizer or a metric is unknown.
        `ImportError`: for METEOR without the packages of the extra `meteor`.

    Example:

    ```python
    >>> from vidcap.evaluation import score_captions
    >>> scores = score_captions(["A dog runs.", "a cat"], [["a dog runs"], ["a cat sleeps", "the cat is asleep"]])
    >>> scores["exact"], scores["distinct"]
    (0.5, 1.0)
    ```
    """
    scores = _score(hypotheses, references, tokenizer, metrics, document_frequencies)
    return {key: corpus_score for key, (corpus_score, _) in scores.items()}


def score_each(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Tokenizer = "ptb",
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
) -> dict[str, np.ndarray]:
    """
    Score each caption, with the arguments and errors of [`score_captions`].

    The mean over clips is the score of the corpus, except for BLEU and METEOR, which the corpus computes from sums of
    counts. `distinct` is 1 over the number of clips with this caption.

    Returns:
        `dict[str, np.ndarray]`: the keys of [`score_captions`], each (N,).
    """
    scores = _score(hypotheses, references, tokenizer, metrics, document_frequencies)
    return {key: clip_scores for key, (_, clip_scores) in scores.items()}


def scoring_facts(
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer = "ptb",
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> dict[str, Any]:
    """
    Describe how [`score_captions`] computes its scores from the same arguments, for a report.

    Returns:
        `dict[str, Any]`: `clips`, `tokenizer`, `references_per_clip` (`{"min", "median", "max"}`) and
        `document_frequencies` (of CIDEr: which clips, and how many).

    Raises:
        `ValueError`: if there are no clips or the tokenizer is unknown.
    """
    check_tokenizer(tokenizer)
    if not references:
        raise ValueError("references is empty: give the true captions of at least one clip.")
    counts = [len(alternatives) for alternatives in references]
    frequencies = document_frequencies or DocumentFrequencies({}, len(counts))
    return {
        "clips": len(counts),
        "tokenizer": TOKENIZER_NAMES[tokenizer],
        "references_per_clip": {"min": min(counts), "median": statistics.median(counts), "max": max(counts)},
        "document_frequencies": f"{frequencies.source} ({frequencies.clips} clips)",
    }


def _score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    metrics: Sequence[str],
    document_frequencies: DocumentFrequencies | None,
) -> dict[str, tuple[float, np.ndarray]]:
    """For each key the score of the corpus and those of the clips, (N,)."""
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ValueError(f"Unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}.")
    pairs = tokenize_pairs(hypotheses, references, tokenizer)
    ngrams = NGramPairs(pairs.split_hypotheses, pairs.split_references)
    scores: dict[str, tuple[float, np.ndarray]] = {}
    if "cider" in metrics:
        scores["cider"] = _cider(ngrams, document_frequencies)
    if "cider_plain" in metrics:
        scores["cider_plain"] = _cider(ngrams, document_frequencies, plain=True)
    if "bleu" in metrics:
        corpus, clips = _bleu(ngrams)
        scores |= {f"bleu{n + 1}": (float(corpus[n]), clips[:, n]) for n in range(MAX_N)}
    if "rougeL" in metrics:
        scores["rougeL"] = rouge_l(pairs.hypotheses, pairs.references)
    if "meteor" in metrics:
        scores["meteor"] = _meteor(pairs.hypotheses, pairs.references)
    scores = {key: (100 * corpus_score, 100 * clip_scores) for key, (corpus_score, clip_scores) in scores.items()}
    if "exact" in metrics:
        # Captions without a token, such as a lone emoji, are all alike: none of them counts as right.
        exact = [
            float(bool(guess) and guess in truths)
            for guess, truths in zip(pairs.hypotheses, pairs.references, strict=True)
        ]
        scores["exact"] = sum(exact) / len(exact), np.array(exact)
    if "distinct" in metrics:
        counts = Counter(map(tuple, pairs.hypotheses))
        shares = np.array([1 / counts[tuple(guess)] for guess in pairs.hypotheses])
        scores["distinct"] = len(counts) / len(shares), shares
    return scores


def _meteor(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, np.ndarray]:
    try:
        from .meteor import load_meteor_data, meteor
    except ModuleNotFoundError as error:
        raise ImportError(f"METEOR needs the package {error.name}: pip install 'vidcap[meteor]'") from error
    return meteor(hypotheses, references, data=load_meteor_data())
