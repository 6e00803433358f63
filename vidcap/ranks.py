"""What several processes must agree on before they go on; of a single process, what it says itself."""

from typing import Any

import torch
import torch.distributed as dist

from modeling_vidcap.losses_vidcap import several_ranks


def from_first_rank(value: float, device: torch.device) -> float:
    """The first rank's value on each of them: their clocks differ, and all must stop at the same step."""
    if not several_ranks():
        return value
    shared = torch.tensor(value, device=device, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def from_each_rank(value: Any) -> list[Any]:
    """What each of them says, in their order, on all of them."""
    if not several_ranks():
        return [value]
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, value)
    return said


def on_every_rank(condition: bool, device: torch.device) -> bool:
    """Whether the condition holds on all of them: what each finds by trying may differ."""
    if not several_ranks():
        return condition
    shared = torch.tensor(float(condition), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return bool(shared)
