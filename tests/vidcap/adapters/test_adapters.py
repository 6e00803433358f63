"""Captioners of other families, each a tiny model of the real class: one call, batches, options, data sets, scores."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.models.smolvlm.processing_smolvlm as smolvlm
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, pipeline

import train_hf
import vidcap
from processing.clips.rows import load_clips
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from tests.tiny_families import (
    MAKERS,
    save_family,
    tiny_blip,
    tiny_family,
    tiny_git,
    tiny_qwen,
    tiny_vision_encoder_decoder,
)
from vidcap.adapters import FAMILIES, CaptionAdapter, UnsupportedModelError, family_of
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data
from vidcap.evaluation.controls.controls import CONTROLS
from vidcap.inference.reading import read_clip

WORDS = {"max_new_tokens": 6}
CLIPS = [tiny_clip(seed, frames=frames) for seed, frames in enumerate((8, 5, 2, 12))]  # one is shorter than 4 frames


@pytest.fixture(autouse=True)
def _numbers_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor of SmolVLM needs num2words, an optional dependency of transformers."""
    if smolvlm.num2words is None:
        monkeypatch.setattr(smolvlm, "num2words", str)


def adapter_of(name: str) -> CaptionAdapter:
    processor, model = tiny_family(name)
    return family_of(model.config.model_type, name)(model, processor)


def read(adapter: CaptionAdapter, clips: list[Any] = CLIPS) -> list[dict[str, Any]]:
    return [read_clip(clip, adapter.video_processor)[0] for clip in clips]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    for index, clip in enumerate(CLIPS[:2]):
        images = [Image.fromarray(frame) for frame in clip]
        images[0].save(folder / f"{index}.gif", save_all=True, append_images=images[1:], duration=400, loop=0)
    return [str(folder / "0.gif"), str(folder / "1.gif")]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("git")
    save_family("git", folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(folder, train=5, validation=2, test=4, size=32)
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_one_call_captions_clips_and_a_batch_changes_nothing(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path)
    captioner = pipeline("video-captioning", model=str(tmp_path), device="cpu")
    (alone,) = captioner(CLIPS[0], **WORDS)
    assert set(alone) == {"generated_text"}
    singly = captioner(CLIPS, num_beams=2, num_return_sequences=2, **WORDS)
    assert [len(each) for each in singly] == [2] * len(CLIPS)
    # Captions without a word would prove nothing, and neither would the same one for every clip.
    texts = [each[0]["generated_text"] for each in singly]
    assert all(texts) and len(set(texts)) >= 3
    assert captioner(CLIPS, batch_size=3, num_beams=2, num_return_sequences=2, **WORDS) == singly
    assert list(captioner((clip for clip in CLIPS), batch_size=4, **WORDS))[0] == [alone]


@pytest.mark.parametrize("name", ["git", "timesformer", "qwen2_vl"])
def test_captions_are_what_the_model_says_of_its_processors_inputs(name: str) -> None:
    processor, model = tiny_family(name)
    captioner = pipeline("video-captioning", model=model, processor=processor, device="cpu")
    frames = [torch.from_numpy(CLIPS[0][index]).permute(2, 0, 1) for index in (0, 2, 5, 7)]  # evenly spread
    if name == "qwen2_vl":
        prompt = captioner.adapter.default_prompt
        message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}]
        text = processor.apply_chat_template(message, add_generation_prompt=True)
        inputs = processor(text=[text], videos=[torch.stack(frames)], return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, **WORDS)[:, inputs["input_ids"].shape[1] :]
    elif name == "git":
        pixels = processor(images=frames, return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixel_values=pixels[None], **WORDS)
    else:
        tokens = model.generate(**processor.image_processor(frames, return_tensors="pt"), **WORDS)
    caption = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    options = {"num_frames": 4} if name == "qwen2_vl" else {}
    assert captioner(CLIPS[0], **options, **WORDS) == [{"generated_text": caption}]


@pytest.mark.parametrize("name", ["git", "timesformer", "smolvlm"])
def test_probabilities_are_those_of_the_model(name: str) -> None:
    adapter = adapter_of(name)
    clips = read(adapter)
    (best, second), *_ = adapter.caption_with_scores(clips, num_beams=2, num_return_sequences=2, **WORDS)
    assert best.novelty is None and best.text != second.text
    assert best.text == adapter.caption(clips[:1], num_beams=2, **WORDS)[0]
    item = adapter.prepare(clips[0])
    for found in (best, second):
        ids = torch.tensor([adapter.tokenizer.convert_tokens_to_ids(found.tokens)])
        if adapter.config.is_encoder_decoder:
            given = torch.cat([torch.zeros_like(ids[:, :1]), ids], dim=1)
            logits = adapter.model(**item, decoder_input_ids=given).logits[:, :-1]
        else:
            given = torch.cat([item["input_ids"], ids], dim=1)
            inputs = {**item, "input_ids": given, "attention_mask": torch.ones_like(given)}
            logits = adapter.model(**inputs).logits[:, -ids.shape[1] - 1 : -1]
        expected = logits.log_softmax(-1).gather(2, ids[..., None])[0, :, 0]
        torch.testing.assert_close(torch.tensor(found.log_probabilities), expected, rtol=1e-3, atol=1e-3)


def test_a_caption_ends_at_its_first_end_token() -> None:
    adapter = adapter_of("git")
    tokens = torch.tensor([[7, 3, 0, 0], [7, 8, 9, 3], [7, 8, 0, 0]])
    from vidcap.adapters.base import _lengths

    assert _lengths(tokens, [3], 0) == [2, 4, 2]
    assert _lengths(tokens, [0], 0) == [3, 4, 3]
    assert adapter._end_tokens() == [3] and adapter._pad_token() == 0


def test_the_parts_of_a_processor_may_be_passed_one_by_one() -> None:
    processor, model = tiny_family("timesformer")
    whole = pipeline("video-captioning", model=model, processor=processor)
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    assert pipeline("video-captioning", model=model, **parts)(CLIPS, **WORDS) == whole(CLIPS, **WORDS)


def test_chat_models_hear_the_prompt_and_see_frames_by_their_processors_rate() -> None:
    adapter = adapter_of("smolvlm")
    long, short = read(adapter, [tiny_clip(0, frames=100), tiny_clip(0, frames=50)])  # 4 s and 2 s
    assert adapter.prepare(long)["pixel_values"].shape[1] == 4
    assert adapter.prepare(short)["pixel_values"].shape[1] == 2
    text = adapter.tokenizer.decode(adapter.prepare(short, prompt="what falls?")["input_ids"][0])
    assert "what falls?" in text and "2 frames from a 0:00:02" in text and "Frame from 00:01" in text
    assert adapter.prepare(short, keep_frames=True)["pixel_values"].shape[1] == 4
    adapter.configure(num_frames=3, prompt="who runs?")
    clip = read(adapter, [tiny_clip(0, frames=50)])[0]
    assert adapter.prepare(clip)["pixel_values"].shape[1] == 3
    assert "who runs?" in adapter.tokenizer.decode(adapter.prepare(clip)["input_ids"][0])


def test_the_pipeline_takes_prompt_and_frames_of_chat_models() -> None:
    processor, model = tiny_family("qwen2_vl")
    captioner = pipeline("video-captioning", model=model, processor=processor, device="cpu")
    asked: list[tuple[str, int]] = []
    prepare = captioner.adapter.inputs

    def inputs(frames: torch.Tensor, times: torch.Tensor, prompt: str) -> Any:
        asked.append((prompt, len(frames)))
        return prepare(frames, times, prompt)

    captioner.adapter.inputs = inputs
    captioner(CLIPS[0], prompt="who?", num_frames=2, **WORDS)
    captioner(CLIPS[3], **WORDS)
    assert asked == [("who?", 2), (captioner.adapter.default_prompt, 12)]


def test_a_chat_models_taste_for_dice_is_not_followed_unless_asked() -> None:
    adapter = adapter_of("qwen2_5_vl")
    adapter.model.generation_config.update(do_sample=True, temperature=5.0, top_p=0.9)
    items = [adapter.prepare(clip) for clip in read(adapter)]
    first, second = (adapter.generate(items, **WORDS) for _ in range(2))
    assert [group[0].ids.tolist() for group in first] == [group[0].ids.tolist() for group in second]
    drawn = adapter.generate(items[:1], do_sample=True, num_return_sequences=8, **WORDS)[0]
    assert len({tuple(each.ids.tolist()) for each in drawn}) > 1
    assert adapter.generation_options({})["max_new_tokens"] == 64
    assert "max_new_tokens" not in adapter.generation_options({"max_length": 9})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("git", {"similarity_weight": 1.0}, "similarity_weight compares captions with clips.*GIT.*leave it out"),
        ("timesformer", {"guidance_scale": 2.0}, "guidance_scale compares .*VisionEncoderDecoder"),
        ("smolvlm", {"generate_kwargs": {"guidance_scale": 2.0}}, "guidance_scale compares .*chat"),
        ("git", {"prompt": "x"}, "prompt is for chat models, GIT models take none"),
        ("git", {"num_frames": 5}, "num_frames 5: .* 4 frames"),
        ("vivit", {"num_frames": 8}, "num_frames 8: .* 4 frames"),
        ("smolvlm", {"size": {"height": 8, "width": 8}}, "size is set by the model's own processor"),
    ],
)
def test_the_pipeline_refuses_by_name_what_makes_no_sense(name: str, options: dict[str, Any], message: str) -> None:
    processor, model = tiny_family(name)
    captioner = pipeline("video-captioning", model=model, processor=processor, device="cpu")
    with pytest.raises(ValueError, match=message):
        captioner(CLIPS[0], **options)
    with pytest.raises(TypeError, match="unknown option nframes: .*num_frames"):
        captioner(CLIPS[0], nframes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--similarity_weight", "1"], "--similarity_weight compares captions with clips"),
        (["--guidance_scale", "2"], "--guidance_scale compares with captions written without video"),
        (["--include", "dog"], "--include "),
        (["--num_frames", "8"], "--num_frames 8: "),
        (["--prompt", "x"], "--prompt is for chat models"),
        (["--backend", "openvino"], "--backend openvino is for models of `vidcap train`"),
    ],
)
def test_the_command_refuses_by_name_what_makes_no_sense(
    git: Path, files: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", *files, "--model", str(git), "--num_beams", "2", *options]) == 1
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out


def test_what_needs_embeddings_and_models_of_other_kinds_is_refused(
    git: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", *files, "--model", str(git), "--labels", "a", "b"]) == 1
    error = capsys.readouterr().err
    assert "is a model of type git: pass one of type vidcap" in error
    assert "can only caption and be evaluated" in error
    assert main(["search", "a dog", *files, "--model", str(git)]) == 1
    capsys.readouterr()
    bert = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    bert.save_pretrained(tmp_path)
    families = ", ".join(sorted(FAMILIES))
    assert main(["caption", *files, "--model", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "is a model of type bert" in error and f"of type {families}" in error
    refusals: list[tuple[Any, type[Exception]]] = [(str(tmp_path), UnsupportedModelError), (bert, ValueError)]
    for model, error in refusals:
        with pytest.raises(error, match=f"a model of type bert: .*{families}"):
            pipeline("video-captioning", model=model)
    with pytest.raises(ValueError, match="GIT model .*git-base-vatex"):
        vidcap.adapters.GitAdapter(*reversed(tiny_git(num_frames=None)))
    processor, model = tiny_vision_encoder_decoder("vivit")
    model.config.encoder = ViTConfig(hidden_size=16)
    with pytest.raises(ValueError, match="encoder of type vit"):
        vidcap.adapters.FAMILIES["vision-encoder-decoder"](model, processor)
    processor, model = tiny_qwen("2")
    processor.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        vidcap.adapters.FAMILIES["qwen2_vl"](model, processor)
    with pytest.raises(ValueError, match="pass processor="):
        pipeline("video-captioning", model=model)


def test_own_models_still_come_as_they_did(tmp_path: Path, files: list[str], capsys: Any) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    captioner = pipeline("video-captioning", model=str(tmp_path), device="cpu")
    assert type(captioner) is vidcap.VideoCaptioningPipeline
    assert captioner(CLIPS[0], similarity_weight=0.0, **WORDS)[0]["generated_text"]
    for option, value in (("--prompt", "x"), ("--dtype", "bfloat16")):
        assert main(["caption", files[0], "--model", str(tmp_path), option, value]) == 1
        assert option.removeprefix("--") in capsys.readouterr().err
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(Exception, match="rocess"):
        pipeline("video-captioning", model=str(tmp_path), device="cpu")


def test_the_command_writes_every_form(git: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    what = ["--model", str(git), "--max_new_tokens", "6"]
    captions = [each[0]["generated_text"] for each in pipeline("video-captioning", model=str(git))(files, **WORDS)]
    assert main(["caption", *files, *what]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: {text}" for file, text in zip(files, captions, strict=True)
    ]
    assert main(["caption", *files, *what, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["caption"] for row in rows] == captions
    assert all(row["mean_log_probability"] < 0 and row["tokens"] and row["novelty"] is None for row in rows)
    assert main(["caption", files[0], *what, "--format", "vtt"]) == 0
    assert f"00:00:00.000 --> 00:00:03.200\n{captions[0]}\n" in capsys.readouterr().out
    assert main(["caption", files[0], *what, "--format", "srt", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith("1\n00:00:00,000 --> 00:00:03,200\n")
    banned = captions[0].split()[0]
    assert main(["caption", files[0], *what, "--ban", banned]) == 0
    assert banned not in capsys.readouterr().out.split(": ")[1].split()


def test_a_chat_model_on_the_command_line(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_family("smolvlm", tmp_path)
    arguments = ["caption", files[0], "--model", str(tmp_path), "--max_new_tokens", "6"]
    found = []
    for options in ([], ["--prompt", "name the animal"], ["--num_frames", "2"]):
        assert main([*arguments, *options]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 3


def test_a_large_models_captions_teach_a_small_one(git: Path, data: Path, tmp_path: Path) -> None:
    taught = tmp_path / "captions"
    what = ["caption", "--dataset", str(data), "--model", str(git), "--output", str(taught)]
    assert main([*what, *"--captions 2 --num_beams 2 --max_new_tokens 6".split()]) == 0
    rows = load_clips(taught, "train")
    assert len(rows) == 5 and all(len(row["captions"]) == 2 for row in rows)
    teacher = pipeline("video-captioning", model=str(git))
    said = teacher([row["video"]["path"] for row in rows], num_beams=2, num_return_sequences=2, **WORDS)
    assert [[each["generated_text"] for each in group] for group in said] == list(rows["captions"])
    options = (
        "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --max_steps 2 "
        "--num_attention_heads 2 --encoder_layers 1 --multimodal_layers 1 --disable_tqdm True --test_split none"
    ).split()
    where = ["--dataset", str(taught), "--output_dir", str(tmp_path / "m"), "--feature_cache", str(tmp_path / "k")]
    assert train_hf.main([*where, *options]) == 0
    student = pipeline("video-captioning", model=str(tmp_path / "m"))
    words = {word for group in rows["captions"] for caption in group for word in caption.split()}
    assert words <= set(student.processor.tokenizer.get_vocab())


def test_evaluation_scores_them_and_says_what_is_left_out(git: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    (data / "test" / "broken.mp4").write_bytes(b"nothing")
    with (data / "test" / "metadata.jsonl").open("a") as lines:
        lines.write(json.dumps({"file_name": "broken.mp4", "caption": "a dog"}) + "\n")
    report = tmp_path / "report.json"
    arguments = ["evaluate", "--model", str(git), "--dataset", str(data), "--output", str(report)]
    assert main([*arguments, "--max_new_tokens", "6"]) == 1  # as for a model of this package
    predictions = tmp_path / "p.jsonl"
    options = ["--skip_broken_clips", "--predictions", str(predictions), "--max_new_tokens", "6"]
    assert main([*arguments, *options]) == 0
    assert "note: retrieval is left out: GIT models do not" in capsys.readouterr().err
    found = json.loads(report.read_text())
    assert found["clips"] == 4 and len(found["skipped_clips"]) == 1 and found["parameters"] > 0
    assert set(found["controls"]) == set(CONTROLS) - {"no_video"}
    assert set(found["left_out"]) == {"retrieval", "no_video", "grounding"} and not set(found["left_out"]) & set(found)
    assert "GIT" in found["left_out"]["retrieval"]
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    captioner = pipeline("video-captioning", model=str(git))
    for line in lines:
        path = data / "test" / line["file_name"]
        assert captioner(str(path), **WORDS) == [{"generated_text": line["hypothesis"]}]
    assert any(line["backwards"] != line["hypothesis"] for line in lines)


class BlipAdapter(CaptionAdapter):
    """BLIP, which captions images: it sees the frame at half time."""

    family = "BLIP"

    @property
    def fixed_frames(self) -> int:
        return 1

    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        return {"pixel_values": self.processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]}


def test_a_family_of_ones_own_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "captioners.md").read_text()
    assert inspect.getsource(BlipAdapter) in page  # what is documented is what is tested
    processor, model = tiny_blip()
    with pytest.raises(ValueError, match="a model of type blip"):
        pipeline("video-captioning", model=model, processor=processor)
    monkeypatch.setitem(FAMILIES, "blip", BlipAdapter)
    captioner = pipeline("video-captioning", model=model, processor=processor)
    captions = captioner(files, batch_size=2, **WORDS)
    for clip, caption in zip(CLIPS, captions, strict=False):
        pixels = processor(images=clip[len(clip) // 2], return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixel_values=pixels, do_sample=False, **WORDS)
        assert caption == [{"generated_text": processor.decode(tokens[0], skip_special_tokens=True).strip()}]
    assert captions[0] != captions[1]
    with pytest.raises(ValueError, match="num_frames 2: .* 1 frames"):
        captioner(files, num_frames=2)


def test_weights_that_would_be_unpickled_are_refused(
    git: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in git.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(tiny_git()[1].state_dict(), tmp_path / "pytorch_model.bin")
    assert main(["caption", *files, "--model", str(tmp_path)]) == 1
    assert "its weights cannot be loaded: " in capsys.readouterr().err
    with pytest.raises(UnsupportedModelError, match="its weights cannot be loaded: .*safetensors"):
        pipeline("video-captioning", model=str(tmp_path))
