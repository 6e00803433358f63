"""Which words a captioner confuses, and for which clips it fails. Everything here works on strings.

A confusion is found by alignment: of a wrong caption and the reference most like it, the runs of words that stand at
the same place and differ (Levenshtein's substitutions, by `difflib`). Words are put into classes by closed lists of
colours, numbers and directions; of the others, a word after an article, a number, a colour or a possessive is a noun,
and one that ends in -ing, or in -s right after a noun or "then", is a verb. This is a rule for captions of the
form "a dog runs", not a tagger: what no rule tells stands under `other words`.
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
# Words that no caption is about; a noun follows some of them, but they are none.
FUNCTION_WORDS = DETERMINERS | frozenset(
    "and or but of to with at on for from by as while is are was were be been being has have had does do did it he "
    "she they them him who which there not".split()
)
CLASSES = ("nouns", "verbs", "colours", "counts", "directions", "other words")
_MOST = 30  # confusions of a class that are kept
_EMPTY = "(nothing)"
_BINS = 4
_EXACT = 2**53  # whole numbers below it have a float of their own
_NOTED_CLIPS = 20  # best and worst
_LONGEST = 60  # words that are aligned; the time grows with the square


def word_class(tokens: Sequence[str], index: int) -> str:
    """The class, one of [`CLASSES`], of a word in its caption.

    Args:
        tokens: The caption, in lower case.
        index: Of the word.
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
    """The reference that shares most with a caption, both as tokens; of equally close ones, the first."""
    return max(references, key=lambda reference: SequenceMatcher(None, hypothesis, reference, autojunk=False).ratio())


def confusions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What captions say in place of what is true.

    Args:
        hypotheses: A caption for each clip.
        references: One or more true captions for each clip.

    Returns:
        For each of [`CLASSES`] with mistakes: `mistakes`, how often a true word of the class was missed or replaced;
        `right`, how often one was met; and `pairs`, the most frequent `{"truth", "caption", "count"}`; the class is
        the true word's. Captions of more than 60 words are cut there.
    """
    pairs: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    right: Counter[str] = Counter()
    for hypothesis, alternatives in zip(hypotheses, references, strict=True):
        guess = _start(hypothesis)
        truth = closest_reference(guess, [_start(reference) for reference in alternatives])
        for tag, guess_start, guess_end, start, end in SequenceMatcher(
            None, guess, truth, autojunk=False
        ).get_opcodes():
            if tag == "equal":
                right.update(word_class(truth, index) for index in range(start, end))
                continue
            # Runs of unequal length are aligned from their start; words that are left over met nothing.
            said = guess[guess_start:guess_end]
            for offset, index in enumerate(range(start, end)):
                got = said[offset] if offset < len(said) else _EMPTY
                pairs[word_class(truth, index)][truth[index], got] += 1
    return {
        name: {
            "mistakes": pairs[name].total(),
            "right": right[name],
            "pairs": [
                {"truth": truth, "caption": got, "count": count}
                for (truth, got), count in sorted(pairs[name].items(), key=lambda each: (-each[1], each[0]))[:_MOST]
            ],
        }
        for name in CLASSES
        if pairs[name]
    }


def _start(caption: str) -> list[str]:
    return ptb_tokenize(" ".join(caption.split()[:_LONGEST]))[:_LONGEST]


def group_scores(scores: Mapping[str, Sequence[float]], groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """The mean score of each group of clips.

    Unlike scores computed on a group alone, these keep the document frequencies of all clips, so that groups compare.

    Args:
        scores: From `scores_per_clip`: for each score a value a clip.
        groups: Of each clip; `None` leaves it out.

    Returns:
        For each group, in the order of first sight, `clips`, and the mean of each score.
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
    """The group of each value: quarters by quantiles, named like `2 to 5 words`; fewer where values repeat.

    Args:
        values: At least one.
        unit: What they are measured in.
        count: How many groups at most.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    places = np.searchsorted(edges, values, side="left")  # a value at an edge belongs below it
    unit = f" {unit}" if unit else ""
    members: dict[int, list[float]] = {}
    for value, place in zip(values, places.tolist(), strict=True):
        members.setdefault(place, []).append(value)
    ends = [end for own in members.values() for end in (min(own), max(own))]
    show = _number_format(ends)
    names = {}
    for place, own in members.items():
        low, high = show(min(own)), show(max(own))
        names[place] = f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
    return [names[place] for place in places.tolist()]


def _number_format(values: Sequence[float]) -> Callable[[float], str]:
    """Whole numbers as they are, others by the fewest digits, at least three, that tell all of `values` apart."""
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
    Args:
        hypotheses: A caption for each clip.
        references: One or more true captions for each clip.
        scores: From `scores_per_clip`.
        columns: What else is known of each clip: texts, or numbers (also as text), of which more than eight different
            ones are put into four groups; `None` where it is not known.

    Returns:
        `confusions`; `groups`: the scores by `caption length` (of the shortest reference) and by each column, see
        [`group_scores`]; `worst` and `best`: indices of the 20 clips of lowest and highest CIDEr.
    """
    groups: dict[str, list[str | None]] = {
        "caption length": bins([min(len(each.split()) for each in truths) for truths in references], "words")
    }
    for name, values in columns.items():
        groups[name] = _column_groups(list(values), "s" if name == "duration" else "")
    order = np.argsort(scores["cider"], kind="stable").tolist()
    return {
        "confusions": confusions(hypotheses, references),
        "groups": {name: _in_order(group_scores(scores, group)) for name, group in groups.items()},
        "worst": order[:_NOTED_CLIPS],
        "best": order[::-1][:_NOTED_CLIPS],
    }


def _column_groups(values: list[Any], unit: str) -> list[str | None]:
    known = [value for value in values if value is not None]
    try:
        numbers = [float(value) for value in known]
    except ValueError:
        numbers = []
    if len(set(numbers)) <= _BINS * 2 or not np.isfinite(numbers).all():
        return [None if value is None else str(value) for value in values]
    named = iter(bins(numbers, unit))
    return [None if value is None else next(named) for value in values]


def _in_order(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    def key(name: str) -> tuple[float, str]:
        try:
            return float(name.split()[0]), name
        except (ValueError, IndexError):
            return float("inf"), name

    return {name: table[name] for name in sorted(table, key=key)}
