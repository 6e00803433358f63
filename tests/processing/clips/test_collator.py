"""Batches: stacked clips, and labels that are those of the tokenizer however often a caption has come before."""

from typing import Any

import torch

from processing.clips import collator
from processing.clips.augmentation import ClipAugmentation
from processing.clips.collator import IGNORED, VideoCaptionCollator
from tests.tiny import tiny_processor


def clip(caption: str, frames: int = 2) -> dict[str, Any]:
    features, mask = torch.rand(frames, 1, 3), torch.ones(frames, dtype=torch.long)
    times = torch.arange(float(frames))
    return {"video_features": features, "video_mask": mask, "video_times": times, "captions": [caption]}


def expected(tokenizer: Any, captions: list[str], longest: int) -> list[list[int]]:
    ids = [tokenizer(each, truncation=True, max_length=longest)["input_ids"] for each in captions]
    return [each + [IGNORED] * (max(map(len, ids)) - len(each)) for each in ids]


def test_labels_are_the_tokenizers_also_when_a_caption_comes_again(monkeypatch):
    monkeypatch.setattr(collator, "MAX_KNOWN", 2)  # so that captions are forgotten, too
    processor = tiny_processor()
    collate = VideoCaptionCollator(processor, max_length=5)
    batches = [["a cat", "a cat", "the dog runs over the green grass"], ["a cat", "two birds"], ["the dog", "a cat"]]
    for captions in batches:
        labels = collate([clip(caption) for caption in captions])["labels"]
        assert labels.tolist() == expected(processor.tokenizer, captions, 5)
        assert [row[row != IGNORED][-1] for row in labels] == [processor.tokenizer.eos_token_id] * len(captions)
    assert VideoCaptionCollator(processor).labels(["the dog runs over the green grass"]).shape[1] > 5


def test_shorter_clips_are_filled_up_with_masked_zeros():
    batch = VideoCaptionCollator(tiny_processor())([clip("a", frames=3), clip("b", frames=1)])
    assert batch["video_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["video_features"].shape == (2, 3, 1, 3) and not batch["video_features"][1, 1:].any()


def test_a_clip_that_nothing_changes_is_not_copied():
    whole = clip("a cat")
    for parts in ("none", "flip"):  # mirrored features come out of the cache
        assert ClipAugmentation.from_parts(parts)(whole) is whole
    assert ClipAugmentation.from_parts("speed")(whole) is not whole
