"""Hard negatives of the contrastive loss: captions that nearly fit a clip, with one word exchanged, or what happens in
another order. The batch's other captions differ in everything.

What it promises: a near miss reads like a caption of the training set, and words that captions of one clip exchange
for one another ("a man", "a guy") are not exchanged. What it gives up: to know that it is untrue; else only those that
the tokenizer takes for one of the clip's own captions are left out, by the collator.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
KINDS = ("word", "order")
# Words between things that happen one after the other.
CONNECTIVE = re.compile(r"(,? (?:and )?(?:then|before|after) )")


class NearMisses:
    """Makes hard negatives by what it has seen in captions.

    `word`: a word is exchanged for another that was seen between the same neighbours, but never there in another
    caption of the same clip. `order`: two neighbouring parts of a sentence joined by then, before or after change
    places, if both were seen behind such a word.

    Args:
        captions: Of each clip of the training set.
        kinds: Some of `word` and `order`; each gives one near miss a caption, drawn by torch's global generator.

    Raises:
        ValueError: For another kind, none or a repeated one, or if no caption has a near miss of a kind.
    """

    def __init__(self, captions: Iterable[Sequence[str]], kinds: Sequence[str]):
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
            raise ValueError(f"near misses {','.join(kinds)!r}: name some of {', '.join(KINDS)}, each once")
        captions = list(captions)
        self.kinds = tuple(kinds)
        self.between: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.synonyms: dict[str, set[str]] = defaultdict(set)  # each word one of its own
        self.parts: set[str] = set()
        for of_clip in captions:
            here: dict[tuple[str, str], set[str]] = defaultdict(set)
            for caption in of_clip:
                words = ["", *caption.split(), ""]
                for before, word, behind in zip(words, words[1:], words[2:], strict=False):
                    here[before, behind].add(word)
                self.parts.update(CONNECTIVE.split(caption)[2::2])
            for neighbours, exchanged in here.items():
                self.between[neighbours] |= exchanged
                for word in exchanged:
                    self.synonyms[word] |= exchanged
        for kind in kinds:
            if not any(self.make(kind, caption) for of_clip in captions for caption in of_clip):
                raise ValueError(f"near misses: no caption has one of kind {kind!r}; leave this kind out")

    def __call__(self, caption: str) -> list[str]:
        """One near miss of each kind; empty where there is none."""
        return [self.make(kind, caption) for kind in self.kinds]

    def make(self, kind: str, caption: str) -> str:
        """A near miss, or an empty string."""
        return self._exchange_word(caption) if kind == "word" else self._exchange_parts(caption)

    def _exchange_word(self, caption: str) -> str:
        words = ["", *caption.split(), ""]
        others = {
            place: self.between[words[place - 1], words[place + 1]] - self.synonyms[words[place]] - {words[place]}
            for place in range(1, len(words) - 1)
        }
        places = [place for place, candidates in others.items() if candidates]
        if not places:
            return ""
        place = _draw(places)
        words[place] = _draw(sorted(others[place]))
        return " ".join(words[1:-1])

    def _exchange_parts(self, caption: str) -> str:
        pieces = CONNECTIVE.split(caption)  # part, connective, part ...
        # The first part begins with who acts: what remains is its longest end that was seen as a part elsewhere.
        words = pieces[0].split()
        ends = (n for n in range(len(words)) if " ".join(words[n:]) in self.parts)
        if len(pieces) < 3 or (start := next(ends, None)) is None:
            return ""
        pieces[0] = " ".join(words[start:])
        places = [i for i in range(0, len(pieces) - 2, 2) if pieces[i] != pieces[i + 2]]
        if not places:
            return ""
        place = _draw(places)
        pieces[place], pieces[place + 2] = pieces[place + 2], pieces[place]
        return " ".join([*words[:start], ""]) + "".join(pieces)


def _draw(items: Sequence[Item]) -> Item:
    return items[int(torch.randint(len(items), ()))]
