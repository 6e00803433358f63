"""Clips played from their last frame to their first: a test of a model's sense of time, and a negative to train it."""

import torch


def play_backwards(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same clips with their real frames in reverse order and times counted from the new start.

    Args:
        batch: `pixel_values_videos` or `video_features` `(B, T, ...)`, with `video_mask` `(B, T)` unless all frames
            are real, and `video_times` `(B, T)` unless frames are evenly spaced; other entries stay as they are.
    """
    names = [name for name in ("pixel_values_videos", "video_features") if batch.get(name) is not None]
    shape, device = batch[names[0]].shape[:2], batch[names[0]].device
    mask = batch["video_mask"] if "video_mask" in batch else torch.ones(shape, dtype=torch.long, device=device)
    lengths = mask.sum(dim=1, keepdim=True)  # real frames come first
    positions = torch.arange(shape[1], device=device).expand_as(mask)
    order = torch.where(positions < lengths, lengths - 1 - positions, positions)  # (B, T)
    backwards = dict(batch)
    for name in names:
        index = order.view(*order.shape, *[1] * (batch[name].ndim - 2)).expand_as(batch[name])
        backwards[name] = batch[name].gather(1, index)
    if "video_times" in batch:
        times = batch["video_times"]
        last = times.gather(1, lengths - 1)
        backwards["video_times"] = torch.where(mask.bool(), last - times.gather(1, order), last)
    return backwards
