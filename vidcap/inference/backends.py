"""What runs the backbone, where most of the time from a clip to its features or its caption goes: torch, or OpenVINO.

By torch a backbone fuses itself (`modeling_vidcap/fused_vidcap.py`). What OpenVINO compiles computes the same
features, up to rounding, but can be neither saved nor trained.
"""

import copy
import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from modeling_vidcap.blocks_vidcap import RUNS_ONLY

from ..precision import computes_in_bf16

BACKENDS = ("auto", "torch", "openvino")
TOLERANCE = 0.05  # of the largest feature, by which OpenVINO's may differ: it computes in bf16 where the CPU does
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers the options of mallopt


def use_fast_backbone(model: Any, processor: Any, backend: str = "torch") -> None:
    """Has a captioner that shall only caption run its backbone as fast as this machine can, in place.

    Args:
        model: The captioner, on its device; after OpenVINO has compiled its backbone, `save_pretrained` refuses it.
        processor: Its processor.
        backend: See [`fast_backbone`].
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    probe = probe_clip(model, processor, model.config.min_frames)
    backbone = fast_backbone(model.model.encoder.backbone, probe, backend)
    if backbone is not model.model.encoder.backbone:
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
    """A [`VideoBackbone`] for inference.

    Args:
        backbone: The backbone; it is left as it is, and returned itself by `torch`.
        probe: Pixels `(1, T, C, H, W)` to compare both by.
        backend: `openvino` compiles the network for this CPU. `auto` does so where OpenVINO is installed, gains
            something (the CPU computes in bf16) and can run this backbone.
        streams: Threads that will call it at the same time, among which OpenVINO shares the cores out.

    Raises:
        ImportError: If openvino is missing.
        ValueError: For an unknown back end, or a backbone that OpenVINO cannot run or computes otherwise.
    """
    if backend not in BACKENDS:
        raise ValueError(f"--backend {backend}: there are {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = choose_backend(backbone, probe.device)
    if backend == "torch":
        return backbone.eval()
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


def choose_backend(backbone: Any, device: torch.device) -> str:
    """What `auto` means here. Measured in fp32 on AVX2, torch's fused operations are as fast as OpenVINO's and need no
    compiling; in bf16 OpenVINO takes two thirds of the time (docs/log.md)."""
    suits = device.type == "cpu" and computes_in_bf16(device) and not backbone.config.encodes_clips
    return "openvino" if suits and find_spec("openvino") is not None else "torch"


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


def keep_freed_memory() -> None:
    """Makes the C library reuse large blocks of memory rather than return them to the system, which would have to
    clear them anew for every activation (a third of the time on CPU). Only glibc knows how; others are left alone."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)
