"""Captions without transformers: those of the path through it, for what is run here, and only for that."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import TimmBackboneConfig

from modeling_vidcap import VideoCaptionForConditionalGeneration
from tests.media import texture, write_animation, write_video
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import build_parser, main
from vidcap.commands import captioner_options
from vidcap.light.efficientnet import VARIANTS, EfficientNetLite
from vidcap.light.loading import open_light
from vidcap.light.model import LightCaptioner
from vidcap.light.settings import EncodedClips, LightConfig, SearchSettings

# The widest of ours: all that can stand in front of the layers, and behind them.
RICH = {
    **{"thumbnail_size": 2, "color_bins": 3, "motion_floor": 0.05, "spatial_tokens": True, "temporal_pyramid": 1},
    **{"space_positions": "rotary", "caption_queries": 3, "embedding_size": 24, "text_layers": 2},
}
LITE: dict[str, Any] = {
    "backbone_config": TimmBackboneConfig(
        backbone="tf_efficientnet_lite0", features_only=True, num_channels=3, out_indices=[2, 3, 4]
    ),
    "feature_size": 472,
    "freeze_backbone": True,
}


def save(folder: Path, **changes: Any) -> VideoCaptionForConditionalGeneration:
    """A tiny captioner, which is saved as training saves them."""
    model = tiny_model(**changes)
    fill_norms(model)
    settings = {"max_new_tokens": 12, "num_beams": 4, "similarity_weight": 0.1, "suppress_tokens": [3, 1]}
    model.generation_config.update(**settings)
    summaries = torch.rand(30, model.config.cell_features, generator=torch.Generator().manual_seed(0))
    model.novelty.fit([summaries[:20]], [summaries[20:]])
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return model


def fill_norms(model: torch.nn.Module) -> None:
    """Batch norms that do something, as those of trained networks."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
            for tensor in (module.bias, module.running_mean):
                tensor.data = torch.rand(tensor.shape, generator=generator) - 0.5


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of several lengths: the short ones are filled up and masked."""
    folder = tmp_path_factory.mktemp("clips")
    frames = texture(60, 48, 64)
    ranges = [(0, 30), (30, 31), (31, 33), (33, 60), (10, 20)]
    files = [write_video(folder / f"{first}.mp4", frames[first:last], rate=20) for first, last in ranges]
    return [str(file) for file in (*files, write_animation(folder / "one.gif", frames[40:43], 100))]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    save(folder)
    return folder


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs `vidcap caption` by the light path, which it has to take, and by the other."""

    def run(*argv: str) -> list[str]:
        outputs, taken = [], []
        for opener in (open_light, lambda arguments: None):

            def spy(arguments, opener=opener):
                taken.append(opener(arguments) is not None)
                return opener(arguments)

            monkeypatch.setattr(captioner_options, "open_light", spy)
            assert main(["caption", *argv]) == 0
            outputs.append(capsys.readouterr().out)
        assert taken == [True, False]
        return outputs

    return run


def assert_same(light: str, full: str) -> list[dict[str, Any]]:
    """Compares lists as `--format json` writes them: words to the letter, numbers up to rounding."""
    rows, others = json.loads(light), json.loads(full)
    assert [json.dumps(row, sort_keys=True) for row in map(_words, rows)] == [
        json.dumps(row, sort_keys=True) for row in map(_words, others)
    ]
    for row, other in zip(rows, others, strict=True):
        assert _numbers(row) == pytest.approx(_numbers(other), rel=1e-4, abs=1e-5)
    return rows


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _words(each) for name, each in value.items()}
    return [_words(each) for each in value] if isinstance(value, list) else None if _is_number(value) else value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in _numbers(part)]
    return [value] if _is_number(value) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, float)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--num_beams 1",
        "--captions 3 --similarity_weight 0",
        "--captions 5 --length_penalty 0.3",
        "--similarity_weight 2 --num_beams 6 --length_penalty 2 --max_new_tokens 5",
        "--num_frames 9 --batch_size 4 --device cpu",
        "--snap_to_keyframes --skip_loop_filter",
    ],
)
def test_captions_probabilities_and_novelty_are_those_of_transformers(options, both, captioner, clips):
    light, full = both(*clips, "--model", str(captioner), "--format", "json", *options.split())
    rows = assert_same(light, full)
    assert len({row["caption"] for row in rows}) > 2 and all(row["novelty"] > 0 for row in rows)


@pytest.mark.parametrize("options", [{}, RICH, LITE, {"encoder_layers": 2, "time_positions": "learned"}])
@pytest.mark.parametrize("beams", ["1", "4"])
def test_so_they_are_for_other_architectures(options, beams, both, clips, tmp_path):
    save(tmp_path, **options)
    assert_same(*both(*clips, "--model", str(tmp_path), "--format", "json", "--num_beams", beams))


@pytest.mark.parametrize("style", ["text", "vtt", "srt"])
def test_every_format_is_the_same(style, both, captioner, clips):
    light, full = both(clips[0], "--model", str(captioner), "--format", style, "--captions", "2")
    assert light == full and light.strip()


def up_to_end(sequences: torch.Tensor) -> torch.Tensor:
    ends = (sequences == 2).long()
    return sequences.masked_fill(ends.cumsum(dim=1) - ends > 0, 0)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_beams_are_those_of_transformers_whatever_they_are_asked_for(seed):
    model = tiny_model(seed=seed, initializer_range=0.3 + 0.1 * seed)
    inputs = dict(tiny_processor()(videos=[tiny_clip(index, frames=1 + index) for index in range(6)]))
    encoded = model.get_encoder()(**inputs)
    config = LightConfig.of(model.config.to_dict())
    settings = SearchSettings(pad_token_id=0, decoder_start_token_id=1, eos_token_ids=[2], max_new_tokens=10)
    light = LightCaptioner(config, settings, None).eval()
    light.load_state_dict(model.state_dict())
    clips = EncodedClips(encoded.last_hidden_state, encoded.attention_mask, encoded.token_times)
    written = set()
    for options in (
        {"num_beams": 2},
        {"num_beams": 5, "num_return_sequences": 5, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": -1.0, "suppress_tokens": [1, 3]},
        {"num_beams": 3, "num_return_sequences": 2, "similarity_weight": 0.5, "max_new_tokens": 4},
        {"num_beams": 1, "suppress_tokens": [1, 3]},
        {"num_beams": 4, "max_new_tokens": 1},
    ):
        expected = model.generate(encoder_outputs=encoded, **{"max_new_tokens": 10, **options})
        found = light.generate(encoder_outputs=clips, **options)
        # Behind a caption's end transformers writes EOS again where the padding's id is 0.
        assert torch.equal(up_to_end(found), up_to_end(expected)), options
        written |= {tuple(row) for row in found.tolist()}
    assert len(written) > 6


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_the_network_is_timms(variant, size):
    theirs = timm.create_model(variant, features_only=True, out_indices=(0, 2, 4)).eval()
    fill_norms(theirs)
    ours = EfficientNetLite(variant, (0, 2, 4)).eval()
    ours.load_state_dict(theirs.state_dict())
    frames = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(ours(frames), theirs(frames), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def arguments_of(*argv: str) -> argparse.Namespace:
    return build_parser().parse_args(["caption", "clip.mp4", *argv])


@pytest.mark.parametrize(
    "options",
    [
        ["--sample"],
        ["--ban", "dog"],
        ["--include", "a dog"],
        ["--guidance_scale", "2"],
        ["--backend", "openvino"],
        ["--device", "cuda"],
        ["--dtype", "bfloat16"],
        ["--prompt", "What happens?"],
        ["--dataset", "clips"],
    ],
)
def test_other_options_are_left_to_transformers(options, captioner):
    assert open_light(arguments_of("--model", str(captioner))) is not None
    assert open_light(arguments_of("--model", str(captioner), *options)) is None


def test_so_are_ids_of_the_hub_and_gpus(captioner, monkeypatch):
    assert open_light(arguments_of("--model", "user/name")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_light(arguments_of("--model", str(captioner))) is None
    assert open_light(arguments_of("--model", str(captioner), "--device", "cpu")) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "joint"},
        {"encoder_window": 2},
        {"contrastive_type": "sigmoid"},
        {"hidden_act": "relu"},
        {"own_backbone": "s3d", "feature_size": 1024, "num_frames": 8},
        {"backbone_config": TimmBackboneConfig(backbone="resnet18", out_indices=[4]), "feature_size": 512},
    ],
)
def test_so_are_other_architectures(changes, tmp_path):
    save(tmp_path, **changes)
    assert open_light(arguments_of("--model", str(tmp_path))) is None


def test_so_are_other_precisions(tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert open_light(arguments_of("--model", str(tmp_path))) is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"vidcap_version": "99.0"}),
        ("config.json", {"model_type": "git"}),
        ("config.json", {"hidden_size": 64}),
        ("generation_config.json", {"repetition_penalty": 1.5}),
        ("generation_config.json", {"do_sample": True}),
        ("generation_config.json", {"early_stopping": True}),
        ("generation_config.json", {"max_new_tokens": None}),
        ("processor_config.json", {"processor_class": "OtherProcessor"}),
        ("processor_config.json", {"video_processor": {"do_pad": False}}),
        ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"}),
        ("tokenizer_config.json", {"mask_token": "<mask>"}),
    ],
)
def test_so_are_files_that_say_something_unusual(name, changes, captioner, tmp_path):
    folder = shutil.copytree(captioner, tmp_path / "captioner")
    content = json.loads((folder / name).read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (folder / name).write_text(json.dumps(content))
    assert open_light(arguments_of("--model", str(folder))) is None


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.bin", "model.safetensors.index.json"])
def test_so_are_weights_that_lie_elsewhere(name, captioner, tmp_path):
    folder = shutil.copytree(captioner, tmp_path / "captioner")
    (folder / name).write_text("{}")
    assert open_light(arguments_of("--model", str(folder))) is None


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        "model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]"])
def test_so_are_folders_with_missing_and_damaged_files(name, damage, captioner, tmp_path):
    folder = shutil.copytree(captioner, tmp_path / "captioner")
    (folder / name).unlink()
    if damage is not None:
        (folder / name).write_bytes(damage)
    assert open_light(arguments_of("--model", str(folder))) is None


def test_so_are_weights_that_were_changed(captioner, tmp_path):
    folder = shutil.copytree(captioner, tmp_path / "captioner")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert open_light(arguments_of("--model", str(folder))) is None
    (folder / "SHA256SUMS").unlink()
    assert open_light(arguments_of("--model", str(folder))) is not None
