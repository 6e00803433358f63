"""Which clips are usual is learnt from the training clips, once the weights are final."""

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from modeling_vidcap.scoring_vidcap import TooFewClipsError
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.streams import StreamedClips

logger = logging.getLogger(__name__)
SAMPLE = 5_000  # training clips that tell what is usual


@torch.inference_mode()
def fit_novelty(
    model: Any, collator: VideoCaptionCollator, training: ClipDataset | StreamedClips, validation: ClipDataset
) -> None:
    """Stores in the model which clips are usual, so that it can tell when one is not; see `VideoCaptionNovelty`.

    Args:
        model: Is left in evaluation mode.
        collator: Makes batches of clips.
        training: Of these at most [`SAMPLE`] are taken, without their augmentation.
        validation: Say how far out a usual clip lies.
    """
    model.eval()
    plain = copy.copy(training)
    plain.augmentation = None

    def summaries(clips: ClipDataset | StreamedClips) -> Iterator[torch.Tensor]:
        few: Iterator[Any]
        if isinstance(clips, ClipDataset):  # spread over them: those of one source may stand together
            few = (clips[i] for i in range(0, len(clips), max(1, len(clips) // SAMPLE)))
        else:
            few = clips.one_pass()
        few = itertools.islice(few, SAMPLE)
        while batch := list(itertools.islice(few, 64)):
            inputs = {name: value.to(model.device) for name, value in collator.videos(batch).items()}
            features = inputs.get("video_features")
            if features is None:
                features = model.backbone(inputs["pixel_values_videos"])
            yield model.novelty.summarise(features, inputs["video_mask"]).cpu()

    try:
        model.novelty.fit(summaries(plain), summaries(validation))
    except TooFewClipsError as error:
        logger.warning(f"what clips are unlike those of training will not be told: {error}")
