"""Hard negatives of the contrastive loss: captions that nearly fit, with one word or the order of events exchanged.

Guarantees: a near miss reads like a caption of the training set; words that captions of one clip use for one another
("a man", "a guy") are not exchanged.

Limitations: a near miss may be true; the collator leaves out only those that tokenise like a caption of the clip.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
KINDS = ("word", "order")
# Words between consecutive events.
CONNECTIVE = re.compile(r"(,? (?:and )?(?:then|before|after) )")


class NearMisses:
    """Makes hard negatives from the captions of the training set.

    `word`: exchanges a word for another that was seen between the same neighbours, but never there in another caption
    of the same clip. `order`: exchanges two neighbouring parts of a sentence joined by then, before or after, if both
    were seen behind such a word.

    Args:
        captions: Captions of each clip.
        kinds: Any of `word` and `order`; each gives one near miss per caption, drawn by torch's global generator.

    Raises:
        ValueError: For an unknown or repeated kind or none, or if no caption has a near miss of a kind.
    """

    def __init__(self, captions: Iterable[Sequence[str]], kinds: Sequence[str]):
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
            raise ValueError(f"near_misses={','.join(kinds)}: name one or more of {', '.join(KINDS)}, each once")
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
                raise ValueError(f"near_misses={kind}: no caption has a near miss of this kind; leave it out")

    def __call__(self, caption: str) -> list[str]:
        """One near miss of each kind; empty where there is none."""
        return [self.make(kind, caption) for kind in self.kinds]

    def make(self, kind: str, caption: str) -> str:
        """A near miss, empty if there is none."""
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
        # The first part begins with the actor; the rest is its longest end that was seen as a part elsewhere.
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
