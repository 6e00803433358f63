"""Scores of each clip, plain CIDEr, document frequencies of other clips, facts, and diversity."""

import pytest

from vidcap.evaluation import (
    caption_diversity,
    caption_document_frequencies,
    score_captions,
    score_each,
    scoring_facts,
)
from vidcap.evaluation.scores import metrics

HYPOTHESES = ["A dog runs.", "a cat", "a dog runs", "two men play chess", "", "add 1 1/2 cups"]
REFERENCES = [
    ["a dog runs"],
    ["a cat sleeps", "the cat is asleep"],
    ["a cow"],
    ["Two men play chess!"],
    ["x"],
    ["add 1 1/2 cups of it", "a", "b"],
]
MEANS = ("cider", "cider_plain", "rougeL", "exact", "distinct")


def test_scores_of_each_clip_are_those_of_the_corpus():
    chosen = [name for name in metrics.METRICS if name != "meteor"]
    scores, each = (score(HYPOTHESES, REFERENCES, metrics=chosen) for score in (score_captions, score_each))
    assert scores.keys() == each.keys() == {*MEANS, "bleu1", "bleu2", "bleu3", "bleu4"}
    for name in MEANS:
        assert each[name].shape == (6,) and each[name].mean() == pytest.approx(scores[name]), name
    alone = [score_captions([h], [r], metrics=["bleu"])["bleu2"] for h, r in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert each["bleu2"] == pytest.approx(alone)
    assert score_captions(HYPOTHESES, REFERENCES, metrics=["exact"]) == {"exact": scores["exact"]}
    with pytest.raises(ValueError, match="Unknown metric 'spice'"):
        score_each(HYPOTHESES, REFERENCES, metrics=["cider", "spice"])


def test_plain_cider_is_the_cosine_of_n_gram_vectors():
    hypotheses = [["a", "a", "b", "c"], ["d", "e"]]
    references = [[["a", "b", "b", "c"], ["a"]], [["d", "f"]]]
    captions = [" ".join(tokens) for tokens in hypotheses]
    truths = [[" ".join(tokens) for tokens in alternatives] for alternatives in references]
    options = {"tokenizer": "whitespace", "metrics": ["cider_plain"]}
    corpus = score_captions(captions, truths, **options)["cider_plain"] / 100
    clips = score_each(captions, truths, **options)["cider_plain"] / 100
    # Each n-gram is in one of the two clips, so all weigh the same. Counts of a, b, c: 2 1 1; 1 2 1 and 1 0 0.
    words = ((2 + 2 + 1) / 6 + 2 / 6**0.5) / 2
    bigrams = 2 / 3 / 2  # "a a", "a b", "b c" and "a b", "b b", "b c"; the second reference has none
    assert clips[0] == pytest.approx(10 / 4 * (words + bigrams))
    assert clips[1] == pytest.approx(10 / 4 * 0.5) and corpus == pytest.approx(clips.mean())
    assert metrics.cider_d(hypotheses, references)[1][0] < clips[0]  # clipped and penalised


def test_document_frequencies_of_other_clips():
    train = [["a dog"], ["a dog runs", "a cat"], ["snow"]]
    frequencies = caption_document_frequencies(train, source="train")
    one = score_captions(HYPOTHESES[:1], REFERENCES[:1], document_frequencies=frequencies)
    assert one["cider"] > 100 and score_captions(HYPOTHESES[:1], REFERENCES[:1])["cider"] == 0
    tokens = [["a", "dog", "runs"]]
    expected = metrics.cider_d(tokens, [tokens], document_frequencies=frequencies)[0]
    assert one["cider"] == pytest.approx(100 * expected)
    assert scoring_facts(REFERENCES, document_frequencies=frequencies)["document_frequencies"] == "train (3 clips)"
    with pytest.raises(ValueError, match="Clip 1 has no reference"):
        caption_document_frequencies([["a"], []], source="train")


def test_facts():
    facts = scoring_facts(REFERENCES)
    assert facts["clips"] == 6 and facts["references_per_clip"] == {"min": 1, "median": 1, "max": 3}
    assert (
        facts["tokenizer"].startswith("ptb: ") and facts["document_frequencies"] == "the references scored (6 clips)"
    )
    assert "meteor" not in facts and scoring_facts(REFERENCES, "whitespace")["tokenizer"].startswith("whitespace: ")
    with pytest.raises(ValueError, match="'moses'"):
        scoring_facts(REFERENCES, "moses")
    with pytest.raises(ValueError, match="references is empty"):
        scoring_facts([])


def test_diversity():
    captions = ["A dog runs.", "a dog runs", "a cat"]
    assert caption_diversity(captions, train_captions=["a dog runs!", "snow"]) == pytest.approx(
        {
            "distinct1": 4 / 8,
            "distinct2": 3 / 5,
            "distinct": 2 / 3,
            "vocabulary": 4,
            "mean_length": 8 / 3,
            "novel": 1 / 3,
        }
    )
    assert "novel" not in caption_diversity(captions) and caption_diversity(captions, train_captions=[])["novel"] == 1
    assert caption_diversity(["", ""])["distinct1"] == 0
    assert caption_diversity(captions, tokenizer="whitespace")["distinct"] == 1
    for wrong, message in ((["a", 3], "Item 1 of captions is of type int"), ("a", "one string"), ([], "is empty")):
        with pytest.raises(ValueError, match=message):
            caption_diversity(wrong)
