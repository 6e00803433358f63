"""bf16 where it is faster, found by trying."""

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from .ranks import on_every_rank


def choose_precision(
    args: Any,
    given: Collection[str],
    model: Any,
    collator: Callable[..., Any],
    clips: Any,
    *,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Turns on bf16 autocast where a training step is faster with it, unless a precision is among the options given
    (`--bf16 False` is one) or set by accelerate. A run that is resumed keeps its own.

    Args:
        args: The training arguments; `bf16` and `mixed_precision` are set.
        given: Names of the options that were given.
        model: Is put on the device, and otherwise left as it was.
        collator, clips: Make the batch that is tried.
        manifest: What the checkpoint to resume from says of itself.
    """
    if manifest and "bf16" in manifest:
        args.bf16 = manifest["bf16"]
        args.mixed_precision = "bf16" if args.bf16 else args.mixed_precision
        return
    if {"bf16", "fp16"} & set(given) or "ACCELERATE_MIXED_PRECISION" in os.environ:
        return
    with trial_step(args, model, collator, clips) as step:
        args.bf16 = faster_in_bf16(step, args.device)
    args.mixed_precision = "bf16" if args.bf16 else "no"  # derived from `bf16` when the arguments were parsed


@contextmanager
def trial_step(args: Any, model: Any, collator: Callable[..., Any], clips: Any) -> Iterator[Callable[[], None]]:
    """Forward and backward pass of one batch, to be timed; afterwards model and random numbers are what they were."""
    batch = collator([clips[index % len(clips)] for index in range(args.per_device_train_batch_size)])
    model.to(args.device).train()
    batch = {name: value.to(args.device) for name, value in batch.items()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # such as the running means of a batch norm
    with torch.random.fork_rng(devices=[args.device] if args.device.type == "cuda" else []):
        yield lambda: model(**batch).loss.backward()
    model.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)


def describe_training(args: Any) -> str:
    """What a training computes with, in one line: device, precision, optimizer, batch size."""
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    if args.device.type == "cpu":
        device = f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    optimizer = "Muon and AdamW" if args.uses_muon else str(args.optim)
    return f"training on {device}: {precision}, {optimizer}, batches of {args.per_device_train_batch_size}"


def faster_in_bf16(work: Callable[[], object], device: torch.device, *, repeats: int = 3) -> bool:
    """Whether `work` runs faster under bf16 autocast than in fp32 on this device.

    GPUs that compute in bf16 always gain. CPUs gain only with instructions for it (without, they are tens of times
    slower: even to try takes most of a minute), and small layers not even then, so that the two are timed in turn and
    their medians compared. Of several ranks each must find it
    faster: in two precisions their tensors would not fit together.
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
            if repeat:  # the first round pays for allocations
                seconds[enabled].append(time.perf_counter() - start)
    faster = statistics.median(seconds[True]) < 0.9 * statistics.median(seconds[False])
    return on_every_rank(faster, device)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16: of CPUs those with `amx_bf16`, `avx512_bf16` and the like, unless
    `ATEN_CPU_CAPABILITY` keeps torch from using them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
