"""Backbones that only have to run: batch norms folded, memory laid out for the CPU, or compiled by OpenVINO.

Most of the time from a clip to its features or its caption goes into the backbone. What is made of one here computes
the same features, up to rounding, but can be neither saved nor trained.
"""

import copy
import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling_vidcap.blocks_vidcap import RUNS_ONLY

BACKENDS = ("torch", "openvino")
TOLERANCE = 0.05  # of the largest feature, by which OpenVINO's may differ: it computes in bf16 where the CPU does
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers the options of mallopt


def use_fast_backbone(model: Any, processor: Any, backend: str = "torch") -> None:
    """Gives a captioner that shall only caption the fast copy of its backbone, in place.

    Args:
        model: The captioner, on its device; `save_pretrained` refuses it afterwards.
        processor: Its processor.
        backend: See [`fast_backbone`].
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    probe = probe_clip(model, processor, model.config.min_frames)
    backbone = fast_backbone(model.model.encoder.backbone, probe, backend)
    setattr(backbone, RUNS_ONLY, True)
    model.model.encoder.backbone = backbone


def probe_clip(model: Any, processor: Any, frames: int) -> torch.Tensor:
    """Pixels `(1, frames, C, H, W)` to compare back ends by, on the model's device: noise, since bf16 takes a smooth
    picture's slopes away, so that networks see another one."""
    size = processor.video_processor.size
    shape = (1, frames, 3, size["height"], size["width"])
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 2 - 1
    return noise.to(model.device, model.dtype)


@torch.no_grad()
def fast_backbone(backbone: Any, probe: torch.Tensor, backend: str = "torch", *, streams: int = 1) -> Any:
    """A copy of a [`VideoBackbone`] for inference.

    Args:
        backbone: The backbone; it is left as it is.
        probe: Pixels `(1, T, C, H, W)` to compare both by.
        backend: `torch` folds batch norms; `openvino` compiles the network for this CPU.
        streams: Threads that will call it at the same time, among which OpenVINO shares the cores out.

    Raises:
        ImportError: If openvino is missing.
        ValueError: For an unknown back end, or a backbone that OpenVINO cannot run or computes otherwise.
    """
    if backend not in BACKENDS:
        raise ValueError(f"--backend {backend}: there are {', '.join(BACKENDS)}")
    if backend == "torch":
        return for_inference(backbone, probe)
    if find_spec("openvino") is None:
        raise ImportError("--backend openvino needs openvino: pip install 'vidcap[openvino]'")
    if backbone.config.encodes_clips:
        raise ValueError("--backend openvino is for backbones that see each frame alone, this one sees clips")
    if probe.device.type != "cpu":
        raise ValueError(f"--backend openvino runs on the CPU, the model is on {probe.device}: add --device cpu")
    fast = copy.deepcopy(backbone).eval()
    # Twice as many frames as it was compiled with, and the same ones: a trace may hold what it should not.
    twice = probe.repeat(1, 2, 1, 1, 1)
    wanted = fast(twice)  # of the copy: in training the backbone itself may take its norms from the batch
    fast.maps = _compiled_maps(fast, tuple(probe.shape[-2:]), streams)
    found = fast(twice)
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"--backend openvino: features differ by {difference:.1%} of the largest from those of torch, more than "
            f"{TOLERANCE:.0%}; leave it out"
        )
    return fast


@cache
def _openvino_core() -> Any:
    """OpenVINO's core, one for the life of the process: each gives the main thread a stack for signals and takes it
    away when it goes, so that after two of them Python's next signal, such as a child's end, would be the last."""
    import openvino

    return openvino.Core()


def _compiled_maps(backbone: Any, size: tuple[int, ...], streams: int) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """`VideoBackbone.maps` for frames of `size` (height, width), compiled by OpenVINO."""
    import openvino

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.backbone.maps(frames))

    converted = openvino.convert_model(Maps().eval(), example_input=torch.zeros(2, 3, *size))
    converted.reshape([-1, 3, *size])
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": streams}
    compiled = _openvino_core().compile_model(converted, "CPU", options)
    own = threading.local()  # a request serves one thread

    def maps(frames: torch.Tensor) -> list[torch.Tensor]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer([frames.float().contiguous().numpy()], share_inputs=True)
        return [torch.from_numpy(found[index].copy()) for index in range(len(compiled.outputs))]

    return maps


@torch.no_grad()
def for_inference(backbone: nn.Module, probe: torch.Tensor) -> nn.Module:
    """A copy that computes the same features faster, but cannot be saved or trained.

    Convolutions over frames are laid out channels last (twice as fast on CPU). Each batch norm that stands behind one
    is folded into it, unless the features of `probe`, pixels `(1, T, C, H, W)`, are others then: in some networks
    what stands behind a convolution is not what its output goes to.
    """
    plain = copy.deepcopy(backbone).eval()
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):  # weights of clip encoders may have five axes, and no such layout
            module.to(memory_format=torch.channels_last)
    folded = copy.deepcopy(plain)
    for parent in list(folded.modules()):
        for (before, convolution), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm's norms hold what is behind them
    features = plain(probe)
    return folded if (folded(probe) - features).abs().max() <= 1e-3 * features.abs().max() else plain


def keep_freed_memory() -> None:
    """Makes the C library reuse large blocks of memory rather than return them to the system, which would have to
    clear them anew for every activation (a third of the time on CPU). Only glibc knows how; others are left alone."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)
