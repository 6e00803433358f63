"""Fitting of the novelty detector to the training clips, once the weights are final."""

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.scoring_vidcap import TooFewClipsError
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.streams import StreamedClips

logger = logging.getLogger(__name__)
SAMPLE = 5_000  # training clips to fit to, at most


@torch.inference_mode()
def fit_novelty(
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    training: ClipDataset | StreamedClips,
    validation: ClipDataset,
) -> None:
    """Fit the model's `VideoCaptionNovelty` to its clips, so that it recognises unusual ones.

    Args:
        model: Is left in evaluation mode.
        collator: Collator of clips without drawing.
        training: At most [`SAMPLE`] of these clips are taken, without augmentation.
        validation: Clips that set the usual distance.
    """
    model.eval()
    plain = copy.copy(training)
    plain.augmentation = None

    def summaries(clips: ClipDataset | StreamedClips) -> Iterator[torch.Tensor]:
        sample: Iterator[Any]
        if isinstance(clips, ClipDataset):  # evenly spread, since clips of one source may follow one another
            sample = (clips[i] for i in range(0, len(clips), max(1, len(clips) // SAMPLE)))
        else:
            sample = clips.one_pass()
        sample = itertools.islice(sample, SAMPLE)
        while batch := list(itertools.islice(sample, 64)):
            inputs = {name: value.to(model.device) for name, value in collator.videos(batch).items()}
            features = inputs.get("video_features")
            if features is None:
                features = model.backbone(inputs["pixel_values_videos"])
            yield model.novelty.summarise(features, inputs["video_mask"]).cpu()

    try:
        model.novelty.fit(summaries(plain), summaries(validation))
    except TooFewClipsError as error:
        logger.warning(f"the model will not recognise clips unlike those of training: {error}")
