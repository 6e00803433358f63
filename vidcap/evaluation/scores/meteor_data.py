"""METEOR's word lists, read from the Python package `pycocoevalcap`.

Guarantees: the function words, the synonyms (of WordNet 3.0) and the paraphrases of METEOR 1.5 for English. The files
are only read; nothing of the package is run.

Limitations: the paraphrase table (60 MB compressed, 5 million rows) is not kept in memory, so each call of
[`MeteorData.paraphrases`] reads it anew.
"""

import gzip
import zipfile
from collections.abc import Iterator, Set
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

JAR, TABLE = "meteor-1.5.jar", "data/paraphrase-en.gz"
MAX_PHRASE = 7  # words of the longest phrase in the table

Paraphrases = dict[str, dict[str, int]]  # phrase -> its paraphrases, each with its row in the table

_NO_SYNSETS: frozenset[str] = frozenset()
# Endings and their replacements in a base form: nouns, verbs, adjectives, in the order in which METEOR tries them.
_ENDINGS = [
    rule.split(">")
    for rule in (
        "s> ses>s xes>x zes>z ches>ch shes>sh men>man ies>y s> ies>y es>e es> ed>e ed> ing>e ing> er> est> er>e est>e"
    ).split()
]


class MeteorData:
    """
    The word lists of METEOR 1.5 for English.

    Args:
        folder (`Path`): a folder with `meteor-1.5.jar` and `data/paraphrase-en.gz`.

    Raises:
        `OSError`: if one of the two cannot be read.
    """

    def __init__(self, folder: Path):
        self._table = folder / TABLE
        with zipfile.ZipFile(folder / JAR) as jar:
            self.function_words = frozenset(_lines(jar, "function/english.words"))
            synsets, exceptions = _lines(jar, "synonym/english.synsets"), _lines(jar, "synonym/english.exceptions")
        self._synsets = {word: frozenset(next(synsets).split()) for word in synsets}
        self._bases: dict[str, list[str]] = {}
        for base in exceptions:
            for form in next(exceptions).split():
                self._bases.setdefault(form, []).append(base)

    def synsets(self, word: str) -> frozenset[str]:
        """Synsets of a lower-case word and of its base form; empty for a word that WordNet lacks."""
        bases = self._bases.get(word) or [self._base(word)]
        return frozenset().union(*(self._synsets.get(form, _NO_SYNSETS) for form in (word, *bases)))

    def _base(self, word: str) -> str:
        if len(word) > 2 and not word.endswith("ss"):
            for ending, replacement in _ENDINGS:
                if word.endswith(ending) and (base := word.removesuffix(ending) + replacement) in self._synsets:
                    return base
        return word

    def paraphrases(self, phrases: Set[str]) -> Paraphrases:
        """Find the paraphrases among some phrases, whose words are separated by one space; takes some seconds."""
        lines = {f"{phrase}\n".encode(): phrase for phrase in phrases}
        paraphrases: Paraphrases = {}
        with gzip.open(self._table) as file:
            # Each row is three lines: a probability, a phrase, its paraphrase.
            for row, (_, phrase, paraphrase) in enumerate(zip(file, file, file, strict=True)):
                if phrase in lines and paraphrase in lines:
                    paraphrases.setdefault(lines[phrase], {})[lines[paraphrase]] = row
        return paraphrases


def _lines(jar: zipfile.ZipFile, name: str) -> Iterator[str]:
    return iter(jar.read(name).decode("utf-8").splitlines())


@lru_cache(maxsize=1)
def load_meteor_data() -> MeteorData:
    """
    METEOR's word lists from the installed package `pycocoevalcap`, read once.

    Raises:
        `ImportError`: if the package is not installed.
    """
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "meteor" / JAR).is_file():
            return MeteorData(Path(folder) / "meteor")
    raise ImportError(
        "METEOR needs the synonyms and paraphrases of the package pycocoevalcap (104 MB): pip install 'vidcap[meteor]'"
    )
