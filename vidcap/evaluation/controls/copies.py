"""Captions that are copies of training captions: the only output of a captioner that memorised its sentences.

Guarantees: captions are compared after tokenisation, so case and punctuation do not hide a copy.

Limitations: a caption that differs from a training caption by one word counts as new.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..scores.bootstrap import share_interval
from ..scores.ptb_tokenizer import ptb_tokenize


def find_copies(hypotheses: Sequence[str], train_captions: Sequence[str]) -> list[bool]:
    """Whether each hypothesis equals a training caption, word for word."""
    known = _sentences(train_captions)
    return [tuple(ptb_tokenize(hypothesis)) in known for hypothesis in hypotheses]


def copy_shares(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], train_captions: Sequence[str]
) -> dict[str, Any]:
    """Shares of captions that are copies of training captions.

    For a clip whose true caption occurs in training, a copy is right. Clips none of whose references occurs in
    training tell memorisation from understanding.

    Returns:
        `share` of hypotheses that are training captions; `share_of_wrong`, the same among hypotheses that equal no
        reference (`None` if there are none); `novel`, the share that equals a reference and no training caption;
        `unseen_clips`, the number of clips none of whose references occurs in training, and `share_of_unseen`, the
        share of copies among these with its 95 % interval ([`share_interval`]), `[share, low, high]` (`None` if
        there are none).
    """
    known = _sentences(train_captions)
    guesses = [tuple(ptb_tokenize(hypothesis)) for hypothesis in hypotheses]
    truths = [_sentences(alternatives) for alternatives in references]
    copied = np.array([guess in known for guess in guesses])
    right = np.array([guess in alternatives for guess, alternatives in zip(guesses, truths, strict=True)])
    unseen = copied[[known.isdisjoint(alternatives) for alternatives in truths]]
    interval = None
    if len(unseen):
        interval = [float(unseen.mean()), *share_interval(int(unseen.sum()), len(unseen))]
    return {
        "share": float(copied.mean()),
        "share_of_wrong": None if right.all() else float(copied[~right].mean()),
        "novel": float((right & ~copied).mean()),
        "unseen_clips": len(unseen),
        "share_of_unseen": interval,
    }


def _sentences(captions: Iterable[str]) -> set[tuple[str, ...]]:
    """The different captions after tokenisation, without those that have no token, such as a lone emoji."""
    return {tuple(ptb_tokenize(caption)) for caption in set(captions)} - {()}
