"""Clips with something taken away, captioned: black or noise, one frame, half of the clip, frames in another order.

Promises: a backbone that sees each frame alone runs once a clip, whatever is done to the clip afterwards; the same
clips, names and seed give the same captions, whatever the size of a batch. Gives up: motion that a frame's own blur
shows, which no reordering takes away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from modeling_vidcap.generation_vidcap import repeat_clips, without_video
from modeling_vidcap.losses_vidcap import play_backwards, real_frames, reorder_frames
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from vidcap.adapters import CaptionAdapter
from vidcap.inference.captioning import caption_clips, map_batches

Batch = dict[str, torch.Tensor]


def stand_still(batch: Batch) -> Batch:
    """The middle real frame at all places, for as long as the clip takes."""
    mask = real_frames(batch)
    middle = (mask.sum(dim=1, keepdim=True) - 1) // 2
    return reorder_frames(batch, middle.expand_as(mask))


def cut_in_half(batch: Batch) -> Batch:
    """The first half of the real frames, rounded up; what comes behind is masked.

    Clip encoders look at masked frames, too: there the last frame of the half stands still.
    """
    mask = real_frames(batch)
    kept = (mask.sum(dim=1, keepdim=True) + 1) // 2  # (B, 1)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    order = torch.minimum(positions, kept - 1)
    half = {**reorder_frames(batch, order), "video_mask": (positions < kept).to(mask.dtype)}
    if "video_times" in batch:
        half["video_times"] = batch["video_times"].gather(1, order)
    return half


def shuffle_frames(batch: Batch, generator: torch.Generator) -> Batch:
    """The real frames in random order, never the true one where there are two or more; moments stay in order.

    Args:
        generator: On the CPU; draws clip after clip.
    """
    mask = real_frames(batch)
    order = torch.arange(mask.shape[1]).repeat(len(mask), 1)
    for row, length in zip(order, mask.sum(dim=1).tolist(), strict=True):
        drawn = torch.randperm(length, generator=generator)
        while length > 1 and torch.equal(drawn, torch.arange(length)):
            drawn = torch.randperm(length, generator=generator)
        row[:length] = drawn
    return reorder_frames(batch, order.to(mask.device))


def show_instead(batch: Batch, frames: torch.Tensor) -> Batch:
    """Other frames `(T', ...)` in the place of each clip's `(B, T, ...)`, again from their first where T' < T."""
    name = "video_features" if "video_features" in batch else "pixel_values_videos"
    shown = frames[torch.arange(batch[name].shape[1]) % len(frames)]  # (T, ...)
    return {**batch, name: shown.to(batch[name]).expand_as(batch[name])}


@torch.inference_mode()
def caption_perturbed(
    model: Any,
    processor: Any,
    clips: ClipDataset,
    indices: Sequence[int],
    names: Sequence[str],
    *,
    batch_size: int = 16,
    seed: int = 0,
    **generate_kwargs: Any,
) -> dict[str, list[str]]:
    """Captions clips once for each way to take something away.

    Args:
        indices: Which of the clips.
        names: Of [`PERTURBED`].
        seed: Draws the noise and the order of shuffled frames.
        generate_kwargs: For `model.generate`.

    Returns:
        For each name the captions, in the order of `indices`.
    """
    if not names:
        return {}
    generator = torch.Generator().manual_seed(seed)
    ways: dict[str, Callable[[Batch], Batch]] = {
        "one_frame": stand_still,
        "shuffled": lambda batch: shuffle_frames(batch, generator),
        "reversed": play_backwards,
        "first_half": cut_in_half,
    }
    some = torch.utils.data.Subset(clips, indices)
    if isinstance(model, CaptionAdapter):  # whose processors shape pixels, so that these are changed before
        ways["black"] = lambda clip: show_instead(clip, torch.zeros_like(clip["pixel_values_videos"][0]))
        ways["noise"] = lambda clip: show_instead(clip, _noise(clip["pixel_values_videos"][0].shape, seed))
        options: dict[str, Any] = {"batch_size": batch_size, "progress": "controls", **generate_kwargs}
        return {name: caption_clips(model, processor, some, change=ways[name], **options) for name in names}

    collator = VideoCaptionCollator(processor)
    frames = {name: _artificial_frames(name, model, collator, seed) for name in ("black", "noise") if name in names}

    def caption(inputs: Batch) -> list[tuple[str, ...]]:
        pixels = inputs.get("pixel_values_videos")
        if pixels is not None and not model.config.encodes_clips:
            inputs = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
            inputs["video_features"] = model.model.encoder.backbone(pixels.to(model.dtype))
        captions = []
        for name in names:
            if name == "no_video":
                encoded = repeat_clips(without_video(model.get_encoder()(**inputs)), 1)
                tokens = model.generate(encoder_outputs=encoded, **generate_kwargs)
            else:
                shown = show_instead(inputs, frames[name]) if name in frames else ways[name](inputs)
                tokens = model.generate(**shown, **generate_kwargs)
            captions.append(processor.post_process_generation(tokens))
        return list(zip(*captions, strict=True))

    rows = map_batches(caption, model, processor, some, batch_size, "controls")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _artificial_frames(name: str, model: Any, collator: VideoCaptionCollator, seed: int) -> torch.Tensor:
    """Black frames, or noise, as the model's encoder takes them: features `(T, N, D)`, or pixels `(T, C, H, W)` where
    the backbone sees whole clips."""
    video_processor = collator.processor.video_processor
    size, count = video_processor.size, video_processor.num_frames
    pixels = torch.zeros(count, 3, size["height"], size["width"], dtype=torch.uint8)
    if name == "noise":
        pixels = _noise(pixels.shape, seed)
    clip = {"pixel_values_videos": pixels, "video_mask": torch.ones(count, dtype=torch.long)}
    normalised = collator.videos([clip])["pixel_values_videos"].to(model.device, model.dtype)
    model.eval()
    return (normalised if model.config.encodes_clips else model.model.encoder.backbone(normalised))[0]


def _noise(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
