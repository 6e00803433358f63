"""Intervals that hold the truth as often as they say, and scores of clips that add up to those of the set."""

import numpy as np
import pytest

from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip, share_interval


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        easy = rng.normal(size=200)  # what both find easy or hard; only pairing takes it out
        a, b = 5 * easy + rng.normal(size=200), 5 * easy + rng.normal(0.3, 1, size=200)
        difference, low, high = paired_bootstrap(a, b, samples=300, seed=trial)
        assert difference == pytest.approx(b.mean() - a.mean())
        assert high - low < 0.6  # 1.4 if the clips of the two were drawn apart
        held += low <= 0.3 <= high
    assert 0.91 <= held / 300 <= 0.98


@pytest.mark.parametrize(("clips", "share"), [(20, 0.02), (20, 0.5), (50, 0.02), (50, 0.98), (200, 0.1)])
def test_intervals_of_shares_hold_the_truth_of_rare_things_too(clips, share):
    counts = np.random.default_rng(0).binomial(clips, share, size=2000)
    intervals = [share_interval(int(count), clips) for count in counts]
    assert 0.92 <= np.mean([low <= share <= high for low, high in intervals]) <= 0.995
    assert all(0 <= low < high <= 1 for low, high in intervals)


def test_equals_drawing_one_sample_at_a_time(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = rng.random(40), rng.random(40)
    draws = np.random.default_rng(3)
    means = []
    for _ in range(50):
        clips = draws.integers(40, size=40)
        means.append(b[clips].mean() - a[clips].mean())
    expected = (b.mean() - a.mean(), np.quantile(means, 0.025), np.quantile(means, 0.975))
    assert paired_bootstrap(a, b, samples=50, seed=3) == pytest.approx(expected)
    monkeypatch.setattr("vidcap.evaluation.scores.bootstrap._BATCH", 7 * 40)  # in eight parts
    assert paired_bootstrap(a, b, samples=50, seed=3) == pytest.approx(expected)
    assert paired_bootstrap(b, a, samples=50, seed=3) == pytest.approx([-expected[0], -expected[2], -expected[1]])
    assert paired_bootstrap(a, a) == (0, 0, 0)


def test_scores_of_clips_add_up_to_those_of_the_set():
    hypotheses = ["A dog runs.", "a cat", "a dog runs", "two men play chess", "", "add 1 1/2 cups"]
    references = [
        ["a dog runs"],
        ["a cat sleeps", "the cat is asleep"],
        ["a cow"],
        ["Two men play chess!"],
        ["x"],
        ["add 1 1/2 cups of it"],
    ]
    scores, expected = scores_per_clip(hypotheses, references), score_captions(hypotheses, references)
    for name, values in scores.items():
        assert values.shape == (6,) and values.mean() == pytest.approx(expected[name]), name
    assert scores["exact"].tolist() == [1, 0, 0, 1, 0, 0]


def test_a_loss_of_variety_is_seen_and_equal_variety_is_no_loss():
    def distinct(numbers):
        return scores_per_clip([f"word{number}" for number in numbers], [["x"]] * len(numbers))["distinct"]

    rng = np.random.default_rng(0)
    numbers = rng.geometric(0.02, size=(2, 400))
    difference, low, high = paired_bootstrap(distinct(range(400)), distinct(numbers[0]))
    assert difference == pytest.approx(len(set(numbers[0].tolist())) / 400 - 1)
    assert low < difference < high < -0.5
    no_loss = 0
    for trial in range(60):  # captioners of equal variety, which agree on three clips in four
        first, second = rng.geometric(0.02, size=(2, 300))
        second = np.where(rng.random(300) < 0.75, first, second)
        _, low, high = paired_bootstrap(distinct(first), distinct(second), samples=200, seed=trial)
        no_loss += low <= 0 <= high
    assert no_loss >= 52


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1.0, 2.0], [1.0]), r"\(2,\) and \(1,\)"),
        (([1.0], [1.0]), "at least 2"),
        (([[1.0], [2.0]], [[1.0], [2.0]]), r"\(2, 1\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*arguments)
    with pytest.raises(ValueError, match="samples=0"):
        paired_bootstrap([1, 2], [1, 2], samples=0)
