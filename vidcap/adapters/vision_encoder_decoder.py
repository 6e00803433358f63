"""A video encoder and a language model in a `VisionEncoderDecoderModel`, such as TimeSformer with GPT-2.

Such models have no processor class: their repository holds an image or video processor and a tokenizer, or these are
passed separately.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, PreTrainedModel

from processing.support.trusted import has_frame_processor

from .base import CaptionAdapter, Processor, SeparateProcessor


class VisionEncoderDecoderAdapter(CaptionAdapter):
    """Any encoder that takes `pixel_values` of clips `(B, T, 3, H, W)`: TimeSformer, ViViT, VideoMAE."""

    family = "VisionEncoderDecoder"
    separate_processor = True

    def __init__(self, model: PreTrainedModel, processor: Processor):
        encoder = model.config.encoder
        if "num_frames" not in encoder.to_dict():
            raise ValueError(
                f"{model.name_or_path or 'this model'}: its encoder of type {encoder.model_type} takes single images; "
                "take a model with a video encoder (timesformer, vivit, videomae)"
            )
        super().__init__(model, processor)

    @property
    def fixed_frames(self) -> int:
        """One per temporal embedding of the encoder."""
        return self.config.encoder.num_frames

    @classmethod
    def load_processor(cls, name: str, *, trust_remote_code: bool = False, **kwargs) -> SeparateProcessor:
        """Load tokenizer and image or video processor from the same folder or Hub id."""
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)
        try:
            images = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)
            return SeparateProcessor(tokenizer, images)
        except (OSError, ValueError) as error:
            try:
                videos = AutoVideoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)
                return SeparateProcessor(tokenizer, video_processor=videos)
            except (OSError, ValueError):
                if has_frame_processor(name):
                    raise OSError(f"{name}: its image or video processor cannot be read: {error}") from error
                raise OSError(
                    f"{name} has no image or video processor: save the encoder's there with save_pretrained, or pass "
                    "image_processor= to the pipeline"
                ) from error

    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        """`pixel_values` `(1, T, 3, H, W)`."""
        if self.processor.image_processor is not None:
            pixels = self.processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]
            # Processors of clips return a batch of one clip, those of images a batch of frames.
            return {"pixel_values": pixels if pixels.ndim == 5 else pixels[None]}
        return {"pixel_values": self.processor.video_processor([frames], return_tensors="pt")["pixel_values"]}
