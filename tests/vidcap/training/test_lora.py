"""Low-rank matrices beside pretrained weights: what is trained, what is left at the end, what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, ViTConfig, ViTModel

import train_hf
from modeling_vidcap.pretrained_decoder_vidcap import CROSS_ATTENTION
from tests.modeling_vidcap.test_pretrained_decoders import LABELS, captioner, save_language_model
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training import lora
from vidcap.training.lora import add_lora, merge_lora


def step(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.5)
    for _ in range(2):  # the first only moves one of the two matrices, whose product was zero
        optimizer.zero_grad()
        model.train()(**inputs, labels=LABELS).loss.backward()
        optimizer.step()
    model.eval()


def test_only_low_rank_matrices_and_new_attention_are_trained_and_then_added(tmp_path: Path) -> None:
    source = save_language_model(tmp_path / "lm", "gpt2")
    model, _, _ = captioner(source, "cross_attention")
    names = set(model.state_dict())
    inputs = dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)], return_tensors="pt"))
    before = model.eval()(**inputs, labels=LABELS).logits
    adapters = add_lora(model, ["decoder"], rank=2)
    torch.testing.assert_close(model(**inputs, labels=LABELS).logits, before)  # nothing is added at first
    net = model.model.decoder.net
    trained = {name for name, each in net.named_parameters() if each.requires_grad}
    assert any("h.0.attn.c_attn.lora_A" in name for name in trained)
    assert all("lora_" in name or any(part in name for part in CROSS_ATTENTION) for name in trained)
    assert not any("lora_" in name and any(part in name for part in CROSS_ATTENTION) for name in trained)
    kept = net.h[0].attn.c_attn.base_layer.weight.clone()
    step(model, inputs)
    assert torch.equal(net.h[0].attn.c_attn.base_layer.weight, kept)
    after = model(**inputs, labels=LABELS).logits
    merge_lora(adapters)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(**inputs, labels=LABELS).logits, after, rtol=1e-4, atol=1e-4)
    added = net.h[0].attn.c_attn.weight - kept
    assert torch.linalg.matrix_rank(added, rtol=1e-3) == 2
    model.save_pretrained(tmp_path / "model")
    again = AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again(**inputs, labels=LABELS).logits, model(**inputs, labels=LABELS).logits)


def test_what_has_no_place_for_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    for parts, rank, message in (
        (["encoder"], 8, "--lora encoder must be one of backbone, decoder"),
        (["decoder"], 8, "--lora decoder needs"),
        (["backbone"], 0, "--lora_rank 0 must be at least 1"),
        (["backbone"], 8, "--lora backbone: FrameCNN has no linear layers"),
    ):
        with pytest.raises(ValueError, match=message):
            add_lora(model, parts, rank=rank)
    with pytest.raises(ValueError, match="--lora backbone needs .* add --freeze_backbone False"):
        add_lora(tiny_model(freeze_backbone=True), ["backbone"], rank=8)
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--lora needs peft; run: pip install 'vidcap\[lora\]'"):
        add_lora(model, ["backbone"], rank=8)
    assert add_lora(model, [], rank=8) == []  # peft is not asked for by those who do without


def test_training_both_parts(tmp_path: Path) -> None:
    generate_demo_data(tmp_path / "clips", train=8, validation=2, test=2, size=32)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path / "vit")
    source = save_language_model(tmp_path / "lm", "llama")
    small = "--hidden_size 32 --num_attention_heads 2 --num_frames 4 --max_steps 2 --encoder_layers 1 --fusion joint "
    small += "--decoding_workers 1 --per_device_train_batch_size 4 --max_caption_length 24 --learning_rate 1e-2 "
    small += "--freeze_backbone False --lora decoder backbone --lora_rank 2 --decoder_learning_rate 1e-2"
    arguments = ["--dataset", str(tmp_path / "clips"), "--feature_cache", str(tmp_path / "cache"), *small.split()]
    arguments += ["--decoder", source, "--backbone", str(tmp_path / "vit"), "--output_dir", str(tmp_path / "model")]
    assert train_hf.main(arguments) == 0
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert not any("lora" in name for name in model.state_dict())
    for found, original in (
        (model.model.decoder.net, AutoModel.from_pretrained(source)),
        (model.backbone.net, ViTModel.from_pretrained(tmp_path / "vit")),
    ):
        weights, ranks = dict(found.named_parameters()), set()
        for name, value in original.named_parameters():
            if name in weights and value.shape == weights[name].shape and value.ndim == 2:
                ranks.add(int(torch.linalg.matrix_rank(weights[name] - value, rtol=1e-3)))
        assert max(ranks) in (1, 2), ranks  # moved, by no more than the rank
