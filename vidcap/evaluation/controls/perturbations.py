"""Captions of perturbed clips: black or noise, one frame, half of the clip, frames in another order.

Guarantees: a backbone that sees each frame alone runs once per clip for all perturbations; the same clips, names and
seed give the same captions, whatever the batch size.

Limitations: motion blur within a frame survives any reordering.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from modeling_vidcap.generation_vidcap import repeat_clips, without_video
from modeling_vidcap.losses_vidcap import play_backwards, real_frames, reorder_frames
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from vidcap.captioner import Captioner
from vidcap.inference.captioning import map_batches

if TYPE_CHECKING:
    from modeling_vidcap import VideoCaptionForConditionalGeneration

Batch = dict[str, torch.Tensor]


def stand_still(batch: Batch) -> Batch:
    """Show the middle real frame in place of all frames."""
    mask = real_frames(batch)
    middle = (mask.sum(dim=1, keepdim=True) - 1) // 2
    return reorder_frames(batch, middle.expand_as(mask))


def cut_in_half(batch: Batch) -> Batch:
    """Keep the first half of the real frames, rounded up, and mask the rest.

    Clip encoders see masked frames too: these repeat the last frame of the half.
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
    """Shuffle the real frames of each clip; two or more never keep their order. Times stay in order.

    Args:
        batch: Clips with `video_mask`.
        generator: On the CPU; used clip after clip.
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
    """Replace each clip's frames `(B, T, ...)` by others `(T', ...)`, repeated if T' < T."""
    name = "video_features" if "video_features" in batch else "pixel_values_videos"
    shown = frames[torch.arange(batch[name].shape[1]) % len(frames)]  # (T, ...)
    return {**batch, name: shown.to(batch[name]).expand_as(batch[name])}


@torch.inference_mode()
def caption_perturbed(
    captioner: Captioner,
    clips: ClipDataset,
    indices: Sequence[int],
    names: Sequence[str],
    *,
    batch_size: int = 16,
    seed: int = 0,
    **generate_kwargs: Any,
) -> dict[str, list[str]]:
    """Caption clips once per perturbation.

    Args:
        captioner: A captioner of any family.
        clips: The clips.
        indices: The clips to use.
        names: Names from `PERTURBED`.
        batch_size: Clips captioned at once.
        seed: Random seed of the noise and of the order of shuffled frames.
        generate_kwargs: Options of `model.generate`.

    Returns:
        For each name the captions, in the order of `indices`.
    """
    if not names:
        return {}
    generator = torch.Generator().manual_seed(seed)
    perturbations: dict[str, Callable[[Batch], Batch]] = {
        "one_frame": stand_still,
        "shuffled": lambda batch: shuffle_frames(batch, generator),
        "reversed": play_backwards,
        "first_half": cut_in_half,
    }
    subset = torch.utils.data.Subset(clips, indices)
    if not captioner.gives_features:  # its processor sees the pixels after they are changed
        perturbations["black"] = lambda clip: show_instead(clip, torch.zeros_like(clip["pixel_values_videos"][0]))
        perturbations["noise"] = lambda clip: show_instead(clip, _noise(clip["pixel_values_videos"][0].shape, seed))
        options: dict[str, Any] = {"batch_size": batch_size, "progress": "controls", **generate_kwargs}
        return {name: captioner.caption(subset, change=perturbations[name], **options) for name in names}

    model, processor = captioner.model, captioner.processor
    collator = VideoCaptionCollator(processor)
    frames = {name: _artificial_frames(name, model, collator, seed) for name in ("black", "noise") if name in names}

    def caption(inputs: Batch) -> list[tuple[str, ...]]:
        pixels = inputs.get("pixel_values_videos")
        if pixels is not None and not model.config.encodes_clips:
            inputs = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
            inputs["video_features"] = model.backbone(pixels.to(model.dtype))
        captions = []
        for name in names:
            if name == "no_video":
                encoded = repeat_clips(without_video(model.get_encoder()(**inputs)), 1)
                tokens = model.generate(encoder_outputs=encoded, **generate_kwargs)
            else:
                shown = show_instead(inputs, frames[name]) if name in frames else perturbations[name](inputs)
                tokens = model.generate(**shown, **generate_kwargs)
            captions.append(processor.post_process_generation(tokens))
        return list(zip(*captions, strict=True))

    rows = map_batches(caption, model, processor, subset, batch_size, "controls")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _artificial_frames(
    name: str, model: "VideoCaptionForConditionalGeneration", collator: VideoCaptionCollator, seed: int
) -> torch.Tensor:
    """Black frames or noise as input of the model's encoder.

    Features `(T, N, D)`, or pixels `(T, C, H, W)` if the backbone sees whole clips.
    """
    video_processor = collator.processor.video_processor
    size, count = video_processor.size, video_processor.num_frames
    pixels = torch.zeros(count, 3, size["height"], size["width"], dtype=torch.uint8)
    if name == "noise":
        pixels = _noise(pixels.shape, seed)
    clip = {"pixel_values_videos": pixels, "video_mask": torch.ones(count, dtype=torch.long)}
    normalised = collator.videos([clip])["pixel_values_videos"].to(model.device, model.dtype)
    model.eval()
    return (normalised if model.config.encodes_clips else model.backbone(normalised))[0]


def _noise(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
