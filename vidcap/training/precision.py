"""bf16 where it is faster, found by trying."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..precision import faster_in_bf16


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
