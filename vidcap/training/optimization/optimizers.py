"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer.

Guarantees: learning rates, schedules and checkpoints work as with torch's optimizers.

Limitations: matrices must be whole, not split over processes (FSDP).
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from ...precision import computes_in_bf16

RATE = 2.0  # times AdamW's rate, with half its weight decay, so that weights shrink at the same pace (docs/log.md)

# Per step (a, b, c) of X -> a X + b (X X') X + c (X X')^2 X: the odd polynomial that is closest to 1 on the interval
# of the singular values, which start in [.01, 1] (Amsel et al. 2025, https://arxiv.org/abs/2505.16932, with the last
# interval as narrow as three steps allow). They end in [.73, 1.27]; smaller ones grow 78-fold.
NEWTON_SCHULZ = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


class Muon(Optimizer):
    """Updates of matrices by their orthogonalised momentum (https://kellerjordan.github.io/posts/muon).

    Directions that gradients seldom take are learnt as fast as the others. Updates are scaled to the size of AdamW's
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one learning rate and one weight decay serve both.
    torch's own Muon takes matrices one by one, with the same polynomial in each step.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.95):
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.1, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, parameters: list[torch.Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)  # Nesterov's: one step ahead
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        # Without instructions for it, bf16 is emulated, tens of times slower than fp32.
        dtype = torch.bfloat16 if computes_in_bf16(parameters[0].device) else torch.float32
        by_shape = defaultdict(list)
        for parameter, direction in zip(parameters, directions, strict=True):
            wide = parameter if parameter.shape[0] <= parameter.shape[1] else parameter.T
            by_shape[wide.shape].append((wide, direction if wide is parameter else direction.T))
        for shape, pairs in by_shape.items():
            stacked = torch.stack([direction.to(dtype) for _, direction in pairs])
            for (parameter, _), update in zip(pairs, orthogonalize(stacked), strict=True):
                parameter.add_(update, alpha=-lr * 0.2 * max(shape) ** 0.5)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of wide matrices `(N, rows, columns)` close to 1."""

    def polynomial(gram: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
        values = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        values.diagonal(dim1=1, dim2=2).add_(a)
        return values

    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    # A step is X -> P X with a polynomial P of X X', which is small and becomes P X X' P: X itself is multiplied only
    # once, at the end.
    gram = matrices @ matrices.mT
    factor = product = polynomial(gram, *NEWTON_SCHULZ[0])
    for coefficients in NEWTON_SCHULZ[1:]:
        gram = factor @ gram @ factor
        factor = polynomial(gram, *coefficients)
        product = factor @ product
    return product @ matrices


class MuonAdamW(Optimizer):
    """Muon and AdamW as one optimizer, which shares its parameter groups with both.

    Args:
        groups: Parameter groups with `lr` and `weight_decay`; groups of matrices have `"muon": True`.
        adamw: Further arguments of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any):
        matrices = [{k: v for k, v in group.items() if k != "muon"} for group in groups if group.get("muon")]
        others = [{k: v for k, v in group.items() if k != "muon"} for group in groups if not group.get("muon")]
        self.parts: tuple[Optimizer, ...] = (Muon(matrices), AdamW(others, **adamw))
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
        self.param_groups = self._groups()  # whose rates a schedule sets


def muon_groups(groups: list[dict[str, Any]], excluded: set[int]) -> list[dict[str, Any]]:
    """Split the matrices of parameter groups off into groups for Muon.

    Args:
        groups: Parameter groups of a torch optimizer.
        excluded: `id` of parameters that stay with AdamW whatever their shape, such as embedding tables.
    """
    split = []
    for group in groups:
        for matrices in (True, False):
            chosen = [p for p in group["params"] if (p.ndim == 2 and id(p) not in excluded) is matrices]
            if chosen and matrices:
                rates = {"lr": RATE * group["lr"], "weight_decay": group["weight_decay"] / RATE}
                split.append({**group, **rates, "params": chosen, "muon": True})
            elif chosen:
                split.append({**group, "params": chosen, "muon": False})
    return split
