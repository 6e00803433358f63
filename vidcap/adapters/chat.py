"""Chat models that take video, with a prompt for a caption: SmolVLM2, Qwen2-VL, Qwen2.5-VL, LLaVA-NeXT-Video.

Clip and prompt form one message of a user, which the model's own chat template and processor turn into its inputs.
Clips are sampled here, so that decoding is the same for every family and memory does not grow with a clip's length: at
most `num_frames` frames, or fewer from a short clip if the processor sets frames per second.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel
from transformers.video_utils import VideoMetadata

from processing import uniform_indices

from .base import NUM_FRAMES, CaptionAdapter, Inputs, Processor

TICKS = 1000  # per second: processors derive times from the index of a frame and the frames per second


class ChatAdapter(CaptionAdapter):
    """Any model whose processor has a chat template for `{"type": "video"}`."""

    family = "chat"
    takes_prompt = True
    default_prompt: ClassVar[str] = "Describe the video in one sentence."

    def __init__(self, model: PreTrainedModel, processor: Processor):
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"the processor of {model.name_or_path or 'this model'} has no chat template: take a model tuned for "
                "chat, or set processor.chat_template"
            )
        super().__init__(model, processor)

    @property
    def default_frames(self) -> int:
        """The processor's own number, if set."""
        return self.processor.video_processor.num_frames or NUM_FRAMES

    def pick(self, times: torch.Tensor) -> list[int]:
        """Evenly spaced frames, as many as the processor's frames per second imply, at least one."""
        frames_per_second = self.processor.video_processor.fps
        if frames_per_second is None:
            return super().pick(times)
        count = max(1, round(self._duration(times) * frames_per_second))
        return uniform_indices(len(times), count)

    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        """The processor's outputs for the message, with `input_ids` `(1, L)`."""
        content = [{"type": "video", "video": frames}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"do_sample_frames": False, "video_metadata": [self._metadata(frames, times)]},
        )

    def collate(self, items: Sequence[Inputs]) -> Inputs:
        """Join inputs, with texts padded on the left, as `generate` needs them."""
        length = max(item["input_ids"].shape[1] for item in items)
        filling = {"input_ids": self._pad_token() or 0}
        joined: dict[str, list[torch.Tensor]] = {}
        for item in items:
            texts = _texts(item)
            for name, tensor in item.items():
                if name in texts:
                    missing = length - tensor.shape[1]
                    tensor = torch.nn.functional.pad(tensor, (missing, 0), value=filling.get(name, 0))
                joined.setdefault(name, []).append(tensor)
        return {name: torch.cat(tensors) for name, tensors in joined.items()}

    def shapes(self, item: Inputs) -> list[tuple[str, torch.Size]]:
        """Texts of any length can form a batch."""
        return super().shapes({name: tensor for name, tensor in item.items() if name not in _texts(item)})

    def _duration(self, times: torch.Tensor) -> float:
        """Seconds, with the last frame shown for as long as an ordinary one."""
        return times[-1].item() + 1 / self.video_processor.frame_rate

    def _metadata(self, frames: torch.Tensor, times: torch.Tensor) -> VideoMetadata:
        """The times of the frames for the processor."""
        duration = self._duration(times)
        return VideoMetadata(
            total_num_frames=max(1, round(duration * TICKS)),
            fps=float(TICKS),
            duration=duration,
            height=frames.shape[-2],
            width=frames.shape[-1],
            frames_indices=[round(time * TICKS) for time in times.tolist()],
        )


def _texts(item: Inputs) -> list[str]:
    """Names of the tensors with one value per token."""
    return [name for name, tensor in item.items() if tensor.shape == item["input_ids"].shape]
