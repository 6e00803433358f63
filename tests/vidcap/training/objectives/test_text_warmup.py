"""Text-only warm-up: the decoder learns sentences, nothing else changes, and unfit corpora are refused."""

import logging

import pytest
import torch

from modeling_vidcap.encoder_vidcap import VideoEncoderOutput
from tests.tiny import tiny_model, tiny_processor
from vidcap.training.objectives.text_warmup import read_corpus, warm_up_text

CORPUS = (
    "a red circle grows and then spins",
    "a blue square slides left and then right",
    "the large cat jumps over the small dog",
    "the dog sleeps and then runs fast",
    "a green star blinks slowly",
)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def log_probabilities(model, processor, text: str) -> torch.Tensor:
    """Of each token of a sentence and of its end, without any video."""
    labels = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    nothing = VideoEncoderOutput(torch.zeros(1, 1, model.config.hidden_size), torch.ones(1, 1), torch.zeros(1, 1))
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    with torch.no_grad():
        logits = model(encoder_outputs=nothing, decoder_input_ids=inputs).logits
    return logits.log_softmax(dim=-1).gather(-1, labels[..., None]).flatten()


@pytest.mark.parametrize("tie", [True, False])
def test_sentences_are_learnt_and_the_encoder_stays(processor, caplog, tie):
    model = tiny_model(initializer_range=0.05, word_dropout=0.3, tie_word_embeddings=tie)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO):
        last = warm_up_text(model, processor, CORPUS, steps=150, batch_size=3, learning_rate=1e-2)
    first, final = map(float, caplog.messages[-1].rpartition(" loss ")[2].split(" -> "))
    assert final == pytest.approx(last, abs=1e-3) and last < 0.7 * first
    for text in CORPUS:
        words = text.split()
        shuffled = " ".join(words[i] for i in torch.randperm(len(words)))
        assert shuffled != text
        true, false = (log_probabilities(model, processor, each).sum() for each in (text, shuffled))
        assert true > false + 5, (text, shuffled)
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    read = {name for name in before if name.startswith(("model.decoder.", "lm_head")) and "summary" not in name}
    assert changed == {name for name in read if not ("cross_attn" in name or ".text_norm" in name)}
    assert not model.training and all(each.grad is None for each in model.parameters())


def test_equal_seeds_give_equal_weights(processor):
    models = [tiny_model(), tiny_model()]
    for model in models:
        torch.manual_seed(1)
        warm_up_text(model, processor, CORPUS, steps=5, batch_size=2)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_unknown_token_is_not_taught(processor):
    model = tiny_model(initializer_range=0.05, word_dropout=0.0)
    warm_up_text(model, processor, ["a zebra grows slowly"], steps=60, learning_rate=1e-2)
    a, zebra, *others = log_probabilities(model, processor, "a zebra grows slowly").exp().tolist()
    assert min(a, *others) > 0.8 and zebra < 0.2


def test_a_corpus_is_read_line_by_line(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\ufeffa cat runs\r\n\n  ein Hündchen schläft  \n".encode())
    assert read_corpus(path) == ["a cat runs", "ein Hündchen schläft"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", r" holds no text \(3 bytes\)"),
        (b"", r" holds no text \(0 bytes\)"),
        (b"a cat\0\1", r" holds no text \(7 bytes\)"),
        (b"a cat \xff\xfe", ": byte 6 is not UTF-8"),
    ],
)
def test_files_that_are_no_corpus_are_refused(tmp_path, content, message):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"corpus.txt{message}.*one sentence per line"):
        read_corpus(path)


def test_missing_corpus_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="corpus.txt"):
        read_corpus(tmp_path / "corpus.txt")


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (CORPUS, {"steps": 0}, "steps must be above 0, got 0"),
        (CORPUS, {"batch_size": -1}, "batch_size must be above 0, got -1"),
        (CORPUS, {"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ([], {}, "sentences must be above 0, got 0"),
        ([*CORPUS, "dog " * 9, "cat " * 99], {}, "2 of 7 sentences .* longer than 9 tokens.*'dog dog .*max_caption"),
        (["eine Katze rennt", "zwei Hunde"], {}, "lacks 71% of the corpus's words"),
    ],
)
def test_what_cannot_be_learnt_is_refused(processor, texts, options, message):
    model = tiny_model(max_position_embeddings=9)
    with pytest.raises(ValueError, match=message):
        warm_up_text(model, processor, texts, **{"steps": 1, **options})
