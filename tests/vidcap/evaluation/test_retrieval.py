"""Recall of clips by captions and captions by clips."""

import pytest
import torch

from vidcap.evaluation.retrieval import retrieval_scores


def test_ranks_in_both_directions():
    video = torch.eye(3)
    text = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.8, 0.0], [0.0, 0.0, 1.0]])  # the second prefers the first clip
    scores = retrieval_scores(video, text, ["a", "b", "c"])
    assert scores["text_to_video"]["r1"] == pytest.approx(2 / 3) and scores["text_to_video"]["r5"] == 1
    assert scores["video_to_text"]["r1"] == 1 and scores["video_to_text"]["median_rank"] == 1


def test_equal_captions_are_equally_right_and_ties_are_no_gain():
    video = torch.eye(2)
    swapped = video.flip(0)
    assert retrieval_scores(video, swapped, ["a", "a"])["text_to_video"]["r1"] == 1
    assert retrieval_scores(video, swapped, ["A dog runs.", "a dog runs"])["text_to_video"]["r1"] == 1
    assert retrieval_scores(video, swapped, ["🐶", "🐱"])["text_to_video"]["r1"] == 0  # no token, but no equal texts
    ranks = retrieval_scores(video, torch.tensor([[1.0, 0.0], [1.0, 0.5]]), ["a", "b"])["text_to_video"]
    assert ranks["median_rank"] == 1.5
    assert retrieval_scores(video, swapped, ["a", "b"])["text_to_video"]["r1"] == 0
    blind = retrieval_scores(torch.ones(20, 2), torch.ones(20, 2), [str(i) for i in range(20)])
    assert blind["text_to_video"] == {"r1": 0, "r5": 0, "r10": 0, "median_rank": 20}


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 clips, 2 texts and 1 captions"):
        retrieval_scores(torch.eye(2), torch.eye(2), ["a"])
