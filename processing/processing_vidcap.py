"""Videos and captions -> model inputs, and generated ids -> captions.

The tokenizer decides what surrounds a caption, and is expected to append its end token. Labels are made elsewhere. A
saved processor carries the code of this file and of all that it imports.
"""

import os
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs, TextKwargs

from .video_processing_vidcap import VideoCaptionVideoProcessor, VideoCaptionVideoProcessorKwargs, check_option_names


class VideoCaptionProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call of [`VideoCaptionProcessor`]: those of the tokenizer and of the video processor."""

    videos_kwargs: VideoCaptionVideoProcessorKwargs  # type: ignore[misc]
    _defaults = {}  # type: ignore[misc]  # read by transformers before 5.23


class VideoCaptionProcessor(ProcessorMixin):
    """
    A video processor and a tokenizer in one.

    Args:
        video_processor ([`VideoCaptionVideoProcessor`]): prepares the clips.
        tokenizer ([`PreTrainedTokenizerBase`]): turns captions into ids that end with the end token, and back.
    """

    valid_processor_kwargs = VideoCaptionProcessorKwargs  # type: ignore[assignment]
    _auto_class: Any = "AutoProcessor"  # makes transformers save the code, too

    def __init__(self, video_processor: VideoCaptionVideoProcessor, tokenizer: PreTrainedTokenizerBase):
        super().__init__(video_processor, tokenizer)

    def __call__(
        self,
        videos: object = None,
        text: str | list[str] | None = None,
        **kwargs: Unpack[VideoCaptionProcessorKwargs],
    ) -> BatchFeature:
        """
        Prepare clips, captions or both.

        Args:
            videos (*optional*): a clip or a list of clips of any kinds.
            text (`str` or `list[str]`, *optional*): captions.
            **kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, `return_tensors` ...) and of the
                video processor (`num_frames`, `size` ...), flat or as `text_kwargs={...}` and `videos_kwargs={...}`.

        Returns:
            [`BatchFeature`]: for clips `pixel_values_videos`, `video_mask` and `video_times`, for captions `input_ids`
            and `attention_mask`.

        Raises:
            `VideoDecodeError`: if a clip cannot be read.
            `TypeError`: for an unknown option.
            `ValueError`: if there are neither clips nor captions.
        """
        if videos is None and text is None:
            raise ValueError("pass videos, text or both")
        known = set(TextKwargs.__annotations__) | set(self.video_processor.valid_kwargs.__annotations__)
        names = set(kwargs) - {"text_kwargs", "videos_kwargs"}
        check_option_names(names.union(kwargs.get("text_kwargs", {}), kwargs.get("videos_kwargs", {})), known)

        kinds: Any = VideoCaptionProcessorKwargs
        merged = self._merge_kwargs(kinds, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        data: dict[str, Any] = {}
        if videos is not None:
            data.update(self.video_processor(videos, **merged["videos_kwargs"]))
        if text is not None:
            data.update(self.tokenizer(text, **merged["text_kwargs"]))
        return BatchFeature(data, tensor_type=merged["text_kwargs"].get("return_tensors"))

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """As in transformers, without the folder that the tokenizer was loaded from."""
        for name in ("is_local", "local_files_only", "auto_map"):
            self.tokenizer.init_kwargs.pop(name, None)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def post_process_generation(self, generated_ids: torch.Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Turn generated ids `(B, L)` into one caption per row, without special tokens and surrounding space."""
        return [caption.strip() for caption in self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True)]
