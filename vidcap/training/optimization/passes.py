"""A warning before training if its time is too short for its clips."""

import logging
import math
import statistics
import time

import torch
from transformers.trainer_utils import has_length

from modeling_vidcap import VideoCaptionForConditionalGeneration
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator

from ..arguments.training_arguments import VideoCaptionTrainingArguments
from ..precision import trial_step

logger = logging.getLogger(__name__)
FEW_PASSES = 20  # over the clips; after 10 to 13 of them most captions of emoji clips were wrong (docs/log.md)
OVERHEAD = 1.15  # duration of a step relative to its forward and backward pass: the optimizer, the reading of clips
TRIALS = 3


def check_passes(
    args: VideoCaptionTrainingArguments,
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    clips: object,
    trial_clips: ClipDataset,
) -> None:
    """Warn if `max_train_minutes` allows few passes over the clips.

    This times a few steps. Several processes, streams (whose length is unknown) and continued trainings (which need
    fewer passes) are not checked.

    Args:
        clips: Clips to train on, of which only the number counts.
        trial_clips: Clips of the batch that is timed; nothing about them may be random.
    """
    if args.max_train_minutes is None or args.processor_time or args.world_size > 1:
        return
    if not has_length(clips) or model.name_or_path or args.self_critical_samples:
        return
    count = len(clips)
    seconds = OVERHEAD * seconds_per_batch(args, model, collator, trial_clips)
    passes = 60 * args.max_train_minutes / seconds * args.per_device_train_batch_size / count
    if passes >= FEW_PASSES:
        return
    enough = FEW_PASSES * count / args.per_device_train_batch_size * seconds / 60
    logger.warning(
        f"--max_train_minutes {args.max_train_minutes:g} allows about {passes:.2g} passes over {count:,} clips, and "
        f"fewer than {FEW_PASSES} are rarely enough; give --max_train_minutes {round_up(enough)}, or take a smaller "
        "model (--preset 1m is the smallest)"
    )


def seconds_per_batch(
    args: VideoCaptionTrainingArguments,
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    clips: ClipDataset,
) -> float:
    """Measure the seconds of a forward and a backward pass."""
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
    """Minutes rounded up, with one decimal below ten."""
    return f"{math.ceil(10 * minutes) / 10:g}" if minutes < 10 else f"{math.ceil(minutes)}"
