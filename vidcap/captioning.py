"""Tensors of many clips -> captions, with their probabilities where wanted, or one vector each, in batches."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from modeling_vidcap.generation_vidcap import Forms, generate_including, repeat_clips
from modeling_vidcap.playback_vidcap import play_backwards
from processing.collator import VideoCaptionCollator


@dataclass
class ScoredCaption:
    """A caption and how sure the model is of it.

    Args:
        text: The caption.
        tokens: Its tokens as text, the end of the sentence included.
        log_probabilities: Natural logarithm of the probability of each, given the clip and the tokens before it. It is
            the model's own, whatever guidance, banned words or temperature made of it in the search.
        novelty: How unlike the training clips the clip is, see `VideoCaptionNovelty`; above 1 the caption is a guess.
            `None` for a model that was saved without this knowledge.
    """

    text: str
    tokens: list[str]
    log_probabilities: list[float]
    novelty: float | None

    @property
    def probabilities(self) -> list[float]:
        """Of each token."""
        return [math.exp(each) for each in self.log_probabilities]

    @property
    def mean_log_probability(self) -> float:
        """The average over the tokens, so that it can be compared between captions of any length and clip."""
        return sum(self.log_probabilities) / max(1, len(self.log_probabilities))


def caption_clips(
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    *,
    batch_size: int = 16,
    backwards: bool = False,
    progress: str | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """Captions clips by `generate`.

    Args:
        clips: Dicts of tensors without a batch axis, as a `ClipDataset` or the processor gives them; read one batch
            at a time.
        backwards: Play each clip from its last frame to its first.
        progress: Text of a progress bar, which is shown on terminals only; none by default.
        generate_kwargs: For `model.generate`; what is not given comes from the model's generation config.
    """

    def caption(inputs: dict[str, torch.Tensor]) -> list[str]:
        tokens = model.generate(**(play_backwards(inputs) if backwards else inputs), **generate_kwargs)
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return map_batches(caption, model, processor, clips, batch_size, progress)


def caption_clips_with_scores(
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    *,
    batch_size: int = 16,
    include: Sequence[Forms] = (),
    **generate_kwargs: Any,
) -> list[list[ScoredCaption]]:
    """As [`caption_clips`], with the probability of every token and the novelty of every clip.

    Args:
        include: Phrases that each caption must hold, see [`generate_including`] and [`token_forms`].

    Returns:
        For each clip its `num_return_sequences` captions, best first: as the search ranks them (by guided probability,
        with the length penalty), samples by their mean log-probability.
    """
    tokenizer = processor.tokenizer
    sampled = generate_kwargs.get("do_sample", model.generation_config.do_sample)

    def caption(inputs: dict[str, torch.Tensor]) -> list[list[ScoredCaption]]:
        if "video_features" not in inputs:  # once for the captions and the novelty
            inputs["video_features"] = model.model.encoder.backbone(inputs.pop("pixel_values_videos").to(model.dtype))
        novelty = model.get_novelty(video_features=inputs["video_features"], video_mask=inputs["video_mask"])
        encoded = model.get_encoder()(**inputs)
        if include:
            sequences = generate_including(model, {"encoder_outputs": encoded}, include, **generate_kwargs)
        else:
            sequences = model.generate(encoder_outputs=repeat_clips(encoded, 1), **generate_kwargs)
        log_probabilities, mask = model.get_token_log_probabilities(sequences, encoded)
        lengths = mask.sum(dim=1).tolist()
        texts = processor.batch_decode(sequences, skip_special_tokens=True)
        clips_in_batch = len(inputs["video_mask"])
        each = len(sequences) // clips_in_batch
        captions = [
            ScoredCaption(
                text=texts[row].strip(),
                tokens=tokenizer.convert_ids_to_tokens(sequences[row, 1 : 1 + length].tolist()),
                log_probabilities=log_probabilities[row, :length].tolist(),
                novelty=None if novelty is None else novelty[row // each].item(),
            )
            for row, length in enumerate(lengths)
        ]
        groups = [captions[i * each : (i + 1) * each] for i in range(clips_in_batch)]
        if sampled:
            groups = [sorted(group, key=lambda one: -one.mean_log_probability) for group in groups]
        return groups

    return map_batches(caption, model, processor, clips, batch_size, None)


def token_forms(tokenizer: Any, text: str) -> list[list[int]]:
    """The ids of `text` at the start of a caption, and within one where a tokenizer counts the space to the word.

    Raises:
        ValueError: If it holds no word, or one that the tokenizer does not know.
    """
    text = " ".join(text.split())

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if unknown := [word for word in text.split() if set(ids(word)) & set(tokenizer.all_special_ids)]:
        raise ValueError(f"this model does not know the word {unknown[0]!r}")
    # Byte-pair tokenizers spell a word differently behind a space; to word-level ones both are the same.
    start, within = ids(text), ids(f" {text}")
    if not start:
        raise ValueError("there is no word in it")
    return [start] if start == within else [start, within]


def embed_clips(
    model: Any, processor: Any, clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset, *, batch_size: int = 16
) -> torch.Tensor:
    """`model.get_video_features` of many clips: `(N, P)`, L2-normalised."""
    return torch.stack(
        map_batches(lambda batch: list(model.get_video_features(**batch)), model, processor, clips, batch_size, None)
    )


@torch.inference_mode()
def embed_texts(model: Any, processor: Any, texts: Sequence[str], *, batch_size: int = 64) -> torch.Tensor:
    """`model.get_text_features` of many captions: `(N, P)`, L2-normalised."""
    model.eval()
    embeds = []
    for batch in _batches(iter(texts), batch_size):
        tokens = processor.tokenizer(list(batch), padding=True, truncation=True, return_tensors="pt").to(model.device)
        embeds.append(model.get_text_features(tokens["input_ids"], tokens["attention_mask"]))
    return torch.cat(embeds)


@torch.inference_mode()
def map_batches(
    function: Callable[[dict[str, torch.Tensor]], list[Any]],
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    batch_size: int,
    progress: str | None,
) -> list[Any]:
    """What `function` makes of each clip, given a batch of them on the model's device."""
    model.eval()
    collator = VideoCaptionCollator(processor)
    results: list[Any] = []
    total: int | None = None
    items: Any = clips
    if isinstance(clips, Sized):
        # By index, since a `torch.utils.data.Dataset` need not be iterable.
        total = len(clips)
        items = map(items.__getitem__, range(total))
    # To tqdm, `None` means: only where there is a terminal.
    with tqdm(total=total, desc=progress, unit="clip", disable=True if progress is None else None) as bar:
        for batch in _batches(items, batch_size):
            results += function({name: value.to(model.device) for name, value in collator.videos(list(batch)).items()})
            bar.update(len(batch))
    return results


def _batches(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
