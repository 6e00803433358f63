"""Which words WordNet holds for synonyms, read from its dictionary files.

Promised: the synonyms of METEOR 1.5, which are those of WordNet 3.0 with its rules for base forms. Given up: senses,
parts of speech and phrases of several words.
"""

import os
import re
import sys
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_PARTS = ("noun", "verb", "adj", "adv")
_NO_SYNSETS: frozenset[str] = frozenset()
# Endings and what replaces them in a base form: nouns, verbs, adjectives, in the order in which they are tried.
_ENDINGS = (
    *(
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)


def _places() -> Iterator[Path]:
    """Where WordNet's own programs, Debian's package `wordnet-base` and NLTK's downloads keep the files."""
    if searched := os.environ.get("WNSEARCHDIR"):
        yield Path(searched)
    if home := os.environ.get("WNHOME"):
        yield Path(home, "dict")
    yield from map(Path, ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict"))
    named = [Path(root) for root in os.environ.get("NLTK_DATA", "").split(os.pathsep) if root]
    usual = [
        Path(root, "nltk_data") for root in (Path.home(), sys.prefix, "/usr/share", "/usr/local/share", "/usr/lib")
    ]
    for root in (*named, *usual):
        yield root / "corpora" / "wordnet"
        yield root / "corpora" / "wordnet.zip"


def find_wordnet() -> Path | None:
    """The first folder, or NLTK's `wordnet.zip`, with WordNet's dictionary files; `None` if there is none.

    Looked at are `$WNSEARCHDIR`, `$WNHOME/dict`, the folders of Debian's `wordnet-base`, of WordNet's own installation
    and of NLTK (`$NLTK_DATA`, `~/nltk_data` and below the interpreter).
    """
    for place in _places():
        if (place if place.suffix == ".zip" else place / "index.noun").is_file():
            return place
    return None


class WordNet:
    """Synsets of words.

    Args:
        path: A folder with the files `index.*` and `*.exc`, or NLTK's `wordnet.zip`; see [`find_wordnet`].

    Raises:
        OSError: A file is missing.
    """

    def __init__(self, path: str | Path):
        folder: Path | zipfile.Path = Path(path)
        if folder.suffix == ".zip":
            folder = zipfile.Path(path, "wordnet/")
        self.version = "unknown"
        self._synsets: dict[str, frozenset[str]] = {}
        self._bases: dict[str, list[str]] = {}
        for part in _PARTS:
            with (folder / f"index.{part}").open(encoding="utf-8") as file:
                for line in file:
                    if line.startswith(" "):  # the licence
                        if found := re.search(r"WordNet (\d\.\d)", line):
                            self.version = found[1]
                        continue
                    word, _, count, *fields = line.split()
                    # As in METEOR a synset is its offset alone, though a noun and a verb may share one.
                    offsets = frozenset(fields[-int(count) :])
                    self._synsets[word] = self._synsets.get(word, _NO_SYNSETS) | offsets
            with (folder / f"{part}.exc").open(encoding="utf-8") as file:
                for line in file:
                    form, *bases = line.split()
                    self._bases.setdefault(form, []).extend(bases)

    def synsets(self, word: str) -> frozenset[str]:
        """The synsets of a lower-case word and of its base form, empty for a word that WordNet does not have."""
        bases = self._bases.get(word) or [self._base(word)]
        return frozenset().union(*(self._synsets.get(form, _NO_SYNSETS) for form in (word, *bases)))

    def _base(self, word: str) -> str:
        if len(word) > 2 and not word.endswith("ss"):
            for ending, replacement in _ENDINGS:
                if word.endswith(ending) and (base := word.removesuffix(ending) + replacement) in self._synsets:
                    return base
        return word


@lru_cache(maxsize=1)
def load_wordnet(path: Path) -> WordNet:
    """[`WordNet`], read once."""
    return WordNet(path)
