"""Loaders of training batches that a resumed run reproduces."""

from collections.abc import Callable, Sized
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import Dataset
from transformers.trainer_utils import has_length

from processing.clips.clip_dataset import ClipDataset
from processing.clips.epochs import EpochBatches, SeededClips
from processing.clips.mixtures import MixedEpochBatches
from processing.clips.streams import StreamBatches, StreamedClips

from .arguments.training_arguments import VideoCaptionTrainingArguments


def train_loader(
    clips: Dataset, collate: Callable[..., dict[str, Any]], args: VideoCaptionTrainingArguments, *, batch_size: int
) -> DataLoaderShard:
    """This rank's batches, by [`EpochBatches`] or from a stream.

    Args:
        clips: A data set of clips, or [`StreamedClips`].
        collate: Collator of training batches.
        args: Source of rank, device, seed and workers.
        batch_size: Clips per batch and rank.

    Raises:
        ValueError: If the clips have no length and are not [`StreamedClips`].
    """
    common: dict[str, Any] = {
        "device": args.device,
        "pin_memory": args.dataloader_pin_memory,
        "generator": torch.Generator(),  # workers' seeds must take nothing from the model's random numbers
    }
    if isinstance(clips, StreamedClips):
        clips.split(args.process_index, args.world_size)
        return DataLoaderShard(clips, batch_size=batch_size, collate_fn=StreamBatches(collate), **common)
    if not has_length(clips):
        raise ValueError(f"{type(clips).__name__} has no length: pass a Dataset, or StreamedClips for a stream")
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


def epoch_batches(clips: Sized, args: VideoCaptionTrainingArguments, *, batch_size: int) -> EpochBatches:
    """Indices of this rank's batches, drawn by weights if there are some."""
    options: dict[str, Any] = {
        "seed": args.draw_seed,
        "rank": args.process_index,
        "world_size": args.world_size,
        "drop_last": args.dataloader_drop_last,
    }
    if isinstance(clips, ClipDataset) and clips.mixture is not None and clips.mixture.weights is not None:
        return MixedEpochBatches(clips.source_sizes(), clips.mixture.weights, batch_size, **options)
    return EpochBatches(len(clips), batch_size, **options)
