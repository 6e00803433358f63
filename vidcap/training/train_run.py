"""The state that the parts of a run share."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modeling_vidcap import VideoCaptionForConditionalGeneration
from processing import VideoCaptionProcessor
from processing.clips.near_misses import NearMisses

from .arguments.data_arguments import DataArguments
from .arguments.model_arguments import ModelArguments
from .arguments.training_arguments import VideoCaptionTrainingArguments
from .clips import FrameDraw, TrainingClips

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


@dataclass(frozen=True)
class TrainRun:
    """What a run knows when it starts to train.

    Args:
        data: Options on data.
        model_arguments: Options that the model was made by, with every default filled in.
        args: Options on training; bf16 is decided just before it starts.
        given: Names of the options that were given in a recipe, a preset or on the command line.
        captions: All captions of each training clip.
        model: The captioner to train, on its device.
        processor: Its processor.
        adapters: LoRA adapters of the model, to be merged at the end.
        clips: The splits.
        frames: Selection and augmentation of the frames of training clips.
        near_misses: Source of hard negatives, if they were asked for.
        settings: What the run must share with a checkpoint to resume from it unasked.
        resume: Checkpoint to resume from.
        started: `time.perf_counter()` at the start of the process.
    """

    data: DataArguments
    model_arguments: ModelArguments
    args: VideoCaptionTrainingArguments
    given: frozenset[str]
    captions: list[list[str]]
    model: VideoCaptionForConditionalGeneration
    processor: VideoCaptionProcessor
    adapters: "list[LoraModel]"
    clips: TrainingClips
    frames: FrameDraw
    near_misses: NearMisses | None
    settings: dict[str, Any]
    resume: str | None
    started: float

    @property
    def train_captions(self) -> list[str]:
        """All training captions in one list."""
        return list(itertools.chain(*self.captions))
