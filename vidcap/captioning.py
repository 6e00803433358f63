"""Tensors of many clips -> one caption each, in batches."""

import itertools
from collections.abc import Iterable, Iterator, Sized
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


@torch.inference_mode()
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
    model.eval()
    collator = VideoCaptionCollator(processor)
    captions: list[str] = []
    total: int | None = None
    items: Any = clips
    if isinstance(clips, Sized):
        # By index, since a `torch.utils.data.Dataset` need not be iterable.
        total = len(clips)
        items = map(items.__getitem__, range(total))
    # To tqdm, `None` means: only where there is a terminal.
    with tqdm(total=total, desc=progress, unit="clip", disable=True if progress is None else None) as bar:
        for batch in _batches(items, batch_size):
            inputs = {name: value.to(model.device) for name, value in collator.videos(list(batch)).items()}
            tokens = model.generate(**(play_backwards(inputs) if backwards else inputs), **generate_kwargs)
            captions += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
            bar.update(len(batch))
    return captions


def _batches(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
