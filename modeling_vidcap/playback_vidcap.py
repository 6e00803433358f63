"""Clips whose frames are put in another order; played from their last frame to their first they are a test of a
model's sense of time, and a negative to train it."""

import torch


def real_frames(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """`(B, T)`, 1 for real frames, which come first; all are real where the batch has no `video_mask`."""
    if "video_mask" in batch:
        return batch["video_mask"]
    frames = next(batch[name] for name in _FRAMES if batch.get(name) is not None)
    return torch.ones(frames.shape[:2], dtype=torch.long, device=frames.device)


def reorder_frames(batch: dict[str, torch.Tensor], order: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same clips with frame `order[b, t]` of clip b at place t; `video_mask` and `video_times` stay as they are.

    Args:
        batch: `pixel_values_videos` or `video_features` `(B, T, ...)`; other entries stay as they are.
        order: `(B, T)`, whole numbers from 0 to T - 1, which may repeat.
    """
    reordered = dict(batch)
    for name in _FRAMES:
        if batch.get(name) is not None:
            index = order.view(*order.shape, *[1] * (batch[name].ndim - 2)).expand_as(batch[name])
            reordered[name] = batch[name].gather(1, index)
    return reordered


def play_backwards(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same clips with their real frames in reverse order and times counted from the new start.

    Args:
        batch: `pixel_values_videos` or `video_features` `(B, T, ...)`, with `video_mask` `(B, T)` unless all frames
            are real, and `video_times` `(B, T)` unless frames are evenly spaced; other entries stay as they are.
    """
    mask = real_frames(batch)
    lengths = mask.sum(dim=1, keepdim=True)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    order = torch.where(positions < lengths, lengths - 1 - positions, positions)  # (B, T)
    backwards = reorder_frames(batch, order)
    if "video_times" in batch:
        times = batch["video_times"]
        last = times.gather(1, lengths - 1)
        backwards["video_times"] = torch.where(mask.bool(), last - times.gather(1, order), last)
    return backwards


_FRAMES = ("pixel_values_videos", "video_features")
