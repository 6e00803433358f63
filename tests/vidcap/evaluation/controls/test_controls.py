"""The controls: partners with another truth, hand-computed shares, and what is left out when it cannot be run."""

import pytest

from vidcap.evaluation import evaluate_captions, most_frequent_caption, other_clip_indices, score_captions
from vidcap.evaluation.controls.controls import NoOtherClipError

REFERENCES = [["a dog runs"], ["a cat sleeps", "the cat is asleep"], ["a bird sings"], ["a fish swims"]]


def test_most_frequent_caption_counts_after_tokenisation_and_takes_the_first_of_equals() -> None:
    assert most_frequent_caption(["a cat", "A dog.", "a dog", "a cow"]) == "A dog."
    assert most_frequent_caption(["a cat", "a dog", "a dog", "a cat"]) == "a cat"
    with pytest.raises(ValueError, match="captions is empty"):
        most_frequent_caption([])


@pytest.mark.parametrize("sentences", [2, 3, 50])
def test_partners_are_one_to_one_and_share_no_sentence(sentences: int) -> None:
    # 200 clips with few sentences: one random matching would almost surely pair clips with equal captions.
    references = [[f"a clip of kind {index % sentences}", f"Kind {index % sentences}!"] for index in range(200)]
    partners = other_clip_indices(references)
    assert sorted(partners) == list(range(200))
    assert all(index % sentences != partner % sentences for index, partner in enumerate(partners))
    assert partners == other_clip_indices(references) != other_clip_indices(references, seed=1)


def test_a_common_caption_uses_partners_twice_and_a_universal_one_is_an_error() -> None:
    references = [["a dog"], ["A dog."], ["a dog"], ["a cat"]]
    partners = other_clip_indices(references)
    assert partners[:3] == [3, 3, 3] and partners[3] in (0, 1, 2)
    with pytest.raises(NoOtherClipError, match="every other clip shares a caption with clip 1"):
        other_clip_indices([["a dog", "one"], ["a dog", "a cat"], ["a cat"]])
    with pytest.raises(NoOtherClipError):
        other_clip_indices([["a dog"]])


def test_a_perfect_captioner_loses_everything_with_other_frames() -> None:
    hypotheses = ["a dog runs", "The cat is asleep.", "a bird sings", "a fish swims"]
    report = evaluate_captions(hypotheses, REFERENCES)
    assert report["scores"] == score_captions(hypotheses, REFERENCES)
    assert report["scores"]["exact"] == 1
    assert set(report["controls"]) == {"other_clip"}
    assert report["controls"]["other_clip"]["exact"] == 0
    assert report["controls"]["other_clip"]["cider"] < report["scores"]["cider"] / 10
    assert "by_kind" not in report


def test_a_blind_captioner_keeps_its_score_with_other_frames() -> None:
    report = evaluate_captions(["a bird sings"] * 4, REFERENCES, train_captions=["a bird sings", "a cow"])
    for control in report["controls"].values():
        assert {name: control[name] for name in report["scores"]} == report["scores"]
        assert control["gap"] == {"cider": [0, 0, 0]}
    assert report["scores"]["exact"] == 0.25 and report["scores"]["distinct"] == 0.25


def test_backwards_captions_are_judged_by_both_truths() -> None:
    report = evaluate_captions(
        ["a dog runs", "a cat sleeps", "a bird sings", "a fish swims"],
        REFERENCES,
        backwards=["A dog backs up.", "a cat sleeps", "a bird falls silent", "a fish"],
        captions_reversed=["a dog backs up", None, "a bird hums", None],
        train_captions=["a fish swims"],
    )
    # Of the two clips with a reversed caption the first got it; of all four only the cat's caption is still true.
    assert report["controls"]["reversed"]["exact_reversed"] == 0.5
    assert report["controls"]["reversed"]["exact"] == 0.25
    assert report["controls"]["most_frequent"]["exact"] == 0.25
    assert set(report["controls"]["most_frequent"]) == {*report["scores"], "meaning", "clips", "gap"}
    without = evaluate_captions(["a"] * 4, REFERENCES, backwards=["a"] * 4, captions_reversed=[None] * 4)
    assert "exact_reversed" not in without["controls"]["reversed"]


def test_a_kind_is_scored_as_if_the_others_were_not_there() -> None:
    hypotheses = ["a fish", "a cat sleeps", "a bird sings", "a cow"]
    kinds = [None, "land", "air", "land"]
    report = evaluate_captions(
        hypotheses, REFERENCES, backwards=hypotheses, train_captions=["a dog runs"], kinds=kinds
    )
    land = evaluate_captions(
        hypotheses[1::2], REFERENCES[1::2], backwards=hypotheses[1::2], train_captions=["a dog runs"]
    )
    assert report["by_kind"]["land"] == {"clips": 2, **land["scores"], "controls": land["controls"]}
    assert land["scores"]["exact"] == 0.5
    # A single clip has no other clip, so that this control is left out.
    assert set(report["by_kind"]["air"]["controls"]) == {"reversed", "most_frequent"}
    assert list(report["by_kind"]) == ["air", "land"]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="4 hypotheses but 1 backwards"):
        evaluate_captions(["a"] * 4, REFERENCES, backwards=["a"])


def test_the_gap_of_a_control_is_that_of_the_clips_it_was_run_on() -> None:
    hypotheses = [truths[0] for truths in REFERENCES]
    report = evaluate_captions(hypotheses, REFERENCES, perturbed={"black": {3: "a cow", 1: "a cat sleeps"}})
    black = report["controls"]["black"]
    assert black["clips"] == 2 and black["exact"] == 0.5 and report["controls"]["other_clip"]["clips"] == 4
    pair = [[REFERENCES[3]], [REFERENCES[1]]]
    true = score_captions([hypotheses[3], hypotheses[1]], [each[0] for each in pair])["cider"]
    gap, low, high = black["gap"]["cider"]
    assert gap == pytest.approx(true - black["cider"]) and low == 0 < gap < high
    assert "black frames" in black["meaning"]


def test_only_the_controls_that_are_wanted_are_run() -> None:
    hypotheses = [truths[0] for truths in REFERENCES]
    given = {"backwards": hypotheses, "perturbed": {"black": {0: "a"}}, "train_captions": ["a"]}
    report = evaluate_captions(hypotheses, REFERENCES, controls=("most_frequent", "reversed"), **given)
    assert list(report["controls"]) == ["reversed", "most_frequent"]
    assert evaluate_captions(hypotheses, REFERENCES, controls=(), **given)["controls"] == {}
    with pytest.raises(ValueError, match="'blakc': choose from other_clip, black"):
        evaluate_captions(hypotheses, REFERENCES, controls=("blakc",))
