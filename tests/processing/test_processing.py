"""Clips and captions -> model inputs: the values, the options, saving and loading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor, VideoDecodeError, decode_video
from tests import media

ROOT = Path(__file__).parents[2]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return media.write_video(folder / "clip.mp4", media.texture(40, height=60, width=120))


@pytest.fixture
def processor() -> VideoCaptionProcessor:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = ["a", "red", "green", "square", "circle", "slides", "left"]
    vocabulary = {word: index for index, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return VideoCaptionProcessor(VideoCaptionVideoProcessor(num_frames=8, size=64), fast)


def test_defaults_keep_the_whole_frame(clip):
    batch = VideoCaptionVideoProcessor()(clip)
    assert list(batch) == ["pixel_values_videos", "video_mask", "video_times"]
    assert batch["pixel_values_videos"].shape == (1, 16, 3, 224, 224)
    assert batch["pixel_values_videos"].dtype == batch["video_times"].dtype == torch.float32
    assert batch["video_mask"].dtype == torch.int64 and batch["video_mask"].all()
    assert batch["video_times"][0, [0, -1]].tolist() == pytest.approx([0, 39 / 20])

    pixels = batch["pixel_values_videos"][0] * STD[:, None, None] + MEAN[:, None, None]
    assert pixels[..., :56, :].abs().max() < 1e-6 and pixels[..., 168:, :].abs().max() < 1e-6  # centred on black
    inside = decode_video(clip, fit=(224, 224)).frames
    assert inside.shape[-2:] == (112, 224)
    torch.testing.assert_close(pixels[..., 56:168, :], inside / 255, atol=1e-5, rtol=0)


def test_corners_survive(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", [media.corners(40, 160)] * 3)
    frame = VideoCaptionVideoProcessor(size=64, do_normalize=False)(path)["pixel_values_videos"][0, 0]
    assert media.corner_names((frame[:, 24:40] * 255).byte()) == "RGBW"


def test_alone_or_in_a_batch(folder, clip):
    frames = decode_video(clip, num_frames=5).frames
    clips = [
        clip,
        media.write_animation(folder / "a.gif", media.texture(9), [20, 300, 100] * 3),
        clip.read_bytes(),
        frames.numpy(),
        [Image.fromarray(frame) for frame in media.texture(3)],
    ]
    processor = VideoCaptionVideoProcessor()
    together = processor(clips)
    assert together["pixel_values_videos"].shape == (5, 16, 3, 224, 224)
    assert together["video_mask"].sum(dim=1).tolist() == [16, 9, 16, 5, 3]
    for index, one in enumerate(clips):
        alone = processor(one)
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][index])


def test_a_file_and_its_frames_give_close_pixels(clip):
    processor = VideoCaptionVideoProcessor()
    by_file = processor(clip)["pixel_values_videos"]
    by_array = processor(decode_video(clip, num_frames=40).frames)["pixel_values_videos"]
    assert (by_file - by_array).abs().mean() < 0.02


def test_options(clip, tmp_path):
    processor = VideoCaptionVideoProcessor()
    raw = processor(clip, do_rescale=False, do_normalize=False, size={"height": 32, "width": 48}, num_frames=4)
    assert raw["pixel_values_videos"].dtype == torch.uint8 and raw["pixel_values_videos"].shape == (1, 4, 3, 32, 48)
    assert isinstance(processor(clip, return_tensors="np")["pixel_values_videos"], np.ndarray)
    own_size = processor(clip, do_resize=False, do_pad=False)["pixel_values_videos"]
    assert own_size.shape[-2:] == (60, 120)
    framed = processor(clip, do_resize=False)["pixel_values_videos"]
    assert torch.equal(framed[..., 82:142, 52:172], own_size)
    bicubic = processor(clip, resample=Image.Resampling.BICUBIC)["pixel_values_videos"]
    assert 0 < (bicubic - processor(clip)["pixel_values_videos"]).abs().mean() < 0.1
    narrow = np.zeros((4, 3, 8, 3), np.uint8)  # either axis of 3 could be the channels
    timed = processor(narrow, input_data_format="channels_last", frame_rate=4)
    assert timed["video_mask"].sum() == 4 and timed["video_times"][0, 1] == 0.25

    long = media.write_animation(tmp_path / "a.gif", media.shades(20), 50)
    every = processor([clip, long], do_sample_frames=False)
    assert every["video_mask"].sum(dim=1).tolist() == [40, 20]
    assert every["video_times"][1].tolist() == pytest.approx([0.05 * min(index, 19) for index in range(40)])


@pytest.mark.parametrize(
    "options, kind, reason",
    [
        ({"num_frame": 8}, TypeError, "unknown option num_frame; the options are decoding_threads"),
        ({"fps": 2}, TypeError, "unknown option fps"),
        ({"num_frames": 0}, ValueError, "num_frames=0"),
        ({"size": {"shortest_edge": 224}}, ValueError, "height and the width"),
        ({"resample": 0}, ValueError, "resample=0"),
        ({"input_data_format": "first"}, ValueError, "channels_first"),
        ({"do_resize": False, "size": 32}, ValueError, "120x60 are larger than size 32x32"),
    ],
)
def test_wrong_options_raise(clip, options, kind, reason):
    with pytest.raises(kind, match=reason):
        VideoCaptionVideoProcessor()(clip, **options)


def test_limits_are_options(clip):
    with pytest.raises(VideoDecodeError, match="raise max_clip_frames"):
        VideoCaptionVideoProcessor(max_clip_frames=30)(clip)
    with pytest.raises(VideoDecodeError, match="raise max_frame_pixels"):
        VideoCaptionVideoProcessor()(clip, max_frame_pixels=100)
    with pytest.raises(ValueError, match="set do_pad=True"):
        VideoCaptionVideoProcessor()([clip, np.zeros((2, 8, 8, 3), np.uint8)], do_pad=False)


def test_a_misspelt_option_is_found_early_but_a_saved_one_does_no_harm(tmp_path):
    with pytest.raises(TypeError, match="unknown option num_frame;"):
        VideoCaptionVideoProcessor(num_frame=8)
    VideoCaptionVideoProcessor(num_frames=8).save_pretrained(tmp_path)
    saved = next(tmp_path.glob("*.json"))
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"num_frame": 3, "option_of_a_later_version": 1}))
    loaded = VideoCaptionVideoProcessor.from_pretrained(tmp_path, size=96)
    assert loaded.num_frames == 8 and loaded.size.height == loaded.size.width == 96


def test_clips_in_forked_workers(clip):
    expected = VideoCaptionVideoProcessor()(clip)["pixel_values_videos"]  # the parent has used the decoder before
    loader = torch.utils.data.DataLoader(
        [clip] * 4,
        batch_size=2,
        num_workers=2,
        collate_fn=VideoCaptionVideoProcessor(),
        multiprocessing_context="fork",
    )
    for batch in loader:
        assert torch.equal(batch["pixel_values_videos"], expected.expand(2, -1, -1, -1, -1))


# With captions


def test_clips_and_captions(processor, clip):
    batch = processor(
        videos=[clip, clip], text=["A red square slides left", "a circle"], padding=True, return_tensors="pt"
    )
    assert set(batch) == set(processor.model_input_names)
    assert batch["pixel_values_videos"].shape == (2, 8, 3, 64, 64)
    assert batch["input_ids"].tolist() == [[4, 5, 7, 9, 10, 2], [4, 8, 2, 0, 0, 0]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 3]
    assert set(processor(text="a circle")) == {"input_ids", "attention_mask"}
    nested = processor(videos=clip, videos_kwargs={"num_frames": 2}, text="a circle", text_kwargs={"max_length": 2})
    assert nested["pixel_values_videos"].shape[1] == 2


def test_captions_come_back_clean(processor):
    ids = torch.tensor([[1, 4, 5, 7, 2, 0], [1, 4, 8, 9, 10, 2]])
    assert processor.post_process_generation(ids) == ["a red square", "a circle slides left"]
    assert processor.post_process_generation(ids.tolist()) == ["a red square", "a circle slides left"]


def test_wrong_options_of_the_processor_raise(processor, clip):
    for options in ({"num_frame": 8}, {"videos_kwargs": {"num_frame": 8}}, {"text_kwargs": {"num_frame": 8}}):
        with pytest.raises(TypeError, match="unknown option num_frame"):
            processor(videos=clip, text="a circle", **options)
    with pytest.raises(ValueError, match="pass videos, text or both"):
        processor()


LOAD_AND_USE = """
import sys, torch
from transformers import AutoConfig, AutoProcessor, AutoVideoProcessor, PreTrainedConfig

folder, clip, output, trust = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "remote"
if not trust:
    import processing

    class Config(PreTrainedConfig):
        model_type = "vidcap"

    AutoConfig.register("vidcap", Config)
    AutoVideoProcessor.register(Config, processing.VideoCaptionVideoProcessor)
    AutoProcessor.register(Config, processing.VideoCaptionProcessor)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
video_processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=trust)
assert ("processing" in sys.modules) != trust
assert processor.post_process_generation([[1, 4, 5, 2]]) == ["a red"]
batch = processor(videos=clip, text=["a circle"], return_tensors="pt")
assert torch.equal(video_processor(clip)["pixel_values_videos"], batch["pixel_values_videos"])
torch.save(dict(batch), output)
if not trust:  # what goes to the Hub: the files next to the settings
    processing.VideoCaptionVideoProcessor.register_for_auto_class()
    processing.VideoCaptionProcessor.register_for_auto_class()
    processor.save_pretrained(folder + "_remote")
"""


@pytest.mark.slow  # tests/vidcap/inference/test_loading.py loads them in every way, with a model
def test_saved_and_loaded_in_clean_processes(processor, clip, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    expected = dict(processor(videos=clip, text=["a circle"], return_tensors="pt"))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    for kind, folder, path in (("installed", "saved", str(ROOT)), ("remote", "saved_remote", "")):
        subprocess.run(
            [sys.executable, "-c", LOAD_AND_USE, str(tmp_path / folder), str(clip), str(tmp_path / kind), kind],
            check=True,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": path},
        )
        loaded = torch.load(tmp_path / kind, weights_only=True)
        assert set(loaded) == set(expected)
        for name, value in expected.items():
            assert torch.equal(loaded[name], value)
