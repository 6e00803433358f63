"""`pipeline("video-captioning")`: every form of input, in batches or not, gives what `generate` gives."""

from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetModel, pipeline

from modeling_vidcap import VideoCaptioningPipeline
from processing import VideoDecodeError, split_batch
from tests.tiny import tiny_clip, tiny_model, tiny_processor

WORDS = {"max_new_tokens": 6}
CLIPS = [tiny_clip(seed, frames=frames) for seed, frames in enumerate((8, 5, 2, 12))]  # one is shorter than 4 frames


@pytest.fixture(scope="module")
def captioner() -> VideoCaptioningPipeline:
    return pipeline("video-captioning", model=tiny_model(), processor=tiny_processor(), device="cpu")


@pytest.fixture(scope="module")
def expected(captioner: VideoCaptioningPipeline) -> list[list[dict[str, str]]]:
    """What the model says of each clip alone, without the pipeline."""
    captions = []
    for clip in CLIPS:
        tokens = captioner.model.generate(**captioner.processor(videos=clip), **WORDS)
        captions += captioner.processor.post_process_generation(tokens)
    assert len(set(captions)) == len(CLIPS)  # one caption for every clip would prove nothing
    return [[{"generated_text": caption}] for caption in captions]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The clips as GIF and lossless video files."""
    folder = tmp_path_factory.mktemp("clips")
    paths = []
    for index, clip in enumerate(CLIPS):
        path = folder / f"{index}.{'gif' if index % 2 else 'mkv'}"
        if index % 2:
            frames = [Image.fromarray(frame) for frame in clip]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0)
        else:
            with av.open(path, "w") as container:
                stream = container.add_stream("ffv1", rate=25)
                stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "bgr0"
                for frame in clip:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
                container.mux(stream.encode(None))
        paths.append(path)
    return paths


def test_one_clip_of_any_kind_is_a_list_of_captions(captioner: Any, expected: Any, files: list[Path]) -> None:
    clip, path = CLIPS[0], files[0]
    kinds: list[Any] = [
        clip,
        torch.from_numpy(clip),
        str(path),
        path,
        path.read_bytes(),
        {"path": str(path), "bytes": None},
    ]
    kinds += [list(clip), tuple(clip), [Image.fromarray(frame) for frame in clip]]
    for kind in kinds:
        assert captioner(kind, **WORDS) == expected[0]


def test_many_clips_are_a_list_of_lists_whatever_the_batch(captioner: Any, expected: Any, files: list[Path]) -> None:
    mixed = [str(files[0]), CLIPS[1], list(CLIPS[2]), [Image.fromarray(frame) for frame in CLIPS[3]]]
    for batch_size in (1, 3):
        assert captioner(mixed, batch_size=batch_size, **WORDS) == expected
    assert captioner(tuple(files[::2]), batch_size=2, **WORDS) == expected[::2]
    assert captioner(CLIPS[:1], **WORDS) == expected[:1]
    assert captioner(np.stack([CLIPS[0], CLIPS[0]]), **WORDS) == [expected[0], expected[0]]
    column = datasets.Dataset.from_dict({"video": [str(path) for path in files]})["video"]
    assert captioner(column, batch_size=2, **WORDS)[::2] == expected[::2]


def test_data_sets_and_generators_are_read_as_they_are_needed(captioner: Any, expected: Any) -> None:
    class Clips(Dataset):
        def __len__(self) -> int:
            return len(CLIPS)

        def __getitem__(self, index: int) -> np.ndarray:
            return CLIPS[index]

    assert list(captioner(Clips(), batch_size=3, **WORDS)) == expected
    read: list[int] = []
    outputs = iter(captioner((read.append(index) or clip for index, clip in enumerate(CLIPS)), **WORDS))
    assert next(outputs) == expected[0]
    assert len(read) < len(CLIPS)
    assert list(outputs) == expected[1:]


def test_frames_are_told_from_clips_as_the_processor_does(captioner: Any, tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    array = CLIPS[0]
    animated = Image.open(tmp_path / "a.gif")
    items: list[Any] = [
        first,
        animated,
        array,
        array[0],
        torch.from_numpy(array[0]),
        "a.mp4",
        b"GIF",
        tmp_path,
        [array[0]],
    ]
    for item in items:
        is_one_clip = len(split_batch([item, item])) == 1
        assert captioner.clip_reader.is_frame(item) == is_one_clip, item


def test_generation_options_reach_generate(captioner: Any) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    outputs = captioner(CLIPS, batch_size=3, **options)
    for clip, output in zip(CLIPS, outputs, strict=True):
        tokens = captioner.model.generate(**captioner.processor(videos=clip), **options)
        assert [each["generated_text"] for each in output] == captioner.processor.post_process_generation(tokens)
    assert captioner(CLIPS[0], generate_kwargs=options) == outputs[0]
    again = pipeline("video-captioning", model=captioner.model, processor=captioner.processor, **options)
    assert again(CLIPS[0]) == outputs[0]
    assert again(CLIPS[0], num_return_sequences=1) == outputs[0][:1]
    with pytest.raises(ValueError, match="max_new_tokens.*generate_kwargs"):
        captioner(CLIPS[0], max_new_tokens=3, generate_kwargs={"max_new_tokens": 4})


def test_the_beams_of_a_model_do_not_stand_in_the_way(captioner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioner.model.generation_config, "num_beams", 2)
    assert captioner._sanitize_parameters(do_sample=True)[1]["num_beams"] == 1
    assert len(captioner(tiny_clip(), do_sample=True, num_return_sequences=5)) == 5
    assert len(captioner(tiny_clip(), num_return_sequences=3)) == 3
    assert captioner._sanitize_parameters(num_beams=4)[1] == {"num_beams": 4}


def test_processor_options_reach_the_processor(captioner: Any, expected: Any) -> None:
    tokens = captioner.model.generate(**captioner.processor(videos=CLIPS[0], num_frames=1), **WORDS)
    caption = captioner.processor.post_process_generation(tokens)[0]
    assert captioner(CLIPS[0], num_frames=1, **WORDS) == [{"generated_text": caption}] != expected[0]
    with pytest.raises(TypeError, match="unknown option nframes: .* num_frames"):
        captioner(CLIPS[0], nframes=2)


def test_clips_of_all_their_frames_share_a_batch(captioner: Any) -> None:
    alone = [captioner(clip, do_sample_frames=False, **WORDS) for clip in CLIPS]
    assert captioner(CLIPS, do_sample_frames=False, batch_size=4, **WORDS) == alone


def test_a_model_in_half_precision(captioner: Any) -> None:
    half = pipeline("video-captioning", model=tiny_model().bfloat16(), processor=captioner.processor, device="cpu")
    assert half(CLIPS[0], **WORDS)[0]["generated_text"]


def test_what_cannot_be_captioned_says_so(captioner: Any, tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match="missing.mp4: no such file"):
        captioner([CLIPS[0], str(tmp_path / "missing.mp4")])
    with pytest.raises(VideoDecodeError, match="4 axes"):
        captioner(CLIPS[0][0])
    with pytest.raises(ValueError, match="list of clips is empty"):
        captioner([])
    with pytest.raises(ValueError, match="no default model: .*vidcap train"):
        pipeline("video-captioning")
    other = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="ResNetModel is a model of type resnet"):
        pipeline("video-captioning", model=other, processor=captioner.processor)
