"""What is taken away from clips, and how far words lean on what was there."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_vidcap.losses_vidcap import play_backwards
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from tests.media import texture, write_animation
from tests.tiny import tiny_model, tiny_processor
from vidcap.evaluation.controls.controls import PERTURBED
from vidcap.evaluation.controls.grounding import ground_words, word_tokens
from vidcap.evaluation.controls.perturbations import (
    caption_perturbed,
    cut_in_half,
    show_instead,
    shuffle_frames,
    stand_still,
)
from vidcap.evaluation.evaluate import evaluate_model
from vidcap.inference.captioning import ModelCaptioner
from vidcap.inference.clip_cache import open_clip_cache

CAPTIONS = ["a red dog runs", "a small cat sleeps", "a green star blinks", "a dog jumps", "the cat runs fast"]


def numbered(*lengths: int, frames: int = 6) -> dict[str, torch.Tensor]:
    """Clips whose frame t is t + 1, or 0 where it only fills up; a frame takes half a second."""
    mask = torch.tensor([[t < length for t in range(frames)] for length in lengths]).long()
    values = (torch.arange(frames) + 1) * mask
    times = torch.arange(frames).expand_as(mask) * 0.5
    return {"video_features": values[..., None, None].float(), "video_mask": mask, "video_times": times}


def shown(batch: dict[str, torch.Tensor]) -> list[list[float]]:
    return batch["video_features"].flatten(1).tolist()


def test_the_middle_frame_stands_for_as_long_as_the_clip():
    batch = numbered(6, 3, 1)
    still = stand_still(batch)
    assert shown(still) == [[3] * 6, [2] * 6, [1] * 6]
    assert still["video_mask"] is batch["video_mask"] and still["video_times"] is batch["video_times"]


def test_half_a_clip_ends_at_its_middle():
    half = cut_in_half(numbered(6, 3, 1))
    assert half["video_mask"].sum(dim=1).tolist() == [3, 2, 1]
    assert shown(half) == [[1, 2, 3, 3, 3, 3], [1, 2, 2, 2, 2, 2], [1] * 6]
    assert half["video_times"][0].tolist() == [0, 0.5, 1, 1, 1, 1]
    batch = numbered(6)
    del batch["video_mask"], batch["video_times"]
    assert cut_in_half(batch)["video_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]


def test_shuffled_frames_are_the_same_ones_in_another_order_whatever_the_batch():
    batch = numbered(6, 3, 2, 1)
    shuffled = shown(shuffle_frames(batch, torch.Generator().manual_seed(0)))
    for row, true in zip(shuffled, shown(batch), strict=True):
        assert sorted(row) == sorted(true)
    assert shuffled[0] != shown(batch)[0] and shuffled[1][3:] == [0, 0, 0]
    assert shuffled[2][:2] == [2, 1] and shuffled[3] == shown(batch)[3]
    generator = torch.Generator().manual_seed(0)
    alone = [shown(shuffle_frames(numbered(length), generator))[0] for length in (6, 3, 2, 1)]
    assert alone == shuffled


def test_other_frames_are_shown_again_where_there_are_too_few():
    instead = show_instead(numbered(6, 3), torch.tensor([7.0, 8, 9, 10]).view(4, 1, 1))
    assert shown(instead) == [[7, 8, 9, 10, 7, 8]] * 2


@pytest.fixture(params=["features", "pixels"])
def captioner(request, tmp_path: Path) -> tuple[Any, Any, ClipDataset]:
    """A model that reads features from the cache, or pixels, and five clips."""
    (tmp_path / "test").mkdir()
    frames, rows = texture(60, 48, 64), ""
    for index, caption in enumerate(CAPTIONS):
        write_animation(tmp_path / "test" / f"{index}.gif", frames[10 * index :][: 10 if index else 3], 100)
        rows += f'{{"file_name": "{index}.gif", "caption": "{caption}"}}\n'
    (tmp_path / "test/metadata.jsonl").write_text(rows)
    model, processor = tiny_model(freeze_backbone=request.param == "features"), tiny_processor()
    cache = open_clip_cache(model, processor, folder=tmp_path / "cache")
    return model, processor, ClipDataset(load_clips(tmp_path, "test"), cache).prepare("")


def test_clips_are_captioned_as_they_would_be_if_they_were_such(captioner):
    model, processor, clips = captioner
    some, options = [4, 0, 2], {"max_new_tokens": 8, "num_beams": 2}
    found = caption_perturbed(ModelCaptioner(model, processor), clips, some, PERTURBED, batch_size=2, **options)
    assert list(found) == list(PERTURBED) and all(len(captions) == 3 for captions in found.values())
    backwards = ModelCaptioner(model, processor).caption(clips, change=play_backwards, **options)
    assert found["reversed"] == [backwards[index] for index in some]
    assert found == caption_perturbed(
        ModelCaptioner(model, processor), clips, some, PERTURBED, batch_size=1, **options
    )
    size = processor.video_processor.size["height"]
    black = processor(videos=torch.zeros(4, 3, size, size, dtype=torch.uint8).numpy(), return_tensors="pt")
    expected = dict(clips[4])
    times = {"video_times": expected["video_times"][None], "video_mask": expected["video_mask"][None]}
    tokens = model.generate(pixel_values_videos=black["pixel_values_videos"], **times, **options)
    assert found["black"][0] == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    true = ModelCaptioner(model, processor).caption(clips, **options)
    assert any(found["black"][place] != true[index] for place, index in enumerate(some))
    assert caption_perturbed(ModelCaptioner(model, processor), clips, some, ()) == {}
    drawn = [
        caption_perturbed(ModelCaptioner(model, processor), clips, [4], ["noise"], seed=seed, **options)
        for seed in range(4)
    ]
    assert drawn[0]["noise"] == found["noise"][:1] and any(each != drawn[0] for each in drawn)


def test_a_word_leans_on_the_clip_by_what_its_probability_loses(captioner):
    model, processor, clips = captioner
    found = ground_words(model, processor, clips, [0, 3], [1, 2], batch_size=1)
    assert set(found["words"]) == {"red", "dog", "runs", "jumps"} and found["words"]["dog"]["count"] == 2
    assert found["clips"] == 2 and found["unknown"] == 0

    def probability(clip: int, caption: str, words: int) -> float:
        batch = processor.tokenizer(caption, return_tensors="pt")["input_ids"]
        inputs = {name: value[None] for name, value in clips[clip].items() if name.startswith("video_")}
        if "pixel_values_videos" in clips[clip]:
            frames = clips[clip]["pixel_values_videos"].permute(0, 2, 3, 1).numpy()  # of the right size already
            inputs["pixel_values_videos"] = processor(videos=frames, return_tensors="pt")["pixel_values_videos"]
        with torch.inference_mode():
            logits = model(**inputs, labels=batch).logits
        return math.exp(logits[0].log_softmax(dim=-1)[words, batch[0, words]].item())

    assert found["words"]["red"]["probability"] == pytest.approx(probability(0, CAPTIONS[0], 1), rel=1e-4)
    assert found["words"]["jumps"]["without_video"] == pytest.approx(probability(2, CAPTIONS[3], 2), rel=1e-4)
    dog = [probability(*each) for each in ((0, CAPTIONS[0], 2), (3, CAPTIONS[3], 1), (1, CAPTIONS[0], 2))]
    fall = (dog[0] + dog[1] - dog[2] - probability(2, CAPTIONS[3], 1)) / 2
    assert found["words"]["dog"]["fall"] == pytest.approx(fall, rel=1e-3, abs=1e-6)


def test_words_of_several_tokens_and_signs_between_words():
    tokenizer = tiny_processor().tokenizer
    assert word_tokens(tokenizer, "a Dog, runs!", limit=9) == [("a", [0]), ("dog", [1]), ("runs", [3])]
    assert word_tokens(tokenizer, "cat-dog runs", limit=9) == [("cat-dog", [0, 1, 2]), ("runs", [3])]
    assert word_tokens(tokenizer, "cat-dog runs", limit=2) == []


def test_an_evaluation_of_some_controls_on_some_clips(captioner):
    model, processor, clips = captioner
    names = ("other_clip", "shuffled")
    found = evaluate_model(
        ModelCaptioner(model, processor), clips, controls=names, control_clips=3, train_captions=["a"], num_beams=1
    )
    assert list(found.report["controls"]) == list(names)
    assert [each["clips"] for each in found.report["controls"].values()] == [5, 3]
    assert found.report["grounding"]["clips"] == 3
    assert [bool(each["controls"]) for each in found.predictions].count(True) == 3
    assert {each["backwards"] for each in found.predictions} == {None}
    everything = evaluate_model(ModelCaptioner(model, processor), clips, controls=(), num_beams=1)
    assert everything.report["controls"] == {} and "grounding" not in everything.report
    assert {each["answer"] for each in everything.report["verdict"]} == {"not measured"}
