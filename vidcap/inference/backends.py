"""Backends for the backbone, which takes most of the time of captioning: torch or OpenVINO.

With torch a backbone fuses itself (`modeling_vidcap/fused_vidcap.py`). A backbone compiled by OpenVINO computes the
same features up to rounding, but can be neither saved nor trained.
"""

import copy
import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modeling_vidcap.blocks_vidcap import INFERENCE_ONLY

from ..precision import computes_in_bf16

if TYPE_CHECKING:
    from modeling_vidcap.backbones_vidcap import VideoBackbone

    from .captioning import Model, Processor

BACKENDS = ("auto", "torch", "openvino")
TOLERANCE = 0.05  # maximum difference relative to the largest feature: OpenVINO uses bf16 where the CPU supports it
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt as in <malloc.h>


def use_fast_backbone(model: "Model", processor: "Processor", backend: str = "torch") -> None:
    """Prepare a captioner for fast inference, in place.

    Args:
        model: The captioner, on its device; with OpenVINO, `save_pretrained` refuses it from then on.
        processor: Its processor.
        backend: See [`fast_backbone`].
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    probe = probe_clip(model, processor, model.config.min_frames)
    backbone = fast_backbone(model.backbone, probe, backend)
    if backbone is not model.backbone:
        setattr(backbone, INFERENCE_ONLY, True)
        model.get_encoder().backbone = backbone


def probe_clip(model: "Model", processor: "Processor", frames: int) -> torch.Tensor:
    """Pixels `(1, frames, C, H, W)` for comparing backends, on the model's device.

    Noise, since in bf16 smooth images lose their gradients, so that networks see other images.
    """
    size = processor.video_processor.size
    shape = (1, frames, 3, size["height"], size["width"])
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 2 - 1
    return noise.to(model.device, model.dtype)


@torch.no_grad()
def fast_backbone(
    backbone: "VideoBackbone", probe: torch.Tensor, backend: str = "torch", *, streams: int = 1
) -> "VideoBackbone":
    """A [`VideoBackbone`] for inference.

    Args:
        backbone: Left unchanged, and returned itself with `torch`.
        probe: Pixels `(1, T, C, H, W)` for comparing features.
        backend: `openvino` compiles the network for this CPU. `auto` does so if OpenVINO is installed, faster (the
            CPU computes in bf16) and able to run this backbone.
        streams: Number of threads that will call it concurrently and share the cores under OpenVINO.

    Raises:
        ImportError: If openvino is missing.
        ValueError: For an unknown backend, or a backbone that OpenVINO cannot run or computes differently.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto":
        backend = choose_backend(backbone, probe.device)
    if backend == "torch":
        return backbone.eval()
    if find_spec("openvino") is None:
        raise ImportError("backend openvino needs openvino: pip install 'vidcap[openvino]'")
    if backbone.config.encodes_clips:
        raise ValueError("backend openvino needs a backbone that sees each frame alone, and this one sees clips")
    if probe.device.type != "cpu":
        raise ValueError(f"backend openvino runs on the CPU, but the model is on {probe.device}: set `device` to cpu")
    fast: Any = copy.deepcopy(backbone).eval()
    # Twice as many frames as in the trace, which may contain their number.
    twice = probe.repeat(1, 2, 1, 1, 1)
    expected = fast(twice)  # by the copy, since in training the backbone itself may take its norms from the batch
    fast.maps = _compiled_maps(fast, tuple(probe.shape[-2:]), streams)
    difference = ((fast(twice) - expected).abs().max() / expected.abs().max()).item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"backend openvino: features differ from those of torch by {difference:.1%} of the largest, more than "
            f"{TOLERANCE:.0%}; use torch"
        )
    return fast


def choose_backend(backbone: "VideoBackbone", device: torch.device) -> str:
    """The backend of `auto`.

    In fp32 on AVX2, torch's fused operations are as fast as OpenVINO's and need no compiling; in bf16 OpenVINO takes
    two thirds of the time (docs/log.md).
    """
    suits = device.type == "cpu" and computes_in_bf16(device) and not backbone.config.encodes_clips
    return "openvino" if suits and find_spec("openvino") is not None else "torch"


@cache
def _openvino_core() -> Any:
    """OpenVINO's core, created once per process.

    A core gives the main thread a stack for signals and removes it at its end: with a second core, Python's next
    signal, such as the end of a child process, would crash.
    """
    import openvino

    return openvino.Core()


def _compiled_maps(
    backbone: "VideoBackbone", size: tuple[int, ...], streams: int
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
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
    local = threading.local()  # a request serves one thread

    def maps(frames: torch.Tensor) -> list[torch.Tensor]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        outputs = local.request.infer([frames.float().contiguous().numpy()], share_inputs=True)
        return [torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs))]

    return maps


def keep_freed_memory() -> None:
    """Make glibc reuse large blocks of memory instead of returning them to the system.

    The system would clear them anew for every activation, a third of the time on CPU.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)
