"""METEOR without paraphrases: equal to METEOR 1.5 with the same stages, synonyms from WordNet's files, and its name.

CORPUS and CLIPS are METEOR 1.5's own (`-l en -norm -m "exact stem" -w "1.0 0.6"`) on the captions of
`fixtures/caption_scores`, tokenised by the reference PTB tokenizer.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vidcap.evaluation import score_captions, score_each, scoring_facts
from vidcap.evaluation.scores.ptb_tokenizer import ptb_tokenize

pytest.importorskip("snowballstemmer")
from vidcap.evaluation.scores import meteor as meteor_module  # noqa: E402
from vidcap.evaluation.scores.meteor import meteor  # noqa: E402
from vidcap.evaluation.scores.wordnet import WordNet, find_wordnet  # noqa: E402

FIXTURE = Path(__file__).parents[3] / "fixtures" / "caption_scores" / "made_up.jsonl"
CORPUS = 0.39028333690433875
CLIPS = [
    0.3555723449796634,
    0.21868159243194013,
    0.0,
    0.34431959560633296,
    0.4167783669148131,
    0.3419938277101041,
    0.42306597158809706,
    0.4784139038247433,
    0.4793979087924899,
    1.0,
    1.0,
    0.2915348012964327,
    0.44038095800866095,
    0.5049597641191761,
    0.35038395505020437,
    0.45497097778079654,
    0.07920792079207922,
    0.4957136636789823,
]

# WordNet's form: a word, its part of speech, the number of synsets, ... and the synsets.
INDEX = {
    "noun": "  1 This software and database is WordNet 3.0\n"
    "car n 2 1 @ 2 1 02958343 02959942  \nauto n 1 1 @ 1 1 02958343  \nmouse n 1 1 @ 1 1 02330245  \n",
    "verb": "run v 1 1 @ 1 1 01926311  \nsprint v 1 1 @ 1 1 01926311  \n",
    "adj": "large a 1 1 & 1 1 01382086  \nbig a 1 1 & 1 1 01382086  \n",
    "adv": "",
}
EXCEPTIONS = {"noun": "mice mouse\n", "verb": "ran run\n", "adj": "", "adv": ""}


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """A WordNet of a few words, found where the environment names it."""
    for part, index in INDEX.items():
        (tmp_path / f"index.{part}").write_text(index)
        (tmp_path / f"{part}.exc").write_text(EXCEPTIONS[part])
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_wordnet(monkeypatch):
    monkeypatch.setattr(meteor_module, "find_wordnet", lambda: None)


def words(*texts):
    return [text.split() for text in texts]


def test_equals_meteor_with_the_same_stages():
    pairs = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    corpus, clips = meteor(
        [ptb_tokenize(pair["hypothesis"]) for pair in pairs],
        [[ptb_tokenize(text) for text in pair["references"]] for pair in pairs],
    )
    assert clips == pytest.approx(CLIPS, abs=1e-12)
    assert corpus == pytest.approx(CORPUS, abs=1e-12)


def test_ties_are_broken_as_in_meteor():
    """Which of equal words are matched decides the chunks; the scores are METEOR 1.5's."""
    hypotheses = words("dogs the dogs man the dogs the and", "man dogs man the dog man a the", "dog dogs and the the")
    references = words("and man dog man", "dog man man man dog dog", "dog dog the dog man")
    _, clips = meteor(hypotheses, [[reference] for reference in references])
    assert clips == pytest.approx([0.2377123365177603, 0.351341659000847, 0.20895681193899904], abs=1e-12)


def test_by_hand(wordnet):
    # Four matches in two chunks, "a big" and "car ran": one of a function word, two of synonyms.
    [hypothesis], [reference] = words("a big car ran"), words("a large red auto ran")
    precision = (0.25 + 0.75 * 0.8 + 0.75 * 0.8 + 0.75) / (0.25 + 3 * 0.75)
    recall = (0.25 + 0.75 * 0.8 + 0.75 * 0.8 + 0.75) / (0.25 + 4 * 0.75)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    expected = mean * (1 - 0.6 * (2 / 4) ** 0.2)
    assert meteor([hypothesis], [[reference]], synonyms=WordNet(wordnet))[0] == pytest.approx(expected, abs=1e-12)
    precision, recall = (0.25 + 0.75) / 2.5, (0.25 + 0.75) / 3.25
    expected = (1 - 0.6 * (2 / 2) ** 0.2) / (0.15 / precision + 0.85 / recall)
    assert meteor([hypothesis], [[reference]])[0] == pytest.approx(expected, abs=1e-12)


def test_edges():
    perfect = words("a dog runs", "two cats")
    corpus, clips = meteor(perfect, [[perfect[0]], [["x"], perfect[1]]])
    assert corpus == 1 and clips.tolist() == [1, 1]
    assert meteor([[]], [[["a"]]])[0] == 0 and meteor([["b"]], [[["a"]]])[0] == 0
    assert meteor([[]], [[[]]])[0] == 0
    with pytest.raises(ValueError, match="Clip 0 has no reference"):
        meteor([["a"]], [[]])


def test_wordnet_knows_base_forms_and_exceptions(wordnet):
    found = WordNet(wordnet)
    assert found.version == "3.0"
    assert found.synsets("car") == {"02958343", "02959942"} == found.synsets("cars")
    assert found.synsets("mice") == found.synsets("mouse") == {"02330245"}
    assert found.synsets("ran") == found.synsets("sprinted") == found.synsets("sprinting") == {"01926311"}
    assert found.synsets("larger") == found.synsets("big") == {"01382086"}
    assert found.synsets("zebra") == found.synsets("") == frozenset()


def test_wordnet_is_found_in_nltk_archives(wordnet, tmp_path, monkeypatch):
    assert find_wordnet() == wordnet
    archive = tmp_path / "nltk" / "corpora" / "wordnet.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in wordnet.glob("*.*"):
            file.write(path, f"wordnet/{path.name}")
    monkeypatch.delenv("WNSEARCHDIR")
    monkeypatch.delenv("WNHOME", raising=False)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    assert find_wordnet() in (archive, Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
    assert WordNet(archive).synsets("autos") == {"02958343"}


def test_the_name_says_the_stages(wordnet):
    scores = score_captions(["a big car"], [["a large auto"]], metrics=["meteor"])
    assert list(scores) == ["meteor_exact_stem_synonym"] and scores["meteor_exact_stem_synonym"] > 50
    facts = scoring_facts([["x"]], metrics=["meteor"])["meteor"]
    assert facts["stages"] == ["exact", "stem", "synonym"] and facts["wordnet"] == "3.0"
    assert "without its paraphrases: " in facts["difference"]


def test_without_wordnet_the_name_is_another(no_wordnet):
    hypotheses, references = ["a big car", "dogs"], [["a large auto"], ["a dog"]]
    scores = score_captions(hypotheses, references, metrics=["meteor"])
    assert list(scores) == ["meteor_exact_stem"] and 0 < scores["meteor_exact_stem"] < 50
    each = score_each(hypotheses, references, metrics=["meteor"])["meteor_exact_stem"]
    assert each.shape == (2,) and np.all(each > 0)
    facts = scoring_facts(references, metrics=["meteor"])["meteor"]
    assert facts["stages"] == ["exact", "stem"] and facts["wordnet"] is None
    assert "paraphrases and synonyms" in facts["difference"]


def test_a_missing_stemmer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "snowballstemmer", None)
    monkeypatch.delitem(sys.modules, "vidcap.evaluation.scores.meteor")
    with pytest.raises(ImportError, match=r"snowballstemmer: pip install 'vidcap\[evaluate\]'"):
        score_captions(["a"], [["a"]], metrics=["meteor"])
