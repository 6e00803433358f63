"""The precision of a training: bf16 where a trial shows that it is faster."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from modeling_vidcap import VideoCaptionForConditionalGeneration
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator

from ..precision import faster_in_bf16
from .arguments.training_arguments import VideoCaptionTrainingArguments


def choose_precision(
    args: VideoCaptionTrainingArguments,
    given: Collection[str],
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    clips: ClipDataset,
    *,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Turn on bf16 autocast if it makes a training step faster.

    A precision that was given (`--bf16 False` is one), or set by accelerate, stays. A resumed run keeps its own.

    Args:
        args: Its `bf16` and `mixed_precision` are set.
        given: Names of the options that were given.
        model: Is moved to the device, and otherwise left as it was.
        collator: Makes the batch of the trial.
        clips: Clips of that batch.
        manifest: Manifest of the checkpoint to resume from.
    """
    if manifest and "bf16" in manifest:
        args.bf16 = manifest["bf16"]
        args.mixed_precision = "bf16" if args.bf16 else args.mixed_precision
        return
    if {"bf16", "fp16"} & set(given) or "ACCELERATE_MIXED_PRECISION" in os.environ:
        return
    with trial_step(args, model, collator, clips) as step:
        args.bf16 = faster_in_bf16(step, args.device)
    args.mixed_precision = "bf16" if args.bf16 else "no"  # was derived from `bf16` when the arguments were parsed


@contextmanager
def trial_step(
    args: VideoCaptionTrainingArguments,
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    clips: ClipDataset,
) -> Iterator[Callable[[], None]]:
    """A pass over one batch that leaves model and random numbers unchanged."""
    batch = collator([clips[index % len(clips)] for index in range(args.per_device_train_batch_size)])
    model.to(args.device).train()  # type: ignore[arg-type]
    batch = {name: value.to(args.device) for name, value in batch.items()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # such as running means of a batch norm
    with torch.random.fork_rng(devices=[args.device] if args.device.type == "cuda" else []):
        yield lambda: model(**batch).loss.backward()
    model.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)


def describe_training(args: VideoCaptionTrainingArguments) -> str:
    """Device, precision, optimizer and batch size of a training, in one line."""
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    if args.device.type == "cpu":
        device = f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    optimizer = "Muon and AdamW" if args.uses_muon else str(args.optim)
    return f"training on {device}: {precision}, {optimizer}, batches of {args.per_device_train_batch_size}"
