"""What a data set's captions are made of, and which of their words a captioner never says.

Works on strings. Subjects are told by the rule of `errors.py`, which is made for English captions of the form "a dog
runs": the first noun of a caption. Where the rule finds none, the caption counts for no subject.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..scores.ptb_tokenizer import ptb_tokenize
from .errors import FUNCTION_WORDS, word_class

MOST = 10  # words of a list
FALL = 0.02  # of a word's probability: what falls less without the video is not owed to it
SEEN_OFTEN = 5  # clips with the word, below which its fall says little


def word_facts(
    train_captions: Sequence[str],
    predictions: Sequence[Mapping[str, Any]] = (),
    grounding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Counts the words of training captions and, where clips were captioned, looks for those that were not learned.

    Args:
        train_captions: All captions of the training clips.
        predictions: `hypothesis` and `references` of each clip of a test split.
        grounding: See [`ground_words`].

    Returns:
        `captions`, `words` (different ones), `subjects` (the most frequent first nouns, each with its share of the
        captions); with predictions `references` (different content words in them), `never_said` (how many of these
        are in no hypothesis) and `never_said_most` (the most frequent of them, with the number of clips); with
        grounding `not_grounded`: words in five clips or more whose probability falls by less than .02 where the clip
        is another one.
    """
    tokenized = [ptb_tokenize(caption) for caption in train_captions]
    subjects = Counter(noun for tokens in tokenized if (noun := _first_noun(tokens)))
    facts: dict[str, Any] = {
        "captions": len(tokenized),
        "words": len({word for tokens in tokenized for word in tokens}),
        "subjects": {word: round(count / len(tokenized), 4) for word, count in _most(subjects)},
    }
    if predictions:
        said = {word for each in predictions for word in ptb_tokenize(each["hypothesis"])}
        true: Counter[str] = Counter()
        for each in predictions:
            words = {word for reference in each["references"] for word in ptb_tokenize(reference)}
            true.update(words - FUNCTION_WORDS)
        unsaid = Counter({word: count for word, count in true.items() if word not in said})
        facts |= {"references": len(true), "never_said": len(unsaid), "never_said_most": dict(_most(unsaid))}
    if grounding:
        often = {word: each for word, each in grounding["words"].items() if each["count"] >= SEEN_OFTEN}
        flat = sorted((each["fall"], word) for word, each in often.items() if each["fall"] < FALL)
        facts["not_grounded"] = [word for _, word in flat[:MOST]]
    return facts


def _first_noun(tokens: Sequence[str]) -> str | None:
    return next((word for index, word in enumerate(tokens) if word_class(tokens, index) == "nouns"), None)


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MOST]
