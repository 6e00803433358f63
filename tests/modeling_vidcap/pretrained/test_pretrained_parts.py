"""Pretrained parts as people have them: half precision, odd processors and tokenizers, damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import train_hf
from modeling_vidcap.pretrained.backbones import load_backbone
from modeling_vidcap.pretrained.text import load_language_model
from processing.clips.tokenizers import load_tokenizer
from tests.modeling_vidcap.pretrained.test_text_models import save_gpt2
from tests.modeling_vidcap.test_backbones import SIDE, TINY, captioner, inputs_of, save_backbone, train_two_steps
from tests.modeling_vidcap.test_pretrained_decoders import captioner as language_captioner
from tests.modeling_vidcap.test_pretrained_decoders import save_language_model
from tests.tiny import tiny_clip, tiny_config, tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.inference.backends import use_fast_backbone
from vidcap.training import model as training_model
from vidcap.training.arguments.model_arguments import ModelArguments
from vidcap.training.lora import add_lora
from vidcap.training.model import continue_from

LABELS = torch.tensor([[4, 9, 2, 1], [7, 1, -100, -100]])


@pytest.mark.parametrize("family", ["s3d", "videomae", "vjepa2", "vivit", "timesformer"])
@torch.no_grad()
def test_clip_encoders_caption_with_a_fast_backbone(family: str, tmp_path: Path) -> None:
    model = captioner(family if family == "s3d" else save_backbone(family, tmp_path))
    inputs = inputs_of(model)
    before = model.model.encoder.extract_features(inputs["pixel_values_videos"])
    use_fast_backbone(model, tiny_processor(num_frames=model.config.num_frames))
    after = model.model.encoder.extract_features(inputs["pixel_values_videos"])
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["vit", "resnet", "videomae"])
def test_a_backbone_that_is_stored_in_half_precision_is_trained_in_full(family, dtype, tmp_path: Path) -> None:
    source = save_backbone(family, tmp_path)
    AutoModel.from_pretrained(source).to(dtype).save_pretrained(source)
    assert AutoConfig.from_pretrained(source).dtype == dtype
    model = captioner(source, frozen=False)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert train_two_steps(model)
    model.save_pretrained(tmp_path / "captioner")
    again = AutoModel.from_pretrained(tmp_path / "captioner")
    assert {each.dtype for each in again.parameters()} == {torch.float32}
    half = AutoModel.from_pretrained(tmp_path / "captioner", dtype=torch.bfloat16)
    assert {each.dtype for each in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("kind", "fusion"), [("gpt2", "cross_attention"), ("llama", "joint"), ("qwen3", "joint")])
def test_a_decoder_that_is_stored_in_half_precision_is_trained_in_full(kind, fusion, tmp_path: Path) -> None:
    source = save_language_model(tmp_path / "lm", kind)
    AutoModelForCausalLM.from_pretrained(source).to(torch.bfloat16).save_pretrained(source)
    model, said, _ = language_captioner(source, fusion)
    assert "weights loaded" in said and {each.dtype for each in model.parameters()} == {torch.float32}
    inputs = dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)], return_tensors="pt"))
    model.train()(**inputs, labels=LABELS).loss.backward()


def timm_folder(folder: Path, architecture: str) -> str:
    """A folder in timm's own form, which names mean, deviation and size in `config.json`."""
    folder.mkdir()
    timm.models.save_for_hf(timm.create_model(architecture), folder, model_config={}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]  # which repositories of timm do not have
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_frames_are_normalised_as_timm_and_processors_say(tmp_path: Path) -> None:
    resnet = load_backbone(timm_folder(tmp_path / "timm", "resnet10t.c3_in1k"))
    assert list(resnet.pixel_mean) == pytest.approx([0.485, 0.456, 0.406])
    assert list(resnet.pixel_std) == pytest.approx([0.229, 0.224, 0.225])
    assert resnet.image_size is None and "no image processor" not in resnet.description
    source = Path(save_backbone("resnet", tmp_path))
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": SIDE}}
    (source / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False}))
    plain = load_backbone(str(source))
    assert list(plain.pixel_mean) == [0, 0, 0] and list(plain.pixel_std) == [1, 1, 1]


def test_sizes_and_numbers_of_frames_that_a_network_takes_can_be_chosen(tmp_path: Path) -> None:
    vit = load_backbone(timm_folder(tmp_path / "timm", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"))
    assert vit.image_size == 224 and vit.fixed == ("image_size",)
    assert load_backbone(save_backbone("vit", tmp_path)).fixed == ("image_size",)
    # DINOv2 interpolates its positions; its processor asks for fewer pixels than its config has positions for.
    source = save_backbone("dinov2", tmp_path, image_size=64)
    processor = {"image_processor_type": "BitImageProcessor", "crop_size": {"height": SIDE, "width": SIDE}}
    Path(source, "preprocessor_config.json").write_text(json.dumps(processor))
    dino = load_backbone(source)
    assert dino.image_size == SIDE and not dino.fixed
    # V-JEPA 2 takes any even number of frames, VideoMAE those that it has positions for.
    jepa = load_backbone(save_backbone("vjepa2", tmp_path), grid=2)
    assert jepa.num_frames == 4 and "num_frames" not in jepa.fixed
    assert tiny_config(**jepa.settings, num_frames=8).num_frames == 8
    assert "num_frames" in load_backbone(save_backbone("videomae", tmp_path)).fixed


def test_what_hides_patches_or_reads_no_frames_is_refused(tmp_path: Path) -> None:
    decoder = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    config = AutoConfig.for_model("vit_mae", **TINY, **decoder, decoder_intermediate_size=16)
    config.save_pretrained(tmp_path / "mae")
    with pytest.raises(ValueError, match="vit_mae hides patches"):
        load_backbone(str(tmp_path / "mae"))
    bert = AutoConfig.for_model("bert", **{name: value for name, value in TINY.items() if "size" not in name})
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert cannot read frames"):
        load_backbone(str(tmp_path / "bert"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change(folder / "config.json", intermediate_size=48), "mismatched keys: layers.0.mlp"),
        (lambda folder: change(folder / "config.json", num_hidden_layers=3), "missing keys: "),
        (lambda folder: change(folder / "config.json", hidden_size="x"), "hidden_size"),
        (lambda folder: truncate(folder / "model.safetensors"), ""),
    ],
)
def test_damaged_folders_are_one_line_that_names_them(damage, message: str, tmp_path: Path, capfd) -> None:
    source = Path(save_backbone("vit", tmp_path))
    damage(source)
    with pytest.raises(ValueError, match=f"^{source}: .*{message}") as error:
        load_backbone(str(source))
    assert "\n" not in str(error.value) and "above" not in str(error.value)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_decoders_and_tokenizers_are_named(tmp_path: Path) -> None:
    source = Path(save_language_model(tmp_path / "lm", "gpt2"))
    truncate(source / "tokenizer.json")
    with pytest.raises(ValueError, match=f"^{source}: "):
        load_tokenizer(str(source))
    change(source / "config.json", n_inner=48)
    with pytest.raises(ValueError, match=f"^{source}: .*gpt2, mismatched keys: "):
        load_language_model(str(source), fusion="joint", vocab_size=99)


@pytest.mark.parametrize(
    "doubled", [{"pad": "<unk>"}, {"pad": "<s>"}, {"pad": "</s>", "unk": "<s>"}, {"pad": "<unk>", "bos": "</s>"}]
)
def test_four_uses_have_four_tokens(doubled: dict[str, str], tmp_path: Path) -> None:
    source = Path(save_gpt2(tmp_path / "gpt2"))
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    tokens |= {f"{name}_token": token for name, token in doubled.items()}
    change(source / "tokenizer_config.json", **tokens)
    found = load_tokenizer(str(source))
    ids = {name: getattr(found, f"{name}_token_id") for name in ("pad", "bos", "eos", "unk")}
    assert None not in ids.values() and len(set(ids.values())) == 4
    assert found.eos_token == "</s>"
    for name in ("unk_token_id", "decoder_start_token_id"):
        with pytest.raises(ValueError, match="unk_token_id"):
            tiny_config(pad_token_id=5, **{name: 5})


def test_what_is_frozen_can_be_changed_when_training_goes_on(tmp_path: Path, capsys) -> None:
    data, model = tmp_path / "clips", tmp_path / "model"
    generate_demo_data(data, train=8, validation=2, test=0, size=32)
    common = f"--dataset {data} --feature_cache {tmp_path / 'cache'} --max_steps 2 --disable_tqdm True".split()
    sizes = "--num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 --encoder_layers 1".split()
    backbone = ["--backbone", save_backbone("vit", tmp_path)]
    assert train_hf.main([*common, *sizes, *backbone, "--output_dir", str(model)]) == 0
    before = AutoModel.from_pretrained(model)
    assert before.config.freeze_backbone
    go_on = [*common, "--model_name_or_path", str(model), "--lora", "backbone"]
    assert train_hf.main([*go_on, "--output_dir", str(tmp_path / "no")]) == 1
    assert "add --freeze_backbone False" in capsys.readouterr().err
    assert train_hf.main([*go_on, "--freeze_backbone", "False", "--output_dir", str(tmp_path / "m2")]) == 0
    after = AutoModel.from_pretrained(tmp_path / "m2")
    assert not after.config.freeze_backbone
    pairs = zip(before.backbone.parameters(), after.backbone.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_whatever_stages_were_trained_all_or_nothing_can_be(tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(training_model.logger, "info", said.append)
    given = {"trained_backbone_stages": 1, "freeze_backbone": False}
    loaded = load_backbone(save_backbone("vit", tmp_path), grid=2, frozen=False, trained_stages=1)
    tiny_model(**(loaded.settings | given)).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")

    def trained(**freezing: Any) -> int:
        arguments = ModelArguments(model_name_or_path=str(tmp_path / "model"), **freezing)
        model = continue_from(arguments, ["a cat"], {"model_name_or_path", *freezing}).model
        return sum(each.requires_grad for each in model.backbone.parameters())

    assert trained(freeze_backbone=True) == 0 < trained() < trained(freeze_backbone=False)
    states = [line.split("own, ")[1] for line in said if line.startswith("backbone: ")]
    assert states == ["frozen", "last 1 stages trained", "trained"]


def test_low_rank_matrices_go_to_all_of_a_backbone() -> None:
    model = tiny_model()
    model.config.trained_backbone_stages = 1
    with pytest.raises(ValueError, match="--trained_backbone_stages"):
        add_lora(model, ["backbone"], rank=2)


def test_a_frozen_decoder_takes_no_low_rank_matrices(tmp_path: Path, capsys) -> None:
    generate_demo_data(tmp_path / "clips", train=8, validation=2, test=0, size=32)
    decoder = save_language_model(tmp_path / "lm", "llama")
    command = (
        f"--dataset {tmp_path / 'clips'} --output_dir {tmp_path / 'm'} --backbone cnn --image_size 32 --num_frames 4"
    )
    command += f" --decoder {decoder} --fusion joint --freeze_decoder True --lora decoder --max_caption_length 12"
    assert train_hf.main([*command.split(), "--hidden_size", "32", "--num_attention_heads", "2"]) == 1
    assert "--lora decoder trains what --freeze_decoder" in capsys.readouterr().err
    command = command.replace(decoder, save_backbone("vit", tmp_path))
    assert train_hf.main([*command.split(), "--hidden_size", "32", "--num_attention_heads", "2"]) == 1
    assert "is a model of type vit" in capsys.readouterr().err
