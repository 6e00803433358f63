"""The decoder learns to write sentences before it sees a video.

What it promises: only the decoder is trained, without its cross-attention to the video; the encoder stays as it is.
What it gives up: words that the tokenizer does not know.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import get_cosine_schedule_with_warmup

from modeling_vidcap.encoder_vidcap import VideoEncoderOutput
from modeling_vidcap.losses_vidcap import caption_loss
from processing.support.progress import track

logger = logging.getLogger(__name__)
WARMUP = 0.05  # share of the steps in which the learning rate rises
MAX_UNKNOWN = 0.3  # share of a corpus's tokens; beyond it is another language, or another subject


def read_corpus(path: str | Path) -> list[str]:
    """The sentences of a UTF-8 file, one a line; a `ValueError` if it is binary, or all its lines are blank."""
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; give a text file, one sentence a line") from error
    texts = [line.strip() for line in text.split("\n") if line.strip()]
    if not texts or "\0" in text:
        raise ValueError(f"{path} holds no text ({len(content):,} bytes); give a text file, one sentence a line")
    return texts


def warm_up_text(
    model: Any, processor: Any, texts: Sequence[str], *, steps: int, batch_size: int = 64, learning_rate: float = 3e-4
) -> float:
    """Trains the decoder on sentences alone (AdamW, linear warm-up, cosine to zero) and returns the last batch's loss.

    One token of zeros stands in for a clip; attention to it could only learn a constant and is not trained. Words are
    dropped from the input as in training with clips: a decoder that may lean on every word before would bring along
    the very prior that `word_dropout` is to weaken. Unknown words are read, but are no labels. Batches are drawn by
    torch's global generator, so that ranks of one seed stay equal.

    Args:
        model: The captioner, on its device; its mode is left as it was.
        texts: Sentences of at most `max_position_embeddings` tokens, gone through as often as it takes.
        steps, batch_size, learning_rate: The number of batches, the sentences of each, and the highest rate.

    Raises:
        ValueError: If one of these is not positive, or the texts do not suit the model and its tokenizer.
    """
    given = {"sentences": len(texts), "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"text warm-up: {name} must be above 0, got {value}")
    _check(texts, processor.tokenizer, model.config)
    decoder = [each for name, each in model.get_decoder().named_parameters() if "cross_attn" not in name]
    head = [each for name, each in model.named_parameters() if name.startswith(("lm_head.", "head_projection."))]
    parameters = list(dict.fromkeys([*decoder, *head]))  # a tied head is among them already
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
    losses, training = [], model.training
    model.train()
    for batch in track(_batches(texts, batch_size, steps), "text warm-up", steps, unit="batch"):
        tokens = processor.tokenizer(batch, padding=True, return_tensors="pt").to(model.device)
        loss = _text_loss(model, tokens["input_ids"], tokens["attention_mask"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        losses.append(loss.item())
    model.train(training)
    logger.info(f"text warm-up: {len(texts):,} sentences, {steps:,} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses[-1]


def _check(texts: Sequence[str], tokenizer: Any, config: Any) -> None:
    limit, lengths, unknown = config.max_position_embeddings, [], 0
    for start in range(0, len(texts), 1000):  # encodings take far more memory than their text
        encoded = tokenizer(list(texts[start : start + 1000]), verbose=False)["input_ids"]
        lengths += [len(ids) for ids in encoded]
        unknown += sum(ids.count(config.unk_token_id) for ids in encoded)
    if long := [index for index, length in enumerate(lengths) if length > limit]:
        raise ValueError(
            f"{len(long):,} of {len(texts):,} sentences of the corpus are longer than {limit} tokens, "
            f"{texts[long[0]][:40]!r} for one: leave them out, or raise --max_caption_length"
        )
    if (share := unknown / sum(lengths)) > MAX_UNKNOWN:
        raise ValueError(f"the tokenizer lacks {share:.0%} of the corpus's words: make it of the corpus too")


def _text_loss(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(len(ids), 1, model.config.hidden_size, device=ids.device)  # (B, 1, D)
    ones = mask.new_ones(len(ids), 1)
    no_video = VideoEncoderOutput(last_hidden_state=zeros, attention_mask=ones, token_times=zeros[..., 0])
    inputs = model.prepare_decoder_input_ids_from_labels(ids)
    # Given labels, the model would compare sentences with videos.
    logits = model(encoder_outputs=no_video, decoder_input_ids=inputs, use_cache=False).logits
    labels = ids.masked_fill((mask == 0) | (ids == model.config.unk_token_id), -100)
    return caption_loss(logits, labels, label_smoothing=model.config.label_smoothing)


def _batches(texts: Sequence[str], size: int, count: int) -> Iterator[list[str]]:
    orders = (torch.randperm(len(texts)) for _ in itertools.count())
    for indices in itertools.islice((part for order in orders for part in order.split(size)), count):
        yield [texts[index] for index in indices.tolist()]
