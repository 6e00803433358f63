"""METEOR: equal to METEOR 1.5, by hand on small word lists, and what is missing without its data.

CORPUS and CLIPS are the results of `meteor-1.5.jar -l en -norm` on the captions of `fixtures/caption_scores`,
tokenised by the reference PTB tokenizer.
"""

import gzip
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vidcap.evaluation import score_captions, score_each
from vidcap.evaluation.scores import meteor_data
from vidcap.evaluation.scores.meteor_data import MeteorData, load_meteor_data
from vidcap.evaluation.scores.ptb_tokenizer import ptb_tokenize

pytest.importorskip("snowballstemmer", reason="METEOR needs snowballstemmer: pip install 'vidcap[meteor]'")
from vidcap.evaluation.scores.meteor import meteor  # noqa: E402

FIXTURE = Path(__file__).parents[3] / "fixtures" / "caption_scores"
CORPUS = 0.39186395511385974
CLIPS = [
    0.35140532151568477,
    0.21868159243194013,
    0.0,
    0.34431959560633296,
    0.4167783669148131,
    0.3419938277101041,
    0.42306597158809706,
    0.4784139038247433,
    0.5242339195236699,
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

FILES = {
    "function/english.words": "a\nthe\n",
    "synonym/english.synsets": "car\n02958343 02959942\nauto\n02958343\nmouse\n02330245\nrun\n01926311\n"
    "sprint\n01926311\nlarge\n01382086\nbig\n01382086\n",
    "synonym/english.exceptions": "mouse\nmice\nrun\nran\n",
}
PARAPHRASES = "0.5\ntwo\na pair of\n0.1\nhome\nthe house\n"


@pytest.fixture
def data(tmp_path):
    """METEOR's files with a few words."""
    with zipfile.ZipFile(tmp_path / "meteor-1.5.jar", "w") as jar:
        for name, text in FILES.items():
            jar.writestr(name, text)
    (tmp_path / "data").mkdir()
    with gzip.open(tmp_path / "data" / "paraphrase-en.gz", "wt") as file:
        file.write(PARAPHRASES)
    return MeteorData(tmp_path)


@pytest.fixture(scope="module")
def real_data():
    try:
        return load_meteor_data()
    except ImportError as error:
        pytest.skip(str(error))


def words(*texts):
    return [text.split() for text in texts]


def test_equals_meteor(real_data):
    pairs = [json.loads(line) for line in (FIXTURE / "made_up.jsonl").read_text(encoding="utf-8").splitlines()]
    corpus, clips = meteor(
        [ptb_tokenize(pair["hypothesis"]) for pair in pairs],
        [[ptb_tokenize(text) for text in pair["references"]] for pair in pairs],
        data=real_data,
    )
    assert clips == pytest.approx(CLIPS, abs=1e-12)
    assert corpus == pytest.approx(CORPUS, abs=1e-12)


def test_has_its_name_among_the_scores(real_data):
    hypotheses, references = ["a big car", "a dog runs"], [["a large auto"], ["a dog sleeps"]]
    scores = score_captions(hypotheses, references, metrics=["meteor"])
    assert list(scores) == ["meteor"] and 0 < scores["meteor"] < 100
    clips = score_each(hypotheses, references, metrics=["meteor"])["meteor"]
    assert clips.shape == (2,) and np.all(clips > 0)


def test_ties_are_broken_as_in_meteor(data):
    """The choice among equal words decides the chunks; the scores are METEOR 1.5's."""
    hypotheses = words("dogs the dogs man the dogs the and", "man dogs man the dog man a the", "dog dogs and the the")
    references = words("and man dog man", "dog man man man dog dog", "dog dog the dog man")
    data.function_words |= {"and"}
    _, clips = meteor(hypotheses, [[reference] for reference in references], data=data)
    assert clips == pytest.approx([0.2377123365177603, 0.351341659000847, 0.20895681193899904], abs=1e-12)


def test_synonyms_by_hand(data):
    # Four matches in two chunks, "a big" and "car ran": one of a function word, two of synonyms.
    [hypothesis], [reference] = words("a big car ran"), words("a large red auto ran")
    precision = (0.25 + 0.75 * 0.8 + 0.75 * 0.8 + 0.75) / (0.25 + 3 * 0.75)
    recall = (0.25 + 0.75 * 0.8 + 0.75 * 0.8 + 0.75) / (0.25 + 4 * 0.75)
    expected = (1 - 0.6 * (2 / 4) ** 0.2) / (0.15 / precision + 0.85 / recall)
    assert meteor([hypothesis], [[reference]], data=data)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
def test_paraphrases_by_hand(data, swapped):
    # "two" matches "a pair of", "dogs" itself, "home" "the house": three matches of six and four words, in one chunk.
    texts = words("two dogs home now", "a pair of dogs the house")
    hypothesis, reference = reversed(texts) if swapped else texts
    short = (0.75 * 0.6 + 0.75 + 0.75 * 0.6) / (4 * 0.75)
    long = ((0.25 + 0.75 + 0.75) * 0.6 + 0.75 + (0.25 + 0.75) * 0.6) / (2 * 0.25 + 4 * 0.75)
    precision, recall = (long, short) if swapped else (short, long)
    expected = (1 - 0.6 * (1 / ((3 + 6) / 2)) ** 0.2) / (0.15 / precision + 0.85 / recall)
    assert meteor([hypothesis], [[reference]], data=data)[0] == pytest.approx(expected, abs=1e-12)


def test_edges(data):
    perfect = words("a dog runs", "two cats")
    corpus, clips = meteor(perfect, [[perfect[0]], [["x"], perfect[1]]], data=data)
    assert corpus == pytest.approx(1, abs=1e-12) and clips == pytest.approx([1, 1], abs=1e-12)
    for hypothesis, reference in (([], ["a"]), (["b"], ["a"]), ([], [])):
        assert meteor([hypothesis], [[reference]], data=data)[0] == 0
    with pytest.raises(ValueError, match="Clip 0"):
        meteor([["a"]], [[]], data=data)


def test_synsets_of_base_forms_and_exceptions(data):
    assert data.synsets("car") == {"02958343", "02959942"} == data.synsets("cars")
    assert data.synsets("mice") == data.synsets("mouse") == {"02330245"}
    assert data.synsets("ran") == data.synsets("sprinted") == data.synsets("sprinting") == {"01926311"}
    assert data.synsets("larger") == data.synsets("big") == {"01382086"}
    assert data.synsets("zebra") == data.synsets("") == frozenset()


@pytest.mark.parametrize("package", ["snowballstemmer", "pycocoevalcap"])
def test_a_missing_package_is_named(monkeypatch, package):
    load_meteor_data.cache_clear()
    if package == "snowballstemmer":
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, "vidcap.evaluation.scores.meteor")
    else:
        monkeypatch.setattr(meteor_data, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'vidcap\[meteor\]'"):
        score_captions(["a"], [["a"]], metrics=["meteor"])
