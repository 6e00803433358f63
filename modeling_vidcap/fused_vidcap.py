"""A fused copy of a backbone for inference on a CPU: the same features in fewer passes over memory.

Batch norms are folded into the preceding convolutions, and a convolution, its bias and its activation are one
operation of oneDNN. A network whose strided convolutions pad more at the end than at the beginning ("SAME" padding)
runs mirrored, with mirrored kernels: that padding is then a plain convolution's, and no map is copied only to be
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
# Activations with their names in oneDNN and their arguments.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}
TOLERANCE = 1e-3  # maximum difference relative to the largest feature; rounding is a thousandth of that


class FusedConv(nn.Module):
    """A convolution fused with the batch norm and the activation after it.

    Args:
        conv, norm: Left unchanged.
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
        # Networks that pad their maps themselves read these.
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.activation = ACTIVATIONS[type(activation)]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        name, values = self.activation
        return torch.ops.mkldnn._convolution_pointwise(maps, self.weight, self.bias, *self.geometry, name, values, "")


class FusedBackbone:
    """The fused copy of a [`VideoBackbone`]'s network, made on first use and again when the weights change.

    Not a module: it has no weights of its own, and is neither saved nor moved.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[Any, Any] = (None, None)

    def __deepcopy__(self, memo: dict) -> "FusedBackbone":
        return FusedBackbone()

    def __reduce__(self) -> Any:
        return FusedBackbone, ()

    def maps(self, net: nn.Module, frames: torch.Tensor, read: Read) -> list[torch.Tensor]:
        """The network's maps of frames `(F, 3, H, W)`; `read(net, frames)` extracts them from its outputs."""
        key = state_of(net) if can_fuse(frames) else None
        if key is None:
            return read(net, frames)
        with self._lock:
            if self._made[0] != key:
                self._made = (key, fuse(net, frames[:1], read))
            fused, mirrored = self._made[1]
        if not mirrored:
            return read(fused, frames)
        flipped = frames.flip(2, 3).contiguous(memory_format=torch.channels_last)
        return [maps.flip(2, 3) for maps in read(fused, flipped)]


def can_fuse(frames: torch.Tensor) -> bool:
    """Whether fused operations apply: on a CPU in fp32, without gradient or tracing."""
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
    """A key that changes with the weights; `None` if the network cannot be fused.

    It cannot if it is being trained, has hooks, or is not entirely in fp32.
    """
    state = []
    for module in net.modules():  # a single pass, since this runs before every clip
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
    """A copy of the network, fused as far as possible, and whether it takes mirrored frames.

    The order of names tells which norm follows a convolution, but is wrong in some networks: where the maps of `probe`
    `(F, 3, H, W)` change, less is fused.
    """
    expected = read(net, probe)
    for mirrored in (True, False):
        if mirrored and not pads_at_the_end(net):
            continue
        fused = copy.deepcopy(net)
        for parent in list(fused.modules()):
            for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    activation = getattr(norm, "act", nn.Identity())  # timm's norms contain their activation
                    plain = mirrored or type(conv) is nn.Conv2d
                    if type(activation) in ACTIVATIONS and plain and isinstance(conv.padding, tuple):
                        setattr(parent, before, FusedConv(conv, norm, activation, mirrored=mirrored))
                        setattr(parent, name, nn.Identity())
        frames = probe.flip(2, 3) if mirrored else probe
        maps = [map_.flip(2, 3) if mirrored else map_ for map_ in read(fused, frames)]
        if all(nearly_equal(one, other) for one, other in zip(maps, expected, strict=True)):
            return fused, mirrored
    return net, False


def pads_at_the_end(net: nn.Module) -> bool:
    """Whether a network pads as TensorFlow does and consists of convolutions only, so that it can run mirrored."""
    modules = list(net.modules())
    others = {type(module) for module in modules if not list(module.children())} - {nn.Conv2d, *ACTIVATIONS}
    padded = {
        type(module) for module in modules if isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame"
    }
    norms = {type(module) for module in modules if isinstance(module, nn.BatchNorm2d)}
    return bool(padded) and others <= padded | norms


def nearly_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
