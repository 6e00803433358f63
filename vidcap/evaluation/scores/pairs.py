"""Checks and tokenisation of hypotheses and references."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from .ptb_tokenizer import ptb_tokenize

Tokens = Sequence[str]
Tokenizer = Literal["ptb", "whitespace"]

TOKENIZER_NAMES = {
    "ptb": "ptb: that of Stanford CoreNLP 3.4.1 (PTBTokenizer), lower case, without punctuation",
    "whitespace": "whitespace: split at white space, otherwise unchanged",
}


def check_pairs(hypotheses: Sequence, references: Sequence) -> None:
    """Raise `ValueError` unless there are hypotheses, each with at least one reference."""
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses but {len(references)} lists of references: give one list of references "
            "per hypothesis, in the same order."
        )
    if not hypotheses:
        raise ValueError("hypotheses and references are empty: give at least one caption to score.")
    for index, alternatives in enumerate(references):
        if not alternatives:
            raise ValueError(f"Clip {index} has no reference: give it at least one, or omit the clip.")


def check_strings(captions: Sequence[str], what: str) -> None:
    """Raise `ValueError` unless all captions are strings; `what` with `{}` names one in the message."""
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"{what.format(number)} is of type {type(caption).__name__}: give a string.")


def check_tokenizer(tokenizer: str) -> None:
    if tokenizer not in TOKENIZER_NAMES:
        raise ValueError(f"Unknown tokenizer {tokenizer!r}: choose 'ptb' or 'whitespace'.")


def tokenize(caption: str, tokenizer: Tokenizer) -> list[str]:
    """The tokens of a caption; some hold a no-break space (see [`ptb_tokenize`])."""
    return ptb_tokenize(caption) if tokenizer == "ptb" else caption.split()


def split_tokens(tokens: Tokens) -> list[str]:
    """Split tokens held together by a no-break space, such as "1 1/2", as the reference scorer does for n-grams."""
    return " ".join(tokens).split()


class TokenizedPairs(NamedTuple):
    """Tokens of each clip's hypothesis and references, for ROUGE-L, and split for n-grams."""

    hypotheses: list[list[str]]
    references: list[list[list[str]]]
    split_hypotheses: list[list[str]]
    split_references: list[list[list[str]]]


def tokenize_pairs(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer
) -> TokenizedPairs:
    """
    Check and tokenise captions.

    Raises:
        `ValueError`: if there are no clips, the two lengths differ, a clip has no reference, a caption is not a
        string, or the tokenizer is unknown.
    """
    check_tokenizer(tokenizer)
    if isinstance(hypotheses, str):
        raise ValueError("hypotheses is one string: give a list of strings, one per clip.")
    check_pairs(hypotheses, references)
    check_strings(hypotheses, "Hypothesis {}")
    for index, alternatives in enumerate(references):
        if isinstance(alternatives, str) or not isinstance(alternatives, Sequence):
            raise ValueError(
                f"The references of clip {index} are of type {type(alternatives).__name__}: give a list of strings."
            )
        check_strings(alternatives, f"Reference {{}} of clip {index}")
    guesses = [tokenize(hypothesis, tokenizer) for hypothesis in hypotheses]
    truths = [[tokenize(reference, tokenizer) for reference in alternatives] for alternatives in references]
    return TokenizedPairs(
        guesses,
        truths,
        [split_tokens(guess) for guess in guesses],
        [[split_tokens(truth) for truth in alternatives] for alternatives in truths],
    )
