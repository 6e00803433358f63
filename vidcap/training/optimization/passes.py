"""Whether the time of a training is enough for its clips, said before it starts."""

import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.trainer_utils import has_length

from ..precision import trial_step

logger = logging.getLogger(__name__)
FEW_PASSES = 20  # over the clips; after 10 to 13 of them most captions of emoji clips were wrong (docs/log.md)
OVERHEAD = 1.15  # times forward and backward pass that a step takes: the optimizer, the reading of clips
TRIALS = 3


def check_passes(args: Any, model: Any, collator: Callable[..., Any], clips: Any, trial_clips: Any) -> None:
    """Warns if `max_train_minutes` allows fewer than `FEW_PASSES` passes over the clips, with the number of minutes
    that would be enough. Steps are timed for that, so that several processes, a stream, whose length is not known, and
    a trained model, which needs fewer passes, are left out.

    Args:
        args: The training arguments.
        model, collator: What is trained, and what makes its batches.
        clips: To train on; only their number counts.
        trial_clips: Make the batch of the steps that are timed; nothing is drawn at random of them.
    """
    if args.max_train_minutes is None or args.processor_time or args.world_size > 1:
        return
    if not has_length(clips) or model.name_or_path or args.self_critical_samples:
        return
    seconds = OVERHEAD * seconds_per_batch(args, model, collator, trial_clips)
    batches = 60 * args.max_train_minutes / seconds
    passes = batches * args.per_device_train_batch_size / len(clips)
    if passes >= FEW_PASSES:
        return
    enough = FEW_PASSES * len(clips) / args.per_device_train_batch_size * seconds / 60
    logger.warning(
        f"--max_train_minutes {args.max_train_minutes:g} allows about {passes:.2g} passes over {len(clips):,} clips, "
        f"and fewer than {FEW_PASSES} are seldom enough: give --max_train_minutes {round_up(enough)}, or take a "
        "smaller model (--preset 1m is the smallest)"
    )


def seconds_per_batch(args: Any, model: Any, collator: Callable[..., Any], clips: Any) -> float:
    """Seconds of a forward and a backward pass, by trying."""
    seconds = []
    with trial_step(args, model, collator, clips) as step:
        for _ in range(1 + TRIALS):  # the first pays for allocations
            start = time.perf_counter()
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
                step()
            if args.device.type == "cuda":
                torch.cuda.synchronize(args.device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def round_up(minutes: float) -> str:
    """A number of minutes with one digit below ten, none above."""
    return f"{math.ceil(10 * minutes) / 10:g}" if minutes < 10 else f"{math.ceil(minutes)}"
