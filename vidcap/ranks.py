"""Agreement among the processes of a distributed run; a single process agrees with itself."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist

from modeling_vidcap.losses_vidcap import several_ranks

Value = TypeVar("Value")


def from_first_rank(value: float, device: torch.device) -> float:
    """The first rank's value on all ranks: their clocks differ, but all must stop at the same step."""
    if not several_ranks():
        return value
    shared = torch.tensor(value, device=device, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def from_each_rank(value: Value) -> list[Value]:
    """The values of all ranks, in their order, on all ranks."""
    if not several_ranks():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_every_rank(condition: bool, device: torch.device) -> bool:
    """Whether a condition holds on all ranks, where trials may have different results."""
    if not several_ranks():
        return condition
    shared = torch.tensor(float(condition), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return bool(shared)
