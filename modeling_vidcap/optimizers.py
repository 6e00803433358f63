"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer.

What it promises: learning rates, schedules and checkpoints work as with one of torch's. What it gives up: matrices
that are split over processes (FSDP, DeepSpeed), which Muon would have to see whole.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

RATE = 2.0  # times AdamW's rate; and half its weight decay, so that weights shrink as fast (docs/log.md)
NEWTON_SCHULZ_STEPS = 3  # towards the orthogonal matrix; torch's default of 5 takes two thirds longer


class MuonAdamW(Optimizer):
    """Each of its groups belongs to one of the two, which share these very groups with it.

    Muon (https://kellerjordan.github.io/posts/muon) turns the momentum of a matrix into the nearest orthogonal one
    before it is added, so that directions which gradients seldom take are learnt as fast as the others. Its updates
    are scaled by the size of AdamW's (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one learning rate
    and one weight decay serve both.

    Args:
        groups: Parameter groups, those of matrices with `"muon": True`; `lr` and `weight_decay` of each.
        adamw: Further arguments of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any):
        matrices = [{k: v for k, v in group.items() if k != "muon"} for group in groups if group.get("muon")]
        others = [{k: v for k, v in group.items() if k != "muon"} for group in groups if not group.get("muon")]
        self.parts: tuple[Optimizer, ...] = (
            Muon(matrices, adjust_lr_fn="match_rms_adamw", ns_steps=NEWTON_SCHULZ_STEPS),
            AdamW(others, **adamw),
        )
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.parts[0].state_dict(), "adamw": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self.parts, ("muon", "adamw"), strict=True):
            part.load_state_dict(state_dict[name])
        self.param_groups = self._groups()  # a schedule sets the rates of these


def muon_groups(groups: list[dict[str, Any]], excluded: set[int]) -> list[dict[str, Any]]:
    """Takes matrices out of groups with weight decay, into groups for Muon.

    Args:
        groups: As torch's optimizers take them. Groups without weight decay (norms, biases, embeddings) stay.
        excluded: `id` of parameters that stay with AdamW whatever their shape.
    """
    split = []
    for group in groups:
        for matrices in (True, False):
            chosen = [
                each
                for each in group["params"]
                if (group["weight_decay"] > 0 and each.ndim == 2 and id(each) not in excluded) is matrices
            ]
            if chosen and matrices:
                rates = {"lr": RATE * group["lr"], "weight_decay": group["weight_decay"] / RATE}
                split.append({**group, **rates, "params": chosen, "muon": True})
            elif chosen:
                split.append({**group, "params": chosen, "muon": False})
    return split
