"""Caption loss and contrastive loss, and clips with frames in another order.

Limitations: under `torch.distributed` the contrastive loss gathers the batches of all ranks, each of which must
call it.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: a temperature below 0.01 makes training unstable
ABSENT = -1e4  # a logit with probability 0; minus infinity would make 0 x log 0 not a number
SIGMOID_BIAS = -10.0  # SigLIP's start: nearly all pairs of a batch are negative


def caption_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of the next word; label -100 is ignored.

    Args:
        logits: `(B, L, V)`, aligned with `labels` (the decoder's input was shifted already).
        labels: `(B, L)`, ending in EOS, padded with -100.
        num_items_in_batch: Number of labels in the whole optimiser step, by which the sum of losses is divided so that
            gradients do not depend on its micro-batches; default: the number of these labels.
    """
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=label_smoothing, reduction=reduction
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def contrastive_loss(
    video_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    caption_ids: torch.Tensor,
    *,
    logit_bias: torch.Tensor | None = None,
    negative_texts: torch.Tensor | None = None,
    negative_videos: torch.Tensor | None = None,
) -> torch.Tensor:
    """Contrastive loss over all pairs of a batch.

    The symmetric softmax loss of CLIP (https://arxiv.org/abs/2103.00020) or, with `logit_bias`, the sigmoid loss of
    SigLIP (https://arxiv.org/abs/2303.15343), summed over pairs and averaged over clips. Clips with the same caption
    are positives of each other: as negatives they would teach the model to tell identical sentences apart. Under
    `torch.distributed` the pairs of all ranks are compared, with gradient.

    Args:
        video_embeds, text_embeds: `(B, D)`, L2-normalised here.
        logit_scale: Scalar, the logarithm of 1 / temperature, limited to ln 100 but with a gradient beyond. As in CLIP
            the parameter itself has to be clamped after each step, as `VideoCaptionTrainer` does.
        caption_ids: `(B, L)`; equal rows mark equal captions.
        logit_bias: Scalar, added to all logits of the sigmoid loss.
        negative_texts: `(B, K, D)`, captions that nearly fit their clip but are untrue of it; they compete for that
            clip only (as in NegCLIP, https://arxiv.org/abs/2210.01936). A row of zeros stands for none.
        negative_videos: `(B, K, D)`, clips of which a caption is nearly true, likewise.
    """
    video = F.normalize(gather_with_gradient(video_embeds).float(), dim=-1)
    text = F.normalize(gather_with_gradient(text_embeds).float(), dim=-1)
    caption_ids = gather_padded(caption_ids)
    excess = (logit_scale - MAX_LOGIT_SCALE).clamp(min=0).detach()
    scale = (logit_scale - excess).float().exp()
    same = (caption_ids[:, None] == caption_ids[None]).all(dim=-1).float()
    # Logits of each clip, then of each caption: (B, B + K).
    rows = torch.cat([video @ text.T * scale, hard_logits(video, negative_texts, scale)], dim=1)
    columns = torch.cat([text @ video.T * scale, hard_logits(text, negative_videos, scale)], dim=1)
    if logit_bias is not None:
        extra = torch.cat([rows[:, len(same) :], columns[:, len(same) :]], dim=1) + logit_bias.float()
        pairs = (2 * same - 1) * (rows[:, : len(same)] + logit_bias.float())
        return -(F.logsigmoid(pairs).sum(dim=-1) + F.logsigmoid(-extra).sum(dim=-1)).mean()
    targets = same / same.sum(dim=-1, keepdim=True)
    both = [F.cross_entropy(logits, F.pad(targets, (0, logits.shape[1] - len(same)))) for logits in (rows, columns)]
    return torch.stack(both).mean()


def hard_logits(anchors: torch.Tensor, negatives: torch.Tensor | None, scale: torch.Tensor) -> torch.Tensor:
    """Logits `(B, K)` of anchors `(B, D)` with their own negatives `(B, K, D)`; `ABSENT` where there is none."""
    if negatives is None:
        return anchors.new_zeros(len(anchors), 0)
    negatives = gather_with_gradient(negatives).float()
    logits = torch.einsum("bd,bkd->bk", anchors, F.normalize(negatives, dim=-1)) * scale
    return logits.masked_fill(~negatives.any(dim=-1), ABSENT)


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks, concatenated along the first dimension; gradients flow back to each rank."""
    if not several_ranks():
        return tensor
    from torch.distributed.nn.functional import all_gather

    rows = _rows_of_ranks(tensor)
    padding = (0, 0) * (tensor.ndim - 1) + (0, max(rows) - len(tensor))
    parts = all_gather(F.pad(tensor, padding))
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def gather_padded(ids: torch.Tensor) -> torch.Tensor:
    """Integer rows of all ranks, padded on the right with -1 to a common length."""
    if not several_ranks():
        return ids
    rows = _rows_of_ranks(ids)
    length = torch.tensor(ids.shape[1], device=ids.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    padding = (0, int(length) - ids.shape[1], 0, max(rows) - len(ids))
    ids = F.pad(ids, padding, value=-1).contiguous()
    parts = [torch.empty_like(ids) for _ in rows]
    dist.all_gather(parts, ids)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def several_ranks() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rows_of_ranks(tensor: torch.Tensor) -> list[int]:
    """Number of rows on each rank: the last batch of an epoch may be larger on one than on another."""
    rows = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, rows)
    return torch.cat(counts).tolist()


def real_frames(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """`(B, T)`, 1 for real frames, which come first; without `video_mask` all are real."""
    if "video_mask" in batch:
        return batch["video_mask"]
    frames = next(batch[name] for name in _FRAMES if batch.get(name) is not None)
    return torch.ones(frames.shape[:2], dtype=torch.long, device=frames.device)


def reorder_frames(batch: dict[str, torch.Tensor], order: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same clips with frame `order[b, t]` of clip b at place t.

    Args:
        batch: `pixel_values_videos` or `video_features` `(B, T, ...)`; other entries are kept.
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
            are real, and `video_times` `(B, T)` unless frames are evenly spaced; other entries are kept.
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
