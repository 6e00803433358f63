"""Tensors of many clips -> one caption each, or one vector each, in batches."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from processing.collator import VideoCaptionCollator


def play_backwards(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same clips with their real frames in reverse order and times counted from the new start."""
    mask, times = batch["video_mask"], batch["video_times"]
    frames = mask.shape[1]
    lengths = mask.sum(dim=1, keepdim=True)  # real frames come first
    positions = torch.arange(frames, device=mask.device).expand_as(mask)
    order = torch.where(positions < lengths, lengths - 1 - positions, positions)  # (B, T)
    last = times.gather(1, lengths - 1)
    backwards = dict(batch, video_times=torch.where(mask.bool(), last - times.gather(1, order), last))
    for name in ("pixel_values_videos", "video_features"):
        if name in batch:
            index = order.view(*order.shape, *[1] * (batch[name].ndim - 2)).expand_as(batch[name])
            backwards[name] = batch[name].gather(1, index)
    return backwards


@dataclass
class ScoredCaption:
    """A caption and how sure the model is of it.

    Args:
        text: The caption.
        tokens: Its tokens as text, the end of the sentence included.
        probabilities: The probability of each, given the clip and the tokens before it.
        novelty: How unlike the training clips the clip is, see `VideoCaptionNovelty`; above 1 the caption is a guess.
            `None` for a model that was saved without this knowledge.
    """

    text: str
    tokens: list[str]
    probabilities: list[float]
    novelty: float | None

    @property
    def mean_log_probability(self) -> float:
        """Natural logarithm, averaged over the tokens, so that it can be compared between captions of any length."""
        return sum(math.log(max(each, 1e-9)) for each in self.probabilities) / max(1, len(self.probabilities))


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

    return _map_batches(caption, model, processor, clips, batch_size, progress)


def caption_clips_with_scores(
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    *,
    batch_size: int = 16,
    **generate_kwargs: Any,
) -> list[ScoredCaption]:
    """As [`caption_clips`], with the probability of every token and the novelty of every clip."""
    tokenizer = processor.tokenizer

    def caption(inputs: dict[str, torch.Tensor]) -> list[ScoredCaption]:
        if "video_features" not in inputs:  # once for the captions and the novelty
            inputs["video_features"] = model.model.encoder.backbone(inputs.pop("pixel_values_videos").to(model.dtype))
        novelty = model.get_novelty(video_features=inputs["video_features"], video_mask=inputs["video_mask"])
        output = model.generate(**inputs, **generate_kwargs, return_dict_in_generate=True, output_scores=True)
        scores = model.compute_transition_scores(
            output.sequences, output.scores, output.get("beam_indices"), normalize_logits=True
        )  # (B, L), of the tokens behind the start token
        texts = processor.batch_decode(output.sequences, skip_special_tokens=True)
        captions = []
        for i, text in enumerate(texts):
            ids = output.sequences[i, -scores.shape[1] :].tolist()
            length = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
            captions.append(
                ScoredCaption(
                    text=text.strip(),
                    tokens=tokenizer.convert_ids_to_tokens(ids[:length]),
                    probabilities=scores[i, :length].float().exp().tolist(),
                    novelty=None if novelty is None else novelty[i].item(),
                )
            )
        return captions

    return _map_batches(caption, model, processor, clips, batch_size, None)


def embed_clips(
    model: Any, processor: Any, clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset, *, batch_size: int = 16
) -> torch.Tensor:
    """`model.get_video_features` of many clips: `(N, P)`, L2-normalised."""
    return torch.stack(
        _map_batches(lambda batch: list(model.get_video_features(**batch)), model, processor, clips, batch_size, None)
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
def _map_batches(
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
