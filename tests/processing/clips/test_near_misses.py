"""Captions that nearly fit: what is exchanged, and what reaches the batch."""

import pytest
import torch

from processing.clips.collator import VideoCaptionCollator
from processing.clips.near_misses import NearMisses
from tests.tiny import tiny_clip, tiny_processor

CAPTIONS = [
    "a red circle slides left and then grows",
    "a blue circle spins and then slides left",
    "a red square grows and then spins",
]

ONE_EACH = [[caption] for caption in CAPTIONS]


def test_a_word_is_exchanged_for_one_seen_between_the_same_neighbours():
    near = NearMisses(ONE_EACH, ["word"])
    found = {near.make("word", "a red circle slides left and then grows") for _ in range(50)}
    assert found == {"a blue circle slides left and then grows", "a red circle slides left and then spins"}
    assert near.make("word", "quite another sentence") == ""


def test_words_that_captions_of_one_clip_exchange_are_not_exchanged():
    captions = [["a man is singing", "a guy is singing"], ["a woman is singing"], ["a guy is running"]]
    near = NearMisses(captions, ["word"])
    found = {near.make("word", "a man is singing") for _ in range(50)}
    assert found == {"a woman is singing", "a man is running"}


def test_what_happens_changes_places_and_who_acts_stays():
    near = NearMisses([*ONE_EACH, ["a cat grows, then spins and then slides left"]], ["order"])
    assert near.make("order", CAPTIONS[1]) == "a blue circle slides left and then spins"
    three = {near.make("order", "a cat grows, then spins and then slides left") for _ in range(20)}
    assert three == {"a cat spins, then grows and then slides left", "a cat grows, then slides left and then spins"}
    assert near.make("order", "a red circle grows") == ""
    assert near.make("order", "a red circle grows and then grows") == ""


def test_equal_seeds_draw_equal_near_misses():
    near = NearMisses(ONE_EACH, ["word", "order"])
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([near(caption) for caption in CAPTIONS * 10])
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_collator_hands_them_over_as_labels():
    clip = tiny_processor().video_processor(tiny_clip(), return_tensors="pt")
    # To the tokenizer, the near miss of the third clip is one of its own captions.
    captions = ([CAPTIONS[1]], ["a dog runs"], [CAPTIONS[1], "a blue circle  slides left and then spins"])
    clips = [
        {**{name: value[0] for name, value in clip.items()}, "captions": each, "file_name": ""} for each in captions
    ]
    collator = VideoCaptionCollator(tiny_processor(), near_misses=NearMisses(ONE_EACH, ["order", "word"]))
    labels = collator(clips)["near_misses"]
    assert labels.shape[:2] == (3, 2)
    assert (labels[2, 0] == -100).all()
    assert torch.equal(labels[0, :1], collator.labels(["a blue circle slides left and then spins"]))
    assert (labels[1] == -100).all()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["words"], "near_misses=words: .*word, order"),
        ([], "near_misses=: "),
        (["word", "word"], "each once"),
        (["order"], "near_misses=order: no caption"),
    ],
)
def test_kinds_that_cannot_work_are_refused(kinds, message):
    captions = ["a red circle grows", "a blue circle grows"] if kinds == ["order"] else CAPTIONS
    with pytest.raises(ValueError, match=message):
        NearMisses([[each] for each in captions], kinds)
