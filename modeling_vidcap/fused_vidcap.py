"""A backbone that only has to run, on a CPU: the same features, computed with fewer passes over memory.

Batch norms are folded into the convolutions before them, and a convolution, its bias and its activation are one
operation of oneDNN. A network whose strided convolutions pad more at the end than at the beginning ("SAME" padding)
runs mirrored, with mirrored kernels: mirrored, that padding is a plain convolution's, and no map is copied only to be
padded.
"""

import copy
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Read = Callable[[nn.Module, torch.Tensor], list[torch.Tensor]]  # a network and its frames -> its maps
# What oneDNN calls an activation, and its arguments.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}
TOLERANCE = 1e-3  # of the largest feature, by which features may differ; rounding makes up a thousandth of that


class FusedConv(nn.Module):
    """A convolution with the batch norm and the activation behind it.

    Args:
        conv, norm: What is fused; both stay as they are.
        activation: Of a type in [`ACTIVATIONS`].
        mirrored: Mirror the kernel, for a network that sees mirrored frames.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: nn.Module, *, mirrored: bool):
        super().__init__()
        folded = fuse_conv_bn_eval(conv, norm)
        weight = folded.weight.flip(2, 3) if mirrored else folded.weight
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = folded.bias
        padding = [(size - 1) // 2 for size in conv.kernel_size] if mirrored else list(conv.padding)
        self.geometry = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        # Networks that pad their maps themselves ask the convolution for these.
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.activation = ACTIVATIONS[type(activation)]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        name, values = self.activation
        return torch.ops.mkldnn._convolution_pointwise(maps, self.weight, self.bias, *self.geometry, name, values, "")


class FusedBackbone:
    """The fused copy of a [`VideoBackbone`]'s network, made when it is first needed and again after the weights have
    changed. Not a module: it has no weights of its own, and is neither saved nor moved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[Any, Any] = (None, None)

    def __deepcopy__(self, memo: dict) -> "FusedBackbone":
        return FusedBackbone()

    def __reduce__(self) -> Any:
        return FusedBackbone, ()

    def maps(self, net: nn.Module, frames: torch.Tensor, read: Read) -> list[torch.Tensor]:
        """The network's maps of frames `(F, 3, H, W)`; `read(net, frames)` gets them from what a network returns."""
        key = state_of(net) if can_fuse(frames) else None
        if key is None:
            return read(net, frames)
        with self._lock:
            if self._made[0] != key:
                self._made = (key, fuse(net, frames[:1], read))
            fused, mirrored = self._made[1]
        if not mirrored:
            return read(fused, frames)
        shown = frames.flip(2, 3).contiguous(memory_format=torch.channels_last)
        return [each.flip(2, 3) for each in read(fused, shown)]


def can_fuse(frames: torch.Tensor) -> bool:
    """Whether fused operations serve here: on a CPU in fp32, without gradient or tracing."""
    return not (
        frames.device.type != "cpu"
        or frames.dtype != torch.float32
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not torch.backends.mkldnn.is_available()
    )


def state_of(net: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """Tells one state of the weights from another; `None` if the network computes more than its weights say (it is
    being trained, or has hooks), or is not all in fp32."""
    state = []
    for module in net.modules():  # once, for this goes ahead of every clip
        if module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return None
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if tensor.is_inference() or tensor.dtype not in (torch.float32, torch.int64):
                return None
            state.append((tensor.data_ptr(), tensor._version))
    return tuple(state) or None


@torch.no_grad()
def fuse(net: nn.Module, probe: torch.Tensor, read: Read) -> tuple[nn.Module, bool]:
    """A copy of the network with all that can be fused, and whether it wants mirrored frames.

    Names tell what stands behind a convolution, and in some networks wrongly: where the maps of `probe`
    `(F, 3, H, W)` come out otherwise, less is fused.
    """
    wanted = read(net, probe)
    for mirrored in (True, False):
        if mirrored and not pads_at_the_end(net):
            continue
        fused = copy.deepcopy(net)
        for parent in list(fused.modules()):
            for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    activation = getattr(norm, "act", nn.Identity())  # timm's norms hold what is behind them
                    plain = mirrored or type(conv) is nn.Conv2d
                    if type(activation) in ACTIVATIONS and plain and isinstance(conv.padding, tuple):
                        setattr(parent, before, FusedConv(conv, norm, activation, mirrored=mirrored))
                        setattr(parent, name, nn.Identity())
        shown = probe.flip(2, 3) if mirrored else probe
        found = [each.flip(2, 3) if mirrored else each for each in read(fused, shown)]
        if all(same(one, other) for one, other in zip(found, wanted, strict=True)):
            return fused, mirrored
    return net, False


def pads_at_the_end(net: nn.Module) -> bool:
    """Whether a network pads as TensorFlow does, and is made of convolutions alone, so that it can run mirrored."""
    convolutions = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    plain = {nn.Conv2d, *ACTIVATIONS}
    others = {type(each) for each in net.modules() if not list(each.children())} - plain
    same = {type(each) for each in convolutions if type(each).__name__ == "Conv2dSame"}
    norms = {type(each) for each in net.modules() if isinstance(each, nn.BatchNorm2d)}
    return bool(same) and others <= same | norms


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * other.abs().max())


__all__ = ["FusedBackbone", "fuse"]
