"""Tokenizers and word embeddings of pretrained text models: four tokens that differ, whatever the model came with."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
)

import train_hf
from modeling_vidcap.pretrained.text import fill_embeddings, load_embeddings
from processing.clips.tokenizers import load_tokenizer
from tests.tiny import WORDS, tiny_clip, tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data

CAPTION = "a red circle grows"


def save_bert(folder: Path) -> str:
    """As BERT: [CLS] text [SEP], a [PAD] of its own, no bos and no eos."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names).save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return str(folder)


def save_gpt2(folder: Path) -> str:
    """As GPT-2: one token for begin, end and unknown, none to fill up."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({each: index for index, each in enumerate([*alphabet, "<|endoftext|>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **end).save_pretrained(folder)
    GPT2Model(GPT2Config(vocab_size=257, n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("save", [save_bert, save_gpt2])
def test_a_caption_is_its_tokens_and_an_end_of_its_own(save, tmp_path: Path) -> None:
    original = AutoTokenizer.from_pretrained(save(tmp_path / "model"))
    tokenizer = load_tokenizer(str(tmp_path / "model"), max_length=20)
    for _ in range(2):  # as made, and as loaded
        names = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
        ids = {name: getattr(tokenizer, name) for name in names}
        assert len(set(ids.values())) == 4 and None not in ids.values()
        tokens = tokenizer(CAPTION)["input_ids"]
        assert tokens == [*original(CAPTION, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == CAPTION
        tokenizer.save_pretrained(tmp_path / "again")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "again")
    kept = {name for name in ids if ids[name] < len(original)}
    assert kept == ({*ids} if save is save_bert else {"eos_token_id"})  # the others are new tokens


@pytest.mark.parametrize("frozen", [True, False])
def test_words_have_the_embeddings_of_the_text_model(frozen: bool, tmp_path: Path) -> None:
    table = load_embeddings(save_bert(tmp_path / "bert"))
    size = {"vocab_size": len(table) + 2, "embedding_size": table.shape[1], "freeze_embeddings": frozen}
    model = tiny_model(**size, word_dropout=0.0)
    said = fill_embeddings(model, table)
    assert "2 tokens added" in said and said.endswith("frozen" if frozen else "trained")
    embeddings = model.model.decoder.embed_tokens.weight
    assert torch.equal(embeddings[:-2], table) and model.lm_head.weight is embeddings

    inputs = tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)])
    labels = torch.tensor([[6, 9, 3], [7, 3, -100]])
    model.save_pretrained(tmp_path / "model")
    for each in (model, AutoModel.from_pretrained(tmp_path / "model")):  # frozen after loading, too
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1)
        each.train()(**inputs, labels=labels).loss.backward()
        optimizer.step()
        assert torch.equal(each.model.decoder.embed_tokens.weight[:-2], table) is frozen
        assert each.head_projection.weight.grad is not None
        assert each.model.decoder.embedding_projection.weight.grad is not None
    model.eval()
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(tokens, model.generate(**inputs, max_new_tokens=5, do_sample=False, use_cache=False))


def test_weights_without_the_table_are_refused(tmp_path: Path) -> None:
    source = Path(save_bert(tmp_path / "bert"))
    other = BertModel.from_pretrained(source)
    other.save_pretrained(source, state_dict={k: v for k, v in other.state_dict().items() if "word_emb" not in k})
    with pytest.raises(ValueError, match="embeddings.word_embeddings.weight"):
        load_embeddings(str(source))


def test_training_with_the_words_of_a_text_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    generate_demo_data(tmp_path / "clips", train=8, validation=2, test=2, size=32)
    small = "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --num_attention_heads 2 --max_steps 2 "
    small += "--encoder_layers 1 --multimodal_layers 1 --decoding_workers 1 --per_device_train_batch_size 4"
    arguments = ["--dataset", str(tmp_path / "clips"), "--feature_cache", str(tmp_path / "cache"), *small.split()]
    bert = save_bert(tmp_path / "bert")
    options = ["--text_embeddings", bert, "--freeze_embeddings", "True", "--output_dir", str(tmp_path / "model")]
    assert train_hf.main([*arguments, *options]) == 0
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "model"), AutoTokenizer.from_pretrained(tmp_path / "model")
    table = load_embeddings(bert)
    assert torch.equal(model.model.decoder.embed_tokens.weight[: len(table)], table)
    assert tokenizer.eos_token == "[SEP]" and model.config.eos_token_id == tokenizer.eos_token_id
    assert str(tmp_path) not in (tmp_path / "model" / "report.json").read_text()
    assert train_hf.main([*arguments, *options, "--tokenizer", "other"]) == 1
    assert "leave --tokenizer out" in capsys.readouterr().err
