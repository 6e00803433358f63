"""Text warm-up: the decoder learns to write sentences before it sees a video.

Guarantees: only the decoder is trained, without its cross-attention to the video; the encoder stays as it is.

Limitations: words that the tokenizer does not know are not learnt.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from modeling_vidcap.encoder_vidcap import VideoEncoderOutput
from modeling_vidcap.losses_vidcap import caption_loss
from processing import VideoCaptionProcessor
from processing.support.progress import track

logger = logging.getLogger(__name__)
WARMUP = 0.05  # share of the steps over which the learning rate rises
MAX_UNKNOWN = 0.3  # share of a corpus's tokens; beyond it, language or subject differ from those of the captions


def read_corpus(path: str | Path) -> list[str]:
    """Sentences of a UTF-8 file; a `ValueError` if there are none."""
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; use a text file, one sentence per line") from error
    texts = [line.strip() for line in text.split("\n") if line.strip()]
    if not texts or "\0" in text:
        raise ValueError(f"{path} holds no text ({len(content):,} bytes); use a text file, one sentence per line")
    return texts


def warm_up_text(
    model: VideoCaptionForConditionalGeneration,
    processor: VideoCaptionProcessor,
    texts: Sequence[str],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
) -> float:
    """Train the decoder on sentences alone (AdamW, linear warm-up, cosine to zero).

    One token of zeros stands in for a clip; attention to it could only learn a constant, and is not trained. Input
    words are dropped as in training with clips: otherwise the decoder would learn to lean on every previous word, the
    very prior that `word_dropout` is to weaken. Unknown words are read, but are not labels. Batches are drawn by
    torch's global generator, so that ranks of one seed stay equal.

    Args:
        model: The captioner, on its device; its mode is left as it was.
        texts: Sentences of at most `max_position_embeddings` tokens, repeated as often as needed.
        steps: Number of batches.
        batch_size: Sentences per batch.
        learning_rate: Highest learning rate.

    Returns:
        The loss of the last batch.

    Raises:
        ValueError: If a number is not positive, or the texts do not suit the model and its tokenizer.
    """
    given = {"sentences": len(texts), "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"text warm-up: {name} must be above 0, got {value}")
    _check(texts, processor.tokenizer, model.config)
    decoder = [p for name, p in model.get_decoder().named_parameters() if "cross_attn" not in name]
    head = [p for name, p in model.named_parameters() if name.startswith(("lm_head.", "head_projection."))]
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


def _check(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: VideoCaptionConfig) -> None:
    limit, lengths, unknown = config.max_position_embeddings, [], 0
    for start in range(0, len(texts), 1000):  # encodings take far more memory than text
        encoded = tokenizer(list(texts[start : start + 1000]), verbose=False)["input_ids"]
        lengths += [len(ids) for ids in encoded]
        unknown += sum(ids.count(config.unk_token_id) for ids in encoded)
    if long := [index for index, length in enumerate(lengths) if length > limit]:
        raise ValueError(
            f"{len(long):,} of {len(texts):,} sentences of the corpus are longer than {limit} tokens, such as "
            f"{texts[long[0]][:40]!r}; leave them out, or raise --max_caption_length"
        )
    if (share := unknown / sum(lengths)) > MAX_UNKNOWN:
        raise ValueError(
            f"the tokenizer lacks {share:.0%} of the corpus's words (at most {MAX_UNKNOWN:.0%} are allowed); use a "
            "corpus in the language of the captions, or leave --tokenizer out"
        )


def _text_loss(model: VideoCaptionForConditionalGeneration, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(len(ids), 1, model.config.hidden_size, device=ids.device)  # (B, 1, D)
    ones = mask.new_ones(len(ids), 1)
    no_video = VideoEncoderOutput(last_hidden_state=zeros, attention_mask=ones, token_times=zeros[..., 0])
    inputs = model.prepare_decoder_input_ids_from_labels(ids)
    # With labels, the model would compare sentences with videos.
    logits = model(encoder_outputs=no_video, decoder_input_ids=inputs, use_cache=False).logits
    labels = ids.masked_fill((mask == 0) | (ids == model.config.unk_token_id), -100)
    return caption_loss(logits, labels, label_smoothing=model.config.label_smoothing)


def _batches(texts: Sequence[str], size: int, count: int) -> Iterator[list[str]]:
    orders = (torch.randperm(len(texts)) for _ in itertools.count())
    for indices in itertools.islice((part for order in orders for part in order.split(size)), count):
        yield [texts[index] for index in indices.tolist()]
