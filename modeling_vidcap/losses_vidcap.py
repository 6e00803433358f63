"""The two parts of the training loss, as pure functions of tensors."""

import torch
import torch.distributed as dist
import torch.nn.functional as F

MAX_LOGIT_SCALE = 100.0  # CLIP's clamp: a temperature below 0.01 makes training unstable
SIGMOID_BIAS = -10.0  # SigLIP's start: nearly all pairs of a batch are negative


def caption_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of the next word; label -100 is left out.

    Args:
        logits: `(B, L, V)`, already aligned with `labels` (the decoder's input was shifted, nothing shifts here).
        labels: `(B, L)`, ending in EOS, padded with -100.
        num_items_in_batch: Labels in the whole optimiser step. The sum of losses is divided by it, so that gradients
            do not depend on how the step is cut into micro-batches; without it, by the labels at hand.
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
) -> torch.Tensor:
    """Symmetric softmax loss over all pairs of a batch (CLIP, https://arxiv.org/abs/2103.00020); with `logit_bias` the
    sigmoid loss of each pair on its own, summed over pairs and averaged over clips
    (SigLIP, https://arxiv.org/abs/2303.15343).

    Clips whose captions are the same text are positives of each other: calling them negatives would teach the model
    to tell identical sentences apart. Under `torch.distributed` the pairs of all ranks are compared, with gradient.

    Args:
        video_embeds, text_embeds: `(B, D)`, L2-normalised here.
        logit_scale: Scalar, the logarithm of 1 / temperature; clamped to at most ln 100.
        caption_ids: `(B, L)`, equal rows mark equal captions.
        logit_bias: Scalar, added to all logits of the sigmoid loss.
    """
    video = F.normalize(gather_with_gradient(video_embeds).float(), dim=-1)
    text = F.normalize(gather_with_gradient(text_embeds).float(), dim=-1)
    caption_ids = gather_padded(caption_ids)
    logits = video @ text.T * logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)  # (B, B)
    same = (caption_ids[:, None] == caption_ids[None]).all(dim=-1).float()
    if logit_bias is not None:
        return -F.logsigmoid((2 * same - 1) * (logits + logit_bias.float())).sum(dim=-1).mean()
    targets = same / same.sum(dim=-1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks joined along the first dimension; gradients flow back to each rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor))


def gather_padded(ids: torch.Tensor) -> torch.Tensor:
    """Integer rows of all ranks, padded on the right with -1 to one common length."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ids
    length = torch.tensor(ids.shape[1], device=ids.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    ids = F.pad(ids, (0, int(length) - ids.shape[1]), value=-1).contiguous()
    rows = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, ids)
    return torch.cat(rows)
