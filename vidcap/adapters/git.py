"""GIT (https://arxiv.org/abs/2205.14100) for video, such as microsoft/git-base-vatex."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from .base import CaptionAdapter, Processor


class GitAdapter(CaptionAdapter):
    """`GitForCausalLM`: a decoder that reads the patches of a few frames, marked by their frame."""

    family = "GIT"

    def __init__(self, model: PreTrainedModel, processor: Processor):
        if model.config.num_image_with_embedding is None:
            raise ValueError(
                f"{model.name_or_path or 'this model'} is a GIT model for still images (its config has no "
                "num_image_with_embedding): take one for video, such as microsoft/git-base-vatex"
            )
        super().__init__(model, processor)

    @property
    def fixed_frames(self) -> int:
        """One per temporal embedding."""
        return self.config.num_image_with_embedding

    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        """`pixel_values` `(1, T, 3, H, W)` and the start token of captions."""
        pixels = self.processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]  # (T, 3, H, W)
        start = torch.tensor([[self.tokenizer.cls_token_id]])
        return {"pixel_values": pixels[None], "input_ids": start, "attention_mask": torch.ones_like(start)}
