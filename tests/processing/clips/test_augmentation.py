"""Augmentation: true captions, stillness over time, masks and times, equal draws from equal seeds, a clean cache."""

import json

import pytest
import torch

from modeling_vidcap.pretrained.backbones import load_backbone
from processing.cache.feature_cache import ClipCache
from processing.clips.augmentation import ClipAugmentation
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.rows import load_clips
from processing.clips.streams import StreamedClips
from tests.media import corner_names, corners, texture, write_animation
from tests.tiny import tiny_processor

OFF = {"crop": 0.0, "flip": 0.0, "color": 0.0, "hue": 0.0, "speed": 0.0, "cut": 0.0}
STRONG = {"crop": 0.6, "flip": 0.5, "color": 0.5, "hue": 0.2, "speed": 0.5, "cut": 0.4}


def only(**strengths) -> ClipAugmentation:
    return ClipAugmentation(**(OFF | strengths))


def clip(frames, *captions, masked=0) -> dict:
    """A clip as a data set yields it; the last `masked` of its frames are repeats."""
    pixels = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in frames])
    times = torch.arange(len(pixels)) * 0.25
    mask = torch.ones(len(pixels), dtype=torch.long)
    if masked:
        pixels[-masked:], times[-masked:], mask[-masked:] = pixels[-masked - 1], times[-masked - 1].clone(), 0
    return {
        "pixel_values_videos": pixels,
        "video_mask": mask,
        "video_times": times,
        "captions": list(captions or ["a cat"]),
        "file_name": "a.mp4",
    }


def draws(augmentation, item, count=40) -> list[dict]:
    torch.manual_seed(0)
    return [augmentation(item) for _ in range(count)]


def unchanged(item, other, *names) -> bool:
    return all(torch.equal(item[name], other[name]) for name in names or ("pixel_values_videos", "video_times"))


def test_what_rests_in_a_clip_rests_in_its_augmented_form():
    still = clip([texture(1)[0]] * 6)
    moving = clip([texture(1)[0]] * 6)
    moving["pixel_values_videos"][:, :, :60] = torch.arange(6).mul(40).view(6, 1, 1, 1).byte()
    for part in ({"crop": 0.6}, {"flip": 0.5}, {"color": 0.5}, {"hue": 0.2}):
        pixels = [each["pixel_values_videos"] for each in draws(only(**part), still, 8)]
        assert all(torch.equal(frame, each[0]) for each in pixels for frame in each)
        assert any(not torch.equal(each, still["pixel_values_videos"]) for each in pixels)
    for each in draws(only(color=0.5, hue=0.2), moving, 8):  # brighter frames do not change the rest of the picture
        below = each["pixel_values_videos"][:, :, 60:]
        assert all(torch.equal(frame, below[0]) for frame in below)


def test_crop_enlarges_a_part_of_the_frame():
    item = clip([corners()] * 2)
    shares = []
    for each in draws(only(crop=0.3), item):
        frame = each["pixel_values_videos"][0]
        assert corner_names(frame) == "RGBW" and frame.shape == (3, 48, 64)
        shares.append((frame.amin(dim=0) > 128).float().mean().item())
    assert min(shares) < 0.22 and max(shares) > 0.28  # white is a quarter of the whole frame


@pytest.mark.parametrize(
    "caption",
    [
        "a man turns left",
        "a cat; RIGHT: a dog",
        "a left-handed player",
        "he waves his_right_hand",
        "a car drifts leftwards",
        "the rightmost ball falls",
        "a wheel turns anticlockwise",
        "a counter-clockwise spin",
        "a cat ｌｅｆｔ",  # full-width letters
        "ein Mann geht nach Links",
        "向左移动",
    ],
)
def test_no_flip_where_a_caption_names_a_side(caption):
    augmentation = only(flip=1.0, direction_words=["links", "左"])
    item = clip([corners()] * 2, "a cat", caption)
    assert not augmentation.can_mirror(item["captions"])
    assert all(unchanged(item, each) for each in draws(augmentation, item, 5))


def test_flip_mirrors_its_share_of_the_other_clips():
    for caption in ("a bright light", "leftovers on a copyright sign", "a man stands upright"):
        assert only(flip=1.0).can_mirror([caption])
    names = [corner_names(each["pixel_values_videos"][1]) for each in draws(only(flip=0.5), clip([corners()] * 2))]
    assert set(names) == {"RGBW", "GRWB"} and 10 < names.count("GRWB") < 30


def test_colors_stay_near_theirs_and_grey_keeps_its_hue():
    item = clip([corners()] * 2)
    for each in draws(only(color=0.05), item):
        assert corner_names(each["pixel_values_videos"][0]) == "RGBW"
    grey = clip([corners() * 0 + 90] * 2)
    for each in draws(only(hue=0.5), grey):
        assert unchanged(grey, each)
    turned = [each["pixel_values_videos"][0, :, 0, 0].argmax().item() for each in draws(only(hue=0.5), item)]
    assert set(turned) == {0, 1, 2}


def test_speed_changes_times_alone_and_also_of_features():
    item = clip(texture(5), masked=2)
    features = {name: value for name, value in item.items() if name != "pixel_values_videos"}
    features["video_features"] = torch.randn(5, 4, 8, dtype=torch.float16)[[0, 1, 2, 2, 2]]
    factors = []
    for each, other in zip(draws(only(speed=0.25), item), draws(only(speed=0.25), features), strict=True):
        assert unchanged(item, each, "pixel_values_videos", "video_mask")
        assert unchanged(features, other, "video_features", "video_mask")
        assert (
            torch.equal(each["video_times"], other["video_times"])
            and each["video_times"][-1] == each["video_times"][2]
        )
        factors.append((item["video_times"][1] / each["video_times"][1]).item())
    assert 0.8 <= min(factors) < 0.85 and 1.2 < max(factors) <= 1.25 + 1e-6


def test_cut_keeps_neighbouring_frames_ahead_of_masked_ones():
    item = clip(texture(12), masked=2)
    item["video_times"] += 0.1  # of the first sampled frame, which a cut clip starts with too
    kept = set()
    for each in draws(only(cut=0.2), item):
        length = int(each["video_mask"].sum())
        assert each["video_mask"].tolist() == [1] * length + [0] * (12 - length)
        assert each["video_times"][:length].tolist() == pytest.approx([0.1 + 0.25 * i for i in range(length)])
        pixels = each["pixel_values_videos"]
        start = next(i for i in range(12) if torch.equal(item["pixel_values_videos"][i], pixels[0]))
        assert torch.equal(pixels[:length], item["pixel_values_videos"][start : start + length])
        assert all(torch.equal(frame, pixels[length - 1]) for frame in pixels[length:])
        kept.add((start, length))
    assert kept == {(0, 10), (0, 9), (1, 9), (0, 8), (1, 8), (2, 8)}
    for caption in ("a man sits and Then leaves", "it jumps twice", "a dog starts running"):
        assert all(unchanged(item, each) for each in draws(only(cut=0.2), item | {"captions": ["a man", caption]}))
    assert all(unchanged(short, each) for short in [clip(texture(4))] for each in draws(only(cut=0.2), short, 5))


def test_shapes_dtypes_captions_and_the_given_clip_stay():
    item = clip(texture(6), "a cat runs", "a cat", masked=1)
    before = {name: value.clone() if torch.is_tensor(value) else value for name, value in item.items()}
    for each in draws(ClipAugmentation(**STRONG), item, 10):
        assert each.keys() == item.keys()
        assert each["captions"] is item["captions"] and each["file_name"] == "a.mp4"
        for name in ("pixel_values_videos", "video_mask", "video_times"):
            assert each[name].shape == item[name].shape and each[name].dtype == item[name].dtype
            assert torch.equal(item[name], before[name])


def test_frames_are_drawn_with_their_times():
    item = clip(texture(9), masked=1)
    seen = set()
    for each in draws(only(num_frames=4), item):
        assert each["video_mask"].tolist() == [1] * 4 and len(each["pixel_values_videos"]) == 4
        picks = [round(time / 0.25) for time in each["video_times"].tolist()]
        assert torch.equal(each["pixel_values_videos"], item["pixel_values_videos"][picks])
        seen.update(picks)
    assert seen == set(range(8))  # the masked one is never drawn
    short = only(num_frames=12)(item)
    assert short["video_mask"].tolist() == [1] * 8 + [0] * 4
    assert torch.equal(short["pixel_values_videos"][:9], item["pixel_values_videos"])


def test_equal_seeds_draw_equally_and_parts_can_all_be_off():
    item = clip(texture(6))
    first, second = draws(ClipAugmentation(**STRONG), item, 5), draws(ClipAugmentation(**STRONG), item, 5)
    names = ("pixel_values_videos", "video_mask", "video_times")
    assert all(unchanged(a, b, *names) for a, b in zip(first, second, strict=True))
    assert not unchanged(first[0], first[1])
    assert unchanged(item, ClipAugmentation(**OFF)(item), *names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 1.0}, "crop=1.0: pass 0 .off. to 0.9, the largest share"),
        ({"flip": -0.1}, "flip=-0.1"),
        ({"color": float("nan")}, "color=nan"),
        ({"hue": "0.1"}, "hue='0.1'"),
        ({"speed": True}, "speed=True"),
        ({"cut": 0.6}, "cut=0.6"),
        ({"direction_words": "links"}, "pass a list of words"),
        ({"direction_words": ["links", " "]}, "none of them empty"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipAugmentation(**options)


def test_parts_are_named_in_one_string():
    assert ClipAugmentation.from_parts("crop, flip=.3,cut") == only(crop=0.3, flip=0.3, cut=0.2)
    for wrong in ("zoom", "crop,", "crop=much", ""):
        with pytest.raises(ValueError, match="choose from crop, flip, color, hue, speed, cut"):
            ClipAugmentation.from_parts(wrong)
    with pytest.raises(ValueError, match="flip=2.0: pass 0 .off. to 1, the share of clips to mirror"):
        ClipAugmentation.from_parts("flip=2")


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "clips" / "train"
    folder.mkdir(parents=True)
    lines = []
    for name, length in (("long.gif", 8), ("short.gif", 3)):
        write_animation(folder / name, texture(length, 24, 32), 100)
        lines.append(json.dumps({"file_name": name, "caption": "a small cat runs"}))
    (folder / "broken.gif").write_bytes(b"GIF89a")
    lines.append(json.dumps({"file_name": "broken.gif", "caption": "a dog"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return load_clips(folder.parent, "train")


def test_data_sets_augment_anew_and_keep_clean_clips(tmp_path, rows):
    processor, augmentation = tiny_processor(), ClipAugmentation()
    cache = ClipCache(tmp_path / "cache", processor.video_processor, workers=1)
    broken = []
    augmented = ClipDataset(rows, cache, augmentation=augmentation).prepare(
        "clips", on_broken=lambda name, reason: broken.append(name)
    )
    clean = ClipDataset(rows, cache)
    assert broken == ["broken.gif"] and len(augmented) == 2
    torch.manual_seed(0)
    for index in range(2):
        first, second = augmented[index], augmented[index]
        assert not unchanged(first, second) and not unchanged(first, clean[index])
        assert unchanged(first, clean[index], "video_mask")
        augmented.augmentation = None  # as for statistics of the clips as they are
        assert unchanged(augmented[index], clean[index], "pixel_values_videos", "video_times", "video_mask")
        augmented.augmentation = augmentation
    batch = VideoCaptionCollator(processor)([augmented[0], augmented[1]])
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 32, 32) and batch["video_mask"].sum() == 7

    pooled = ClipDataset(rows, cache.with_frames(8), augmentation=only(num_frames=4))
    torch.manual_seed(0)
    looks = [pooled[0]["video_times"] for _ in range(10)]
    assert all(len(each) == 4 for each in looks) and len({tuple(each.tolist()) for each in looks}) > 1
    assert cache.video_processor.num_frames == 4 and len(pooled[1]["video_mask"]) == 4  # of 3 frames, filled up

    stream = StreamedClips(rows.to_iterable_dataset(), processor, on_broken=lambda *_: None, augmentation=augmentation)
    streamed = list(stream.one_pass())
    assert [each["file_name"] for each in streamed] == ["long.gif", "short.gif"]
    assert not any(unchanged(each, clean[index]) for index, each in enumerate(streamed))


def test_features_of_a_frozen_backbone_are_refused_with_what_remains(tmp_path, rows):
    assert load_backbone("cnn", grid=2).settings["freeze_backbone"] is False  # what the message advises

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(3, 4))[:, :, None]  # (1, T, 1, 3)

    cache = ClipCache(tmp_path / "cache", tiny_processor().video_processor, encode=encode, workers=1)
    message = "crop, color: .*flip, speed, cut, frame_dropout=.*word_dropout=.*backbone=cnn.*streaming=True"
    with pytest.raises(ValueError, match=message):
        ClipDataset(rows, cache, augmentation=ClipAugmentation())
    timed = ClipDataset(rows.select([0]), cache, augmentation=only(speed=0.25))
    clean = ClipDataset(rows.select([0]), cache)
    assert unchanged(timed[0], clean[0], "video_features") and not unchanged(timed[0], clean[0], "video_times")
    with pytest.raises(ValueError, match=message):
        ClipAugmentation()(clean[0])
    floats = clip(texture(2))
    floats["pixel_values_videos"] = floats["pixel_values_videos"].float()
    with pytest.raises(ValueError, match="torch.float32: augment uint8 frames"):
        ClipAugmentation()(floats)
