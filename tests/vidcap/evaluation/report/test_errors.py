"""Which words are confused, and where a captioner fails."""

import pytest

from vidcap.evaluation.report.errors import analyse_errors, bins, confusions, group_scores, word_class
from vidcap.evaluation.scores.bootstrap import scores_per_clip


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("a red dog runs left", {"red": "colours", "dog": "nouns", "runs": "verbs", "left": "directions"}),
        ("two men are walking", {"two": "counts", "men": "nouns", "walking": "verbs", "are": "other words"}),
        ("the king jumps slowly", {"king": "nouns", "jumps": "verbs", "slowly": "other words"}),
        ("a cat then jumps", {"then": "directions", "jumps": "verbs"}),
        ("3 boxes", {"3": "counts", "boxes": "nouns"}),
    ],
)
def test_word_classes(caption, classes) -> None:
    tokens = caption.split()
    assert {word: word_class(tokens, tokens.index(word)) for word in classes} == classes


def test_confusions_are_those_with_the_closest_reference() -> None:
    found = confusions(
        ["a blue dog runs left", "a blue dog sits", "two cats", ""],
        [["nothing like it", "a red dog runs right"], ["a red dog sits"], ["three cats"], ["a cow"]],
    )
    pairs = {name: [(p["truth"], p["caption"], p["count"]) for p in each["pairs"]] for name, each in found.items()}
    assert pairs == {
        "colours": [("red", "blue", 2)],
        "counts": [("three", "two", 1)],
        "directions": [("right", "left", 1)],
        "nouns": [("cow", "(nothing)", 1)],
        "other words": [("a", "(nothing)", 1)],
    }
    assert (found["nouns"]["mistakes"], found["nouns"]["right"]) == (1, 3)  # dog, dog, cats
    assert confusions(["A dog runs."], [["a dog runs"]]) == {}


def test_groups_keep_the_weights_of_all_clips() -> None:
    hypotheses, references = ["a dog", "a cat", "a cow", "x"], [["a dog"], ["a cat"], ["a bird"], ["a fish eats"]]
    scores = {name: values.tolist() for name, values in scores_per_clip(hypotheses, references).items()}
    groups = group_scores(scores, ["n", "m", None, "n"])
    assert list(groups) == ["n", "m"] and groups["n"]["clips"] == 2
    assert groups["n"]["cider"] == pytest.approx((scores["cider"][0] + scores["cider"][3]) / 2)
    assert (groups["n"]["exact"], groups["m"]["exact"]) == (0.5, 1)
    columns = {"duration": [1.0, 2.0, 3.0, 40.0], "place": ["in", "in", None, "out"]}
    found = analyse_errors(hypotheses, references, scores, columns=columns)
    assert {name: each["clips"] for name, each in found["groups"]["place"].items()} == {"in": 2, "out": 1}
    assert {name: each["clips"] for name, each in found["groups"]["caption length"].items()} == {
        "2 words": 3,
        "3 words": 1,
    }
    assert scores["cider"][found["worst"][0]] == min(scores["cider"]) and found["best"] == found["worst"][::-1]


def test_bins_hold_every_value_once_and_say_which() -> None:
    assert bins(list(range(1, 9)), "s") == ["1 to 2 s"] * 2 + ["3 to 4 s"] * 2 + ["5 to 6 s"] * 2 + ["7 to 8 s"] * 2
    assert bins([5, 5, 5], "words") == ["5 words"] * 3
    assert bins([1, 1, 1, 1, 1, 9], "") == ["1"] * 5 + ["9"]
    years = bins([*range(2015, 2023)], "")
    assert years[0] == "2015 to 2016" and years[-1] == "2021 to 2022"
    assert len(set(bins([100 + index / 10_000 for index in range(8)], "s"))) == 4
    assert bins([1.25, 2.5, 3.75, 5.123456], "s") == ["1.25 s", "2.5 s", "3.75 s", "5.12 s"]
    # As text, too, and in the order of their values.
    values = [str(value) for value in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)]
    found = analyse_errors(["a"] * 10, [["a"]] * 10, {"cider": [0.0] * 10}, columns={"loudness": values})
    assert list(found["groups"]["loudness"]) == ["1 to 3", "4 to 5", "6 to 7", "8 to 10"]
