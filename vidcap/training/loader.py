"""Batches of training clips that a resumed run finds again, each clip once an epoch over all ranks."""

from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from transformers.trainer_utils import has_length

from processing.clips.clip_dataset import ClipDataset
from processing.clips.epochs import EpochBatches, SeededClips
from processing.clips.mixtures import MixedEpochBatches
from processing.clips.streams import StreamBatches, StreamedClips

from .arguments.training_arguments import VideoCaptionTrainingArguments


def train_loader(
    clips: Any, collate: Callable[..., Any], args: VideoCaptionTrainingArguments, *, batch_size: int
) -> DataLoaderShard:
    """This rank's batches: of a stream as they come, with where each ends; else by [`EpochBatches`].

    Args:
        clips: A `Dataset` of clips, or [`StreamedClips`].
        collate: Makes a batch of them.
        args: Tell rank, device, seed and workers.
        batch_size: Of one rank.

    Raises:
        ValueError: If the clips have no length and are no [`StreamedClips`].
    """
    common: dict[str, Any] = {
        "device": args.device,
        "pin_memory": args.dataloader_pin_memory,
        "generator": torch.Generator(),  # workers' seeds are to take nothing from the model's random numbers
    }
    if isinstance(clips, StreamedClips):
        clips.split(args.process_index, args.world_size)
        return DataLoaderShard(clips, batch_size=batch_size, collate_fn=StreamBatches(collate), **common)
    if not has_length(clips):
        raise ValueError(f"{type(clips).__name__} has no length: give a Dataset, or StreamedClips for a stream")
    return DataLoaderShard(
        SeededClips(clips),
        batch_sampler=epoch_batches(clips, args, batch_size=batch_size),
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        **common,
    )


def epoch_batches(clips: Any, args: VideoCaptionTrainingArguments, *, batch_size: int) -> EpochBatches:
    """Which clips make up this rank's batches; by the weights of a mixture that has some."""
    options: dict[str, Any] = {
        "seed": args.draw_seed,
        "rank": args.process_index,
        "world_size": args.world_size,
        "drop_last": args.dataloader_drop_last,
    }
    if isinstance(clips, ClipDataset) and clips.mixture is not None and clips.mixture.weights is not None:
        return MixedEpochBatches(clips.source_sizes(), clips.mixture.weights, batch_size, **options)
    return EpochBatches(len(cast(Any, clips)), batch_size, **options)
