"""Tensors of many clips -> captions, with their probabilities where wanted, or one vector each, in batches."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from processing.clips.collator import VideoCaptionCollator
from processing.support.progress import Progress

from .subtitles import ScoredCaption

if TYPE_CHECKING:
    from modeling_vidcap.settings_vidcap import Forms

    from ..adapters.base import CaptionAdapter, GeneratedCaption, Inputs


def caption_clips(
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    *,
    batch_size: int = 16,
    change: "Callable[[Inputs], Inputs] | None" = None,
    progress: str | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """Captions clips by `generate`.

    Args:
        model: The captioner, of this package or a [`CaptionAdapter`].
        processor: Its processor; an adapter has its own.
        clips: Dicts of tensors without a batch axis, as a `ClipDataset` or the processor gives them; read one batch
            at a time.
        change: What is done to each batch first, such as `play_backwards`; an adapter's hold one clip then.
        progress: What is shown beside the progress; nothing is shown by default.
        generate_kwargs: For `model.generate`; what is not given comes from the model's generation config.
    """

    if is_adapter(model):
        generated = _generate(model, clips, batch_size, progress, change=change, **generate_kwargs)
        return [model.decode(captions[0]) for captions in generated]

    def caption(inputs: dict[str, torch.Tensor]) -> list[str]:
        tokens = model.generate(**(change(inputs) if change else inputs), **generate_kwargs)
        return processor.post_process_generation(tokens)

    return map_batches(caption, model, processor, clips, batch_size, progress)


def caption_clips_with_scores(
    model: Any,
    processor: Any,
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    *,
    batch_size: int = 16,
    include: "Sequence[Forms]" = (),
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
    if is_adapter(model):
        model.check_options({"include": list(include)})
        generated = _generate(model, clips, batch_size, None, scores=True, **generate_kwargs)
        groups = [[_scored(model, caption) for caption in captions] for captions in generated]
        return [_best_first(group) for group in groups] if generate_kwargs.get("do_sample") else groups
    sampled = generate_kwargs.get("do_sample", model.generation_config.do_sample)

    def caption(inputs: dict[str, torch.Tensor]) -> list[list[ScoredCaption]]:
        if "video_features" not in inputs:  # once for the captions and the novelty
            inputs["video_features"] = model.model.encoder.backbone(inputs.pop("pixel_values_videos").to(model.dtype))
        novelty = model.get_novelty(video_features=inputs["video_features"], video_mask=inputs["video_mask"])
        encoded = model.get_encoder()(**inputs)
        if include:
            from modeling_vidcap.generation_vidcap import generate_including

            sequences = generate_including(model, {"encoder_outputs": encoded}, include, **generate_kwargs)
        else:
            sequences = model.generate(encoder_outputs=encoded, **generate_kwargs)
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
        return [_best_first(group) for group in groups] if sampled else groups

    return map_batches(caption, model, processor, clips, batch_size, None)


def clip_encoder(model: Any, processor: Any) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """What makes features of a clip's pixels, for threads that compute on a core each.

    Returns:
        A clip with `pixel_values_videos` -> one with `video_features` of its real frames; `None` where whole batches
        are better: on a GPU, for a backbone that sees clips, and for models of other families.
    """
    if is_adapter(model) or model.device.type != "cpu" or model.config.encodes_clips:
        return None
    collator = VideoCaptionCollator(processor)

    @torch.inference_mode()
    def encode(clip: dict[str, Any]) -> dict[str, Any]:
        real = clip["video_mask"].bool()  # nobody needs features of what fills up a short clip
        if not bool(real.all()):
            clip = {name: value[real] for name, value in clip.items()}
        batch = collator.videos([clip])
        batch["video_features"] = model.model.encoder.backbone(batch.pop("pixel_values_videos").to(model.dtype))
        return {name: value[0] for name, value in batch.items()}

    return encode


def is_adapter(model: Any) -> "TypeGuard[CaptionAdapter]":
    """Whether a captioner is one of another family; asked without importing these, which nothing is before that."""
    base = sys.modules.get("vidcap.adapters.base")
    return base is not None and isinstance(model, base.CaptionAdapter)


def _best_first(captions: list[ScoredCaption]) -> list[ScoredCaption]:
    return sorted(captions, key=lambda one: -one.mean_log_probability)


def _scored(adapter: "CaptionAdapter", caption: "GeneratedCaption") -> ScoredCaption:
    tokens = adapter.tokenizer.convert_ids_to_tokens(caption.ids.tolist())
    assert caption.log_probabilities is not None
    return ScoredCaption(adapter.decode(caption), tokens, caption.log_probabilities.tolist(), novelty=None)


def _generate(
    adapter: "CaptionAdapter",
    clips: Iterable[dict[str, Any]] | torch.utils.data.Dataset,
    batch_size: int,
    progress: str | None,
    *,
    change: "Callable[[Inputs], Inputs] | None" = None,
    scores: bool = False,
    **generate_kwargs: Any,
) -> "list[list[GeneratedCaption]]":
    """What an adapter makes of clips, each of which is made ready as soon as it is read: frames of its own size take
    far more memory than the model's inputs."""

    def prepare(clip: dict[str, Any]) -> "Inputs":
        if change is not None:
            batch = {name: value[None] for name, value in clip.items() if isinstance(value, torch.Tensor)}
            clip = {name: value[0] for name, value in change(batch).items()}
        return adapter.prepare(clip)

    results: list[list[GeneratedCaption]] = []
    items, total = _in_order(clips)
    with Progress(progress or "", total, shown=progress is not None) as bar:
        for batch in _batches(map(prepare, items), batch_size):
            results += adapter.generate(batch, scores=scores, **generate_kwargs)
            bar.update(len(batch))
    return results


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
    items, total = _in_order(clips)
    with Progress(progress or "", total, shown=progress is not None) as bar:
        for batch in _batches(items, batch_size):
            results += function({name: value.to(model.device) for name, value in collator.videos(list(batch)).items()})
            bar.update(len(batch))
    return results


def _in_order(clips: Any) -> tuple[Iterable[dict[str, Any]], int | None]:
    """The clips one by one, and their number where it is known."""
    if not isinstance(clips, Sized):
        return clips, None
    # By index, since a `torch.utils.data.Dataset` need not be iterable.
    items: Any = clips
    return map(items.__getitem__, range(len(clips))), len(clips)


def _batches(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
