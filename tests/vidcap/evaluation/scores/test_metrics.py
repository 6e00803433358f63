"""Caption scores: tokens and numbers of the reference scorer, formulas written out a second time, edges and errors.

`fixtures/caption_scores` holds made-up captions with the scores that pycocoevalcap 1.2 gives them (with its Java
tokenizer); a folder of the same form with larger corpora can be named in VIDCAP_CAPTION_SCORES.
"""

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vidcap.evaluation import score_captions
from vidcap.evaluation.scores import metrics, ptb_tokenizer
from vidcap.evaluation.scores.ptb_tokenizer import ptb_tokenize

ROOT = Path(__file__).parents[4]
FIXTURES = Path(__file__).parents[3] / "fixtures" / "caption_scores"

# CoreNLP 3.4.1 gives the same tokens for each line.
TOKENS = {
    "A man, two dogs and a cat.": "a man two dogs and a cat",
    "start,a man ends.the end": "start a man ends.the end",
    "He can't, won't; they've, I'm, she'd IT'S": "he ca n't wo n't they 've i 'm she 'd it 's",
    "We cannot stop: gonna go, gotta run, 'tis late": "we can not stop gon na go got ta run 't is late",
    "dogs' toys, James's hat": "dogs toys james 's hat",
    "rock 'n' roll of the '90s, give 'em time 'til 10 o'clock": (
        "rock 'n' roll of the '90s give 'em time 'til 10 o'clock"
    ),
    "y'all see O'Brien's ma'am": "y' all see o'brien 's ma'am",
    "pans, pots, etc. are washed etc.": "pans pots etc. are washed etc.",
    "Mr. Fox meets Dr. Who in the U.S. at 5 p.m.": "mr. fox meets dr. who in the u.s. at 5 p.m.",
    "Sgt. Fay of Dept. 9, Baker Ave. in Mt. Airy, Jan. to Sept. at Fox Bros. Inc. and Gen. Ltd. Co.": (
        "sgt. fay of dept. 9 baker ave. in mt. airy jan. to sept. at fox bros. inc. and gen. ltd. co."
    ),
    "2 tbsp. of oil, 3 oz. or 5 lb. of it, approx. 4 min. and 2 in. a min.": (
        "2 tbsp of oil 3 oz or 5 lb of it approx 4 min and 2 in a min"
    ),
    "Ill. is a state, ill. is not": "ill. is a state ill is not",
    "page no. 5 has no. Really no.": "page no. 5 has no really no",
    "vitamin C. The man eats vitamin C. and more": "vitamin c the man eats vitamin c. and more",
    "He waits... and waits.... then .. goes": "he waits and waits then goes",
    "Wow!! Really?! Yes! a -- b - c --- d ----- e": "wow !! really ?! yes a b c d ----- e",
    "\"Hello,\" he says, 'hi' ``there''": "hello he says hi there",
    "(left) [middle] {right} <b>bold</b> a < b": (
        "-lrb- left -rrb- -lsb- middle -rsb- -lcb- right -rcb- <b> bold </b> a < b"
    ),
    "a well-known x-ray, tug-of-war and/or his/her, w/o 3/4": "a well-known x-ray tug-of-war and/or his/her w/o 3/4",
    "1 1/2 cups, 5,000 people, 3.5 km, .5, -3, 12:30pm 3pm 1st": (
        "1\u00a01/2 cups 5,000 people 3.5 km .5 -3 12:30 pm 3pm 1st"
    ),
    "call 555-1234 on 12/11/2001, 50% off #1 $5 US$5": "call 555-1234 on 12/11/2001 50 % off # 1 $ 5 us$ 5",
    "see www.site.com, http://a.b/c?d=e. or me@home.org @you #tag": (
        "see www.site.com http://a.b/c?d=e or me@home.org @you #tag"
    ),
    "clip.mp4 and photo.jpg. C++ c#": "clip.mp4 and photo.jpg c++ c#",
    "R&B by AT&T, salt & pepper &amp; more &lt;3": "r&b by at&t salt & pepper & more < 3",
    "smile :) and :-( or ^_^": "smile :-rrb- and :--lrb- or ^_^",
    "a_b a+b a=b a*b a@b ~ ^ |": "a_b a + b a = b a * b a@b ~ ^ |",
    "the caf\u00e9\u2019s cr\u00eape \u2013 \u201cna\u00efve\u201d\u2026": "the caf\u00e9 's cr\u00eape na\u00efve",
    "\u00bd of it, \u00a35 or \u20ac5 at 30\u00b0C": "1/2 of it # 5 or $ 5 at 30 \u00b0 c",
    "colour, grey, theatre": "colour grey theatre",
    "two\nlines and\ttabs": "two lines and tabs",
    "emoji \U0001f600 gone": "emoji gone",
    "at\u00a0youtube.com/watch now": "at\u00a0youtube.com/watch now",
    " .,;:! ?'\"-- ": "",
    "": "",
}

HYPOTHESES = [
    "a man rides a horse on the beach",
    "a dog dog dog runs",
    "two people are cooking in a kitchen",
    "",
    "a woman sings on the stage and a woman dances on the stage",
    "dog",
]
REFERENCES = [
    ["a man rides a horse on the beach", "the man is riding a brown horse"],
    ["a dog runs in the yard", "a dog runs runs", "the brown dog is running"],
    ["a man and a woman are cooking"],
    ["a ball rolls", "a red ball is rolling down the hill on its own"],
    ["a woman sings on the stage", "a woman dances and sings on the big stage"],
    ["a dog sleeps", "dog"],
]


def split(hypotheses, references):
    return [text.split() for text in hypotheses], [[text.split() for text in texts] for texts in references]


def test_tokens():
    for text, tokens in TOKENS.items():
        assert ptb_tokenize(text) == [token for token in tokens.split(" ") if token], text


def test_shortcut_for_plain_words_changes_nothing(monkeypatch):
    generator = random.Random(0)
    pieces = [piece for text in TOKENS for piece in re.findall(r"\w+|\W", text)]
    texts = [*TOKENS, *("".join(generator.choices(pieces, k=12)) for _ in range(300))]
    quick = [ptb_tokenize(text) for text in texts]
    monkeypatch.setattr(ptb_tokenizer, "_PLAIN_WORDS", re.compile("(?!)"))
    assert quick == [ptb_tokenize(text) for text in texts]


def test_equals_the_reference_scorer():
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "caption_scores.py", FIXTURES],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert float(re.search("largest difference (.*),", run.stdout)[1]) < 1e-12


@pytest.mark.skipif("VIDCAP_CAPTION_SCORES" not in os.environ, reason="VIDCAP_CAPTION_SCORES names no folder")
def test_equals_the_reference_scorer_on_large_corpora():
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "caption_scores.py", os.environ["VIDCAP_CAPTION_SCORES"]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    corpora = json.loads(Path(os.environ["VIDCAP_CAPTION_SCORES"], "expected.json").read_text(encoding="utf-8"))
    for corpus in corpora:
        assert len(re.findall(rf"^{corpus} +(?:cider|bleu[1-4]|rougeL) ", run.stdout, re.M)) == 6, corpus


def naive_cider_d(hypotheses, references):
    """The formula over explicit vectors, one component for each n-gram of the corpus."""

    def ngrams(words, n):
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    scores = []
    for hypothesis, alternatives in zip(hypotheses, references, strict=True):
        score = 0.0
        for n in (1, 2, 3, 4):
            vocabulary = {g for words in [*hypotheses, *sum(references, [])] for g in ngrams(words, n)}
            documents = {g: sum(any(g in ngrams(w, n) for w in ws) for ws in references) for g in vocabulary}

            def vector(words, n=n, documents=documents):
                return np.array(
                    [ngrams(words, n).count(g) * math.log(len(references) / max(1, d)) for g, d in documents.items()]
                )

            for reference in alternatives:
                guess, truth = vector(hypothesis), vector(reference)
                norms = np.linalg.norm(guess) * np.linalg.norm(truth)
                difference = len(ngrams(hypothesis, 2)) - len(ngrams(reference, 2))
                if norms:
                    cosine = np.minimum(guess, truth) @ truth / norms
                    score += 10 / 4 / len(alternatives) * cosine * math.exp(-(difference**2) / (2 * 6**2))
        scores.append(score)
    return scores


def test_cider_d_equals_the_formula():
    hypotheses, references = split(HYPOTHESES, REFERENCES)
    corpus, clips = metrics.cider_d(hypotheses, references)
    expected = naive_cider_d(hypotheses, references)
    assert clips == pytest.approx(expected, abs=1e-12)
    assert corpus == pytest.approx(np.mean(expected), abs=1e-12)
    assert clips[3] == 0 and clips[0] > 3


def test_cider_d_with_given_document_frequencies_scores_clips_one_by_one():
    hypotheses, references = split(HYPOTHESES, REFERENCES)
    together = metrics.cider_d(hypotheses, references)[1]
    frequencies = metrics.count_document_frequencies(references)
    alone = [
        metrics.cider_d([hypothesis], [alternatives], document_frequencies=frequencies)[0]
        for hypothesis, alternatives in zip(hypotheses, references, strict=True)
    ]
    assert alone == pytest.approx(together, abs=1e-12)
    assert metrics.cider_d(hypotheses[:1], references[:1])[0] == 0  # of one clip alone every n-gram is everywhere


def test_bleu_by_hand():
    hypotheses, references = split(
        ["the the the dog", "a cat"], [["the dog runs", "a dog is the dog"], ["a cat sleeps now"]]
    )
    corpus, clips = metrics.bleu(hypotheses, references)
    # First clip: "the" counts once; lengths 3 and 5 are equally close to 4, so 3 counts and nothing is taken off.
    assert clips[0, :2] == pytest.approx([2 / 4, math.sqrt(2 / 4 * 1 / 3)], abs=1e-7)
    assert clips[1, :2] == pytest.approx([math.exp(1 - 4 / 2)] * 2, abs=1e-7)
    short = math.exp(1 - (3 + 4) / (4 + 2))
    assert corpus[:2] == pytest.approx([4 / 6 * short, math.sqrt(4 / 6 * 2 / 4) * short], abs=1e-7)
    assert corpus[2:] == pytest.approx([0, 0], abs=1e-3)


def test_rouge_l_by_hand_and_by_enumeration():
    hypotheses, references = split(["a dog runs fast"], [["a dog runs", "the dog is fast now"]])
    precision, recall = 3 / 4, 3 / 3
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert metrics.rouge_l(hypotheses, references)[0] == pytest.approx(expected, abs=1e-12)

    def subsequences(words):
        return {tuple(w for i, w in enumerate(words) if chosen >> i & 1) for chosen in range(1 << len(words))}

    assert metrics.rouge_l([[]], [[["a"]]])[0] == 0
    assert metrics.rouge_l([[]], [[["a"], []]])[0] == pytest.approx(1)  # as in the reference: an empty truth was met

    generator = random.Random(0)
    for _ in range(200):
        first, second = (generator.choices("abc", k=generator.randrange(1, 8)) for _ in range(2))
        longest = max(map(len, subsequences(first) & subsequences(second)))
        score = metrics.rouge_l([first], [[second]])[0]
        p, r = longest / len(first), longest / len(second)
        assert score == pytest.approx((1 + 1.2**2) * p * r / (r + 1.2**2 * p) if longest else 0, abs=1e-12)


def test_perfect_captions_and_order_of_clips():
    scores = score_captions(HYPOTHESES, REFERENCES)
    assert scores["exact"] == 2 / 6 and scores["distinct"] == 1
    order = [3, 5, 0, 2, 1, 4]
    assert score_captions([HYPOTHESES[i] for i in order], [REFERENCES[i] for i in order]) == pytest.approx(scores)

    perfect = score_captions([texts[-1] for texts in REFERENCES], REFERENCES)
    assert perfect["exact"] == 1 and perfect["rougeL"] == pytest.approx(100)
    assert perfect["bleu1"] == pytest.approx(100) and perfect["bleu4"] == pytest.approx(100)
    assert all(perfect[key] > scores[key] for key in ("cider", "bleu1", "bleu2", "bleu3", "bleu4", "rougeL"))

    constant = score_captions(["a dog."] * 6, REFERENCES)
    assert constant["distinct"] == 1 / 6 and constant["exact"] == 0


def test_tokenizers_differ():
    assert score_captions(["A dog."], [["a dog"]])["exact"] == 1
    assert score_captions(["A dog."], [["a dog"]], tokenizer="whitespace")["exact"] == 0
    assert score_captions(["a  dog"], [["a dog"]], tokenizer="whitespace")["exact"] == 1


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b", "c"], [["a"], ["b"]], "3 hypotheses but 2 lists"),
        ([], [], "are empty"),
        (["a", "b"], [["a"], []], "Clip 1 has no reference"),
        (["a", None], [["a"], ["b"]], "Hypothesis 1 is of type NoneType"),
        (["a", "b"], [["a"], ["b", 5]], "Reference 1 of clip 1 is of type int"),
        (["a", "b"], ["a", "b"], "references of clip 0 are of type str"),
        ("a", [["a"]], "hypotheses is one string"),
    ],
)
def test_wrong_input_is_named(hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(hypotheses, references)


def test_captions_without_a_token_are_never_right():
    assert score_captions(["🐶", "", "a dog"], [["🐱"], ["🐱"], ["A dog."]])["exact"] == pytest.approx(1 / 3)


def test_unknown_tokenizer_is_named():
    with pytest.raises(ValueError, match="'moses'"):
        score_captions(["a"], [["a"]], tokenizer="moses")


def test_evaluate_loads_the_module_offline(tmp_path):
    pytest.importorskip("evaluate")
    program = (
        "import evaluate, json, sys\n"
        "hypotheses, references = json.load(sys.stdin)\n"
        "metric = evaluate.load(sys.argv[1])\n"
        "print(json.dumps(metric.compute(predictions=hypotheses, references=references, tokenizer='whitespace')))\n"
        "metric = evaluate.load(sys.argv[1])\n"
        "one_each = [each[0] for each in references]\n"
        "print(json.dumps(metric.compute(predictions=hypotheses, references=one_each, tokenizer='whitespace')))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, ROOT / "vidcap" / "evaluation" / "caption_scores"],
        input=json.dumps([HYPOTHESES, REFERENCES]),
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    several, one = map(json.loads, run.stdout.splitlines()[-2:])
    assert several == pytest.approx(score_captions(HYPOTHESES, REFERENCES, tokenizer="whitespace"))
    first = [each[:1] for each in REFERENCES]
    assert one == pytest.approx(score_captions(HYPOTHESES, first, tokenizer="whitespace"))


JAR = os.environ.get("VIDCAP_CORENLP_JAR", "")


@pytest.mark.slow
@pytest.mark.skipif(not (JAR and shutil.which("java")), reason="no Java, or VIDCAP_CORENLP_JAR names no jar")
def test_tokenizer_equals_the_reference_on_20000_captions():
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tokenizer.py", JAR],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert "0 of 20000 captions differ" in run.stdout
