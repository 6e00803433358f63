"""Support for bf16 on a device, and whether it is faster."""

import statistics
import time
from collections.abc import Callable

import torch

from .ranks import on_every_rank


def faster_in_bf16(work: Callable[[], object], device: torch.device, *, repeats: int = 3) -> bool:
    """Whether `work` runs faster under bf16 autocast than in fp32 on this device.

    GPUs that compute in bf16 always gain. CPUs gain only with instructions for it (without, they are tens of times
    slower, too slow even for a trial), and not with small layers, so that both precisions are timed alternately and
    their medians compared. All ranks must agree, since their tensors have to be of one type.
    """
    if not on_every_rank(computes_in_bf16(device), device):
        return False
    if device.type == "cuda":
        return True
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(repeats + 1):
        for enabled in (True, False):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                work()
            if repeat:  # the first round includes allocations
                seconds[enabled].append(time.perf_counter() - start)
    faster = statistics.median(seconds[True]) < 0.9 * statistics.median(seconds[False])
    return on_every_rank(faster, device)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16.

    A CPU needs `amx_bf16`, `avx512_bf16` or the like, and `ATEN_CPU_CAPABILITY` must not keep torch from using them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    # Older versions of torch do not tell, and compute in fp32, which every CPU does well.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(there for name, there in capabilities.items() if name.endswith("bf16"))
