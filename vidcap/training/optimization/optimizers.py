"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer.

What it promises: learning rates, schedules and checkpoints work as with one of torch's. What it gives up: matrices
that are split over processes (FSDP, DeepSpeed), which Muon would have to see whole.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from vidcap.precision import computes_in_bf16

RATE = 2.0  # times AdamW's rate; and half its weight decay, so that weights shrink as fast (docs/log.md)

# Each line is (a, b, c) of a step X -> a X + b (X X') X + c (X X')^2 X: the odd polynomial that is closest to 1 where
# the singular values then are, which start in [.01, 1] (Amsel et al. 2025, https://arxiv.org/abs/2505.16932, with the
# last interval as narrow as three steps allow). They end in [.73, 1.27]; smaller ones grow 78-fold.
NEWTON_SCHULZ = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


class Muon(Optimizer):
    """Adds to each matrix its momentum made orthogonal, so that directions which gradients seldom take are learnt as
    fast as the others (https://kellerjordan.github.io/posts/muon).

    Updates are scaled to the size of AdamW's (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one
    learning rate and one weight decay serve both. torch's own takes matrices one by one, and one polynomial for all
    steps.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.95):
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.1, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if parameters:
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, parameters: list[torch.Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        gradients = [each.grad for each in parameters if each.grad is not None]
        for each in parameters:
            if "momentum_buffer" not in self.state[each]:
                self.state[each]["momentum_buffer"] = torch.zeros_like(each)
        averages = [self.state[each]["momentum_buffer"] for each in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)  # a step ahead, as Nesterov's
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        # Elsewhere bf16 is emulated, tens of times slower than fp32.
        dtype = torch.bfloat16 if computes_in_bf16(parameters[0].device) else torch.float32
        alike = defaultdict(list)
        for parameter, direction in zip(parameters, directions, strict=True):
            wide = parameter if parameter.shape[0] <= parameter.shape[1] else parameter.T
            alike[wide.shape].append((wide, direction if wide is parameter else direction.T))
        for shape, pairs in alike.items():
            stacked = torch.stack([direction.to(dtype) for _, direction in pairs])
            for (parameter, _), update in zip(pairs, orthogonalize(stacked), strict=True):
                parameter.add_(update, alpha=-lr * 0.2 * max(shape) ** 0.5)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices `(N, rows, columns)`, no more rows than columns, with their singular values brought close to 1."""

    def polynomial(gram: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
        values = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        values.diagonal(dim1=1, dim2=2).add_(a)
        return values

    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    # A step is X -> P X, where P is a polynomial of X X'. That is small and becomes P X X' P, so that X itself is
    # multiplied only once, at the end.
    gram = matrices @ matrices.mT
    factor = product = polynomial(gram, *NEWTON_SCHULZ[0])
    for coefficients in NEWTON_SCHULZ[1:]:
        gram = factor @ gram @ factor
        factor = polynomial(gram, *coefficients)
        product = factor @ product
    return product @ matrices


class MuonAdamW(Optimizer):
    """Each of its groups belongs to one of the two, which share these very groups with it.

    Args:
        groups: Parameter groups, those of matrices with `"muon": True`; `lr` and `weight_decay` of each.
        adamw: Further arguments of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any):
        matrices = [{k: v for k, v in group.items() if k != "muon"} for group in groups if group.get("muon")]
        others = [{k: v for k, v in group.items() if k != "muon"} for group in groups if not group.get("muon")]
        self.parts: tuple[Optimizer, ...] = (
            Muon(matrices),
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
    """Takes matrices out of groups, into groups for Muon.

    Args:
        groups: As torch's optimizers take them.
        excluded: `id` of parameters that stay with AdamW whatever their shape, such as tables of embeddings.
    """
    split = []
    for group in groups:
        for matrices in (True, False):
            chosen = [each for each in group["params"] if (each.ndim == 2 and id(each) not in excluded) is matrices]
            if chosen and matrices:
                rates = {"lr": RATE * group["lr"], "weight_decay": group["weight_decay"] / RATE}
                split.append({**group, **rates, "params": chosen, "muon": True})
            elif chosen:
                split.append({**group, "params": chosen, "muon": False})
    return split
