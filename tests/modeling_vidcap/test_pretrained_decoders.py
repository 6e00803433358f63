"""Language models as decoders: each family with tiny random weights trains, is saved, loads and writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import train_hf
from hub_card.exporter import export_model, verify_export
from modeling_vidcap.pretrained.text import load_language_model
from modeling_vidcap.pretrained_decoder_vidcap import CROSS_ATTENTION, pretrained_parameters
from modeling_vidcap.settings_vidcap import DECODERS
from processing.clips.tokenizers import load_tokenizer
from tests.tiny import WORDS, tiny_clip, tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.optimization.optimizers import MuonAdamW
from vidcap.training.trainer import VideoCaptionTrainer

END = len(WORDS)  # the id of its end; three tokens are added behind it
FUSIONS = [("gpt2", "cross_attention"), *((kind, "joint") for kind in DECODERS)]


def save_language_model(folder: Path, kind: str, **changes: Any) -> str:
    """Two layers of width 24; one token serves as begin, end and unknown."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, "<|endoftext|>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    end = {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **end).save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 90}
    sizes |= {"bos_token_id": END, "eos_token_id": END, "tie_word_embeddings": True, "initializer_range": 0.3}
    if kind == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 90, "initializer_range": 0.3}
    config = AutoConfig.for_model(kind, vocab_size=len(vocabulary), **(sizes | changes))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def captioner(source: str, fusion: str, changes: dict[str, Any] | None = None) -> Any:
    """A tiny captioner with that decoder; padding, begin and unknown are new tokens."""
    tokenizer = load_tokenizer(source)
    loaded = load_language_model(source, fusion=fusion, vocab_size=len(tokenizer))
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")}
    settings = {**loaded.settings, "fusion": fusion, "decoder_start_token_id": tokenizer.bos_token_id, **ids}
    model = tiny_model(**(settings | {"word_dropout": 0.0} | (changes or {})))
    return model, loaded.fill(model), loaded


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """The second clip has fewer frames, so that there is something to mask."""
    return dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1, frames=2)], return_tensors="pt"))


LABELS = torch.tensor([[4, 9, 2, END], [7, END, -100, -100]])


@pytest.mark.parametrize(("kind", "fusion"), FUSIONS)
def test_it_trains_saves_loads_and_writes_the_same_with_and_without_cache(kind, fusion, tmp_path, inputs) -> None:
    source = save_language_model(tmp_path / "lm", kind)
    model, said, loaded = captioner(source, fusion)
    assert "weights loaded" in said and "3 tokens added" in said and said.endswith("trained")
    original = AutoModelForCausalLM.from_pretrained(source)
    table = original.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: len(table)], table)
    assert model.lm_head.weight is model.get_input_embeddings().weight

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(2):
        loss = model(**inputs, labels=LABELS).loss
        loss.backward()
        optimizer.step()
        without = [name for name, each in model.named_parameters() if each.grad is None and each.requires_grad]
        assert not [name for name in without if "decoder" in name]
        optimizer.zero_grad()
    model.eval().save_pretrained(tmp_path / "model")
    again = AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again(**inputs, labels=LABELS).logits, model(**inputs, labels=LABELS).logits)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    for search in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "similarity_weight": 0.5}):
        options = {"max_new_tokens": 6, "do_sample": False, **search}
        written = again.generate(**inputs, **options)
        assert torch.equal(written, again.generate(**inputs, **options, use_cache=False))


@pytest.mark.parametrize(("kind", "fusion"), FUSIONS)
@torch.no_grad()
def test_frames_and_words_that_only_fill_up_change_nothing(kind, fusion, tmp_path, inputs) -> None:
    model, _, _ = captioner(save_language_model(tmp_path / "lm", kind), fusion)
    logits = model(**inputs, labels=LABELS).logits
    alone = {name: value[1:, :2] for name, value in inputs.items()}  # without the frames that fill up
    torch.testing.assert_close(model(**alone, labels=LABELS[1:, :2]).logits, logits[1:, :2], rtol=1e-4, atol=1e-5)
    other = inputs | {
        "pixel_values_videos": inputs["pixel_values_videos"].flip(0),
        "video_mask": torch.ones(2, 4).long(),
    }
    assert not torch.allclose(model(**other, labels=LABELS).logits, logits, atol=1e-3)  # it does look at the clip
    texts, mask = torch.tensor([[4, 9, END, 0, 0], [4, 9, 2, 5, END]]), torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    both = model.get_text_features(texts, mask)
    torch.testing.assert_close(model.get_text_features(texts[:1, :3], mask[:1, :3]), both[:1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_it_says_of_text_alone_is_what_the_language_model_says(tmp_path) -> None:
    """Behind video tokens that are masked, a caption is read as the language model itself reads it."""
    source = save_language_model(tmp_path / "lm", "llama")
    model, _, _ = captioner(source, "joint")
    encoded = model.get_encoder()(**tiny_processor()(videos=[tiny_clip(0)], return_tensors="pt"))
    encoded.attention_mask = torch.zeros_like(encoded.attention_mask)
    ids = torch.tensor([[3, 8, 1]])
    logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits[..., : END + 1]
    torch.testing.assert_close(logits, AutoModelForCausalLM.from_pretrained(source)(ids).logits, rtol=1e-4, atol=1e-5)


def test_an_output_of_its_own_is_kept(tmp_path, inputs) -> None:
    source = save_language_model(tmp_path / "lm", "qwen2", tie_word_embeddings=False)
    model, _, _ = captioner(source, "joint")
    head = AutoModelForCausalLM.from_pretrained(source).lm_head.weight
    assert torch.equal(model.lm_head.weight[: len(head)], head)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "model")
    again, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert torch.equal(again(**inputs, labels=LABELS).logits, model(**inputs, labels=LABELS).logits)


def test_frozen_is_all_but_the_new_attention_after_loading_too(tmp_path, inputs) -> None:
    model, said, _ = captioner(
        save_language_model(tmp_path / "lm", "gpt2"), "cross_attention", {"freeze_decoder": True}
    )
    assert said.endswith("frozen") and "cross-attention random" in said
    model.save_pretrained(tmp_path / "model")
    for each in (model, AutoModel.from_pretrained(tmp_path / "model")):
        trained = {name for name, p in each.model.decoder.net.named_parameters() if p.requires_grad}
        assert trained and all(any(part in name for part in CROSS_ATTENTION) for name in trained)
        assert not any(p.requires_grad for p in pretrained_parameters(each.model.decoder))
        each.train()(**inputs, labels=LABELS).loss.backward()
        assert each.model.decoder.video_projection.weight.grad is not None
        assert each.model.decoder.net.h[0].attn.c_attn.weight.grad is None
    arguments = VideoCaptionTrainingArguments(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, muon=True, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, decoder_learning_rate=1e-4,
    )  # fmt: skip
    whole, _, _ = captioner(str(tmp_path / "lm"), "cross_attention")
    trainer = VideoCaptionTrainer(model=whole, args=arguments, score=dict, score_clips=dict)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonAdamW)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_muon = {id(p) for group in optimizer.parts[0].param_groups for p in group["params"]}
    brought = pretrained_parameters(whole.model.decoder)
    assert {rates[id(p)] for p in brought} == {1e-4} and not by_muon & {id(p) for p in brought}
    new = dict(whole.named_parameters())["model.decoder.net.h.0.crossattention.c_attn.weight"]
    assert rates[id(new)] == 2e-3 and id(new) in by_muon


def test_a_folder_of_it_loads_without_this_package(tmp_path) -> None:
    source = save_language_model(tmp_path / "lm", "gpt2")
    model, _, _ = captioner(source, "cross_attention")
    processor = tiny_processor()
    processor.tokenizer = load_tokenizer(source)
    export_model(model, processor, tmp_path / "export")
    verify_export(tmp_path / "export")


@pytest.mark.parametrize(
    ("kind", "fusion", "changes", "message"),
    [
        ("llama", "cross_attention", {}, "llama has no cross-attention"),
        ("bert", "joint", {}, "type bert.*gpt2, llama, qwen2, qwen3"),
    ],
)
def test_models_that_cannot_serve_are_refused_by_name(kind, fusion, changes, message, tmp_path) -> None:
    source = save_language_model(tmp_path / "lm", kind, **changes)
    with pytest.raises(ValueError, match=message):
        load_language_model(source, fusion=fusion, vocab_size=34)


def test_configurations_that_cannot_work_are_refused(tmp_path) -> None:
    source = save_language_model(tmp_path / "lm", "gpt2")
    for changes, message in (
        ({"max_position_embeddings": 90}, "91 positions.*90"),
        ({"vocab_size": 40}, "`vocab_size`.*34.*40"),
        ({"masked_word_weight": 0.5}, "sees no words ahead"),
        ({"fusion": "joint"}, "`fusion` 'joint'.*`add_cross_attention` False"),
    ):
        with pytest.raises(ValueError, match=message):
            captioner(source, "cross_attention", changes)
    with pytest.raises(ValueError, match="`freeze_decoder`"):
        tiny_model(freeze_decoder=True)
    weights = AutoModelForCausalLM.from_pretrained(source)
    kept = {name: value for name, value in weights.state_dict().items() if "h.1." not in name}
    weights.save_pretrained(tmp_path / "lm", state_dict=kept)
    with pytest.raises(ValueError, match=r"gpt2, missing keys: transformer.h.1"):
        load_language_model(source, fusion="cross_attention", vocab_size=34)


def test_training_with_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    generate_demo_data(tmp_path / "clips", train=8, validation=2, test=2, size=32)
    small = "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --num_attention_heads 2 --max_steps 2 "
    small += "--encoder_layers 1 --decoding_workers 1 --per_device_train_batch_size 4 --max_caption_length 24"
    arguments = ["--dataset", str(tmp_path / "clips"), "--feature_cache", str(tmp_path / "cache"), *small.split()]
    source = save_language_model(tmp_path / "lm", "llama")
    options = ["--decoder", source, "--output_dir", str(tmp_path / "model")]
    assert train_hf.main([*arguments, *options]) == 1
    assert "llama has no cross-attention" in capsys.readouterr().err
    assert train_hf.main([*arguments, *options, "--fusion", "joint", "--freeze_decoder", "True"]) == 0
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "model"), AutoTokenizer.from_pretrained(tmp_path / "model")
    original = AutoModel.from_pretrained(source)
    assert torch.equal(model.model.decoder.net.layers[0].mlp.up_proj.weight, original.layers[0].mlp.up_proj.weight)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 4
    assert str(tmp_path) not in (tmp_path / "model" / "report.json").read_text()
    assert train_hf.main([*arguments, *options, "--fusion", "joint", "--text_layers", "2"]) == 1
    assert "--text_layers is fixed by a pretrained --decoder" in capsys.readouterr().err
