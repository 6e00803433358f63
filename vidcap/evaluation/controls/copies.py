"""Which captions are copies of training captions: a captioner that learned its sentences by heart says nothing else.

Promises: captions are compared after tokenisation, so that case and punctuation do not hide a copy. Gives up:
near-copies; a caption that differs from a training caption by one word counts as new.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..scores.bootstrap import share_interval
from ..scores.ptb_tokenizer import ptb_tokenize


def find_copies(hypotheses: Sequence[str], train_captions: Sequence[str]) -> list[bool]:
    """Whether each hypothesis is, word for word, a caption of the training clips."""
    known = _sentences(train_captions)
    return [tuple(ptb_tokenize(hypothesis)) in known for hypothesis in hypotheses]


def copy_shares(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], train_captions: Sequence[str]
) -> dict[str, Any]:
    """How many captions are copies.

    A clip whose true caption stands in training is rightly told by a copy. What tells learning by heart from knowing
    is the clips of which no reference stands there.

    Returns:
        `share` of the hypotheses that are captions of training clips, `share_of_wrong`, that among those that equal
        no reference (`None` if there are none), `novel`, the share that is in no training caption and equals a
        reference; `unseen_clips`, the number of clips none of whose references stands in training, and
        `share_of_unseen`, the share of copies among these with its 95 % interval ([`share_interval`]),
        `[share, low, high]` (`None` if there are none).
    """
    known = _sentences(train_captions)
    guesses = [tuple(ptb_tokenize(hypothesis)) for hypothesis in hypotheses]
    truths = [_sentences(alternatives) for alternatives in references]
    copied = np.array([guess in known for guess in guesses])
    right = np.array([guess in alternatives for guess, alternatives in zip(guesses, truths, strict=True)])
    of_unseen = copied[[known.isdisjoint(alternatives) for alternatives in truths]]
    interval = None
    if len(of_unseen):
        interval = [float(of_unseen.mean()), *share_interval(int(of_unseen.sum()), len(of_unseen))]
    return {
        "share": float(copied.mean()),
        "share_of_wrong": None if right.all() else float(copied[~right].mean()),
        "novel": float((right & ~copied).mean()),
        "unseen_clips": len(of_unseen),
        "share_of_unseen": interval,
    }


def _sentences(captions: Iterable[str]) -> set[tuple[str, ...]]:
    """The different captions after tokenisation; one that has no token, such as a lone emoji, is like no other."""
    return {tuple(ptb_tokenize(caption)) for caption in set(captions)} - {()}
