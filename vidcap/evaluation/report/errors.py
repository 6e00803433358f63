"""Words that a captioner confuses or never says, and clips for which it fails. Everything here works on strings.

A confusion is found by alignment: in a wrong caption and the reference most like it, the runs of words at the same
place that differ (by `difflib`). Words are classified by closed lists of colours, numbers and directions; of the
others, a word after an article, a number, a colour or a possessive is a noun, and a word that ends in -ing, or in -s
right after a noun or "then", is a verb. This is a rule for English captions of the form "a dog runs", not a tagger:
words that no rule covers are `other words`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from ..scores.ptb_tokenizer import ptb_tokenize

COLOURS = frozenset(
    "red orange yellow green blue purple violet pink brown black white grey gray golden gold silver beige turquoise "
    "cyan magenta maroon navy tan blond blonde teal crimson colorful colourful".split()
)
COUNTS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve dozen both several many few couple pair "
    "single once twice".split()
)
DIRECTIONS = frozenset(
    "left right up down upward upwards downward downwards forward forwards backward backwards leftward leftwards "
    "rightward rightwards clockwise counterclockwise anticlockwise north south east west in out into away towards "
    "toward above below under over behind front back before after first then".split()
)
DETERMINERS = frozenset("a an the this that these those his her its their my your our some another each".split())
# Words without content of their own, though a noun follows some of them.
FUNCTION_WORDS = DETERMINERS | frozenset(
    "and or but of to with at on for from by as while is are was were be been being has have had does do did it he "
    "she they him them who which there not".split()
)
CLASSES = ("nouns", "verbs", "colours", "counts", "directions", "other words")
_CONFUSIONS_KEPT = 30  # per class
_NOTHING = "(nothing)"
_BINS = 4
_EXACT = 2**53  # integers below it are exact as floats
_CLIPS_LISTED = 20  # best and worst
_MAX_WORDS = 60  # words that are aligned; the time grows with the square
_WORDS_LISTED = 10
_LEAST_FALL = 0.02  # of a word's probability, below which the word is not grounded in the video
_LEAST_CLIPS = 5  # clips with the word, below which its fall means little


def word_class(tokens: Sequence[str], index: int) -> str:
    """The class of a word in its caption, one of [`CLASSES`].

    Args:
        tokens: The caption, in lower case.
        index: Position of the word.
    """
    word = tokens[index]
    if word in COLOURS:
        return "colours"
    if word in COUNTS or word.isdigit():
        return "counts"
    if word in DIRECTIONS:
        return "directions"
    if word in FUNCTION_WORDS:
        return "other words"
    before = tokens[index - 1] if index else ""
    if word.endswith("ing") and len(word) > 5 and before not in DETERMINERS:
        return "verbs"
    if before in DETERMINERS or before in COLOURS or before in COUNTS or before.isdigit() or before == "'s":
        return "nouns"
    if index and word.endswith("s") and (before == "then" or word_class(tokens, index - 1) == "nouns"):
        return "verbs"
    return "other words"


def closest_reference(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[str]:
    """The tokenised reference most like a tokenised caption; of equally close ones, the first."""
    return max(references, key=lambda reference: SequenceMatcher(None, hypothesis, reference, autojunk=False).ratio())


def confusions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Count the words that captions use in place of the true ones.

    Args:
        hypotheses: One caption per clip.
        references: One or more true captions per clip.

    Returns:
        For each of [`CLASSES`] with mistakes: `mistakes`, how often a true word of the class was missed or replaced;
        `right`, how often one was found; and `pairs`, the most frequent `{"truth", "caption", "count"}`. The class is
        that of the true word. Captions are cut after 60 words.
    """
    pairs: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    right: Counter[str] = Counter()
    for hypothesis, alternatives in zip(hypotheses, references, strict=True):
        guess = _first_tokens(hypothesis)
        truth = closest_reference(guess, [_first_tokens(reference) for reference in alternatives])
        for tag, guess_start, guess_end, start, end in SequenceMatcher(
            None, guess, truth, autojunk=False
        ).get_opcodes():
            if tag == "equal":
                right.update(word_class(truth, index) for index in range(start, end))
                continue
            # Runs of unequal length are aligned from their start; surplus true words are paired with nothing.
            replacements = guess[guess_start:guess_end]
            for offset, index in enumerate(range(start, end)):
                replacement = replacements[offset] if offset < len(replacements) else _NOTHING
                pairs[word_class(truth, index)][truth[index], replacement] += 1
    return {
        name: {
            "mistakes": pairs[name].total(),
            "right": right[name],
            "pairs": [
                {"truth": truth, "caption": caption, "count": count}
                for (truth, caption), count in _most_common(pairs[name], _CONFUSIONS_KEPT)
            ],
        }
        for name in CLASSES
        if pairs[name]
    }


def _first_tokens(caption: str) -> list[str]:
    return ptb_tokenize(" ".join(caption.split()[:_MAX_WORDS]))[:_MAX_WORDS]


def _most_common(counts: Counter[Any], count: int) -> list[tuple[Any, int]]:
    """The most common items; of equally common ones, the first in order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]


def word_facts(
    train_captions: Sequence[str],
    predictions: Sequence[Mapping[str, Any]] = (),
    grounding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Count the words of training captions and find words that were not learned.

    Args:
        train_captions: All captions of the training clips.
        predictions: `hypothesis` and `references` of each clip of a test split.
        grounding: The result of `ground_words`.

    Returns:
        `captions`, `words` (different ones), `subjects` (the most frequent first nouns, each with its share of the
        captions); with predictions `references` (number of different content words in them), `never_said` (number of
        these that occur in no hypothesis) and `never_said_most` (the most frequent of them, with the number of
        clips); with grounding `not_grounded`: words of at least five clips whose probability falls by less than .02
        when the clip is replaced by another.
    """
    tokenized = [ptb_tokenize(caption) for caption in train_captions]
    subjects = Counter(noun for tokens in tokenized if (noun := _first_noun(tokens)))
    facts: dict[str, Any] = {
        "captions": len(tokenized),
        "words": len({word for tokens in tokenized for word in tokens}),
        "subjects": {word: round(count / len(tokenized), 4) for word, count in _most_common(subjects, _WORDS_LISTED)},
    }
    if predictions:
        said = {word for row in predictions for word in ptb_tokenize(row["hypothesis"])}
        true: Counter[str] = Counter()
        for row in predictions:
            words = {word for reference in row["references"] for word in ptb_tokenize(reference)}
            true.update(words - FUNCTION_WORDS)
        unsaid = Counter({word: count for word, count in true.items() if word not in said})
        most = dict(_most_common(unsaid, _WORDS_LISTED))
        facts |= {"references": len(true), "never_said": len(unsaid), "never_said_most": most}
    if grounding:
        falls = sorted(
            (values["fall"], word)
            for word, values in grounding["words"].items()
            if values["count"] >= _LEAST_CLIPS and values["fall"] < _LEAST_FALL
        )
        facts["not_grounded"] = [word for _, word in falls[:_WORDS_LISTED]]
    return facts


def _first_noun(tokens: Sequence[str]) -> str | None:
    return next((word for index, word in enumerate(tokens) if word_class(tokens, index) == "nouns"), None)


def group_scores(scores: Mapping[str, Sequence[float]], groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """Average the scores of each group of clips.

    Unlike scores computed on a group alone, these use the document frequencies of all clips, so that groups compare.

    Args:
        scores: From `scores_per_clip`: one value per clip for each score.
        groups: The group of each clip; `None` omits the clip.

    Returns:
        For each group, in the order of first appearance, `clips` and the mean of each score.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(index)
    return {
        group: {
            "clips": len(indices),
            **{name: float(np.mean([values[index] for index in indices])) for name, values in scores.items()},
        }
        for group, indices in members.items()
    }


def bins(values: Sequence[float], unit: str, *, count: int = _BINS) -> list[str | None]:
    """Group values by quantiles, with names such as `2 to 5 words`; fewer groups where values repeat.

    Args:
        values: At least one.
        unit: Their unit, may be empty.
        count: Number of groups at most.

    Returns:
        The name of each value's group.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    places = np.searchsorted(edges, values, side="left").tolist()  # a value at an edge belongs below it
    unit = f" {unit}" if unit else ""
    members: dict[int, list[float]] = {}
    for value, place in zip(values, places, strict=True):
        members.setdefault(place, []).append(value)
    show = _number_format([end for group in members.values() for end in (min(group), max(group))])
    names = {}
    for place, group in members.items():
        low, high = show(min(group)), show(max(group))
        names[place] = f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
    return [names[place] for place in places]


def _number_format(values: Sequence[float]) -> Callable[[float], str]:
    """Integers unchanged, others with the fewest digits, at least three, that tell all of `values` apart."""
    if all(float(value).is_integer() and abs(value) < _EXACT for value in values):
        return lambda value: str(int(value))
    for digits in range(3, 17):
        if len({f"{value:.{digits}g}" for value in values}) == len(set(values)):
            break
    return lambda value: f"{value:.{digits}g}"


def analyse_errors(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    scores: Mapping[str, Sequence[float]],
    *,
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """
    Find confused words, and groups of clips with low scores.

    Args:
        hypotheses: One caption per clip.
        references: One or more true captions per clip.
        scores: From `scores_per_clip`.
        columns: Other facts about each clip: texts, or numbers (also as text), of which more than eight different
            ones are put into four groups; `None` where unknown.

    Returns:
        `confusions`; `groups`: the scores by `caption length` (of the shortest reference) and by each column, see
        [`group_scores`]; `worst` and `best`: indices of the 20 clips of lowest and highest CIDEr.
    """
    lengths = [min(len(reference.split()) for reference in alternatives) for alternatives in references]
    groups = {"caption length": bins(lengths, "words")}
    for name, values in columns.items():
        groups[name] = _column_groups(list(values), "s" if name == "duration" else "")
    order = np.argsort(scores["cider"], kind="stable").tolist()
    return {
        "confusions": confusions(hypotheses, references),
        "groups": {name: _sorted_groups(group_scores(scores, group)) for name, group in groups.items()},
        "worst": order[:_CLIPS_LISTED],
        "best": order[::-1][:_CLIPS_LISTED],
    }


def _column_groups(values: list[Any], unit: str) -> list[str | None]:
    known = [value for value in values if value is not None]
    try:
        numbers = [float(value) for value in known]
    except ValueError:
        numbers = []
    if len(set(numbers)) <= _BINS * 2 or not np.isfinite(numbers).all():
        return [None if value is None else str(value) for value in values]
    names = iter(bins(numbers, unit))
    return [None if value is None else next(names) for value in values]


def _sorted_groups(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Groups by the number that their names begin with, then by name."""

    def key(name: str) -> tuple[float, str]:
        try:
            return float(name.split()[0]), name
        except (ValueError, IndexError):
            return float("inf"), name

    return {name: table[name] for name in sorted(table, key=key)}
