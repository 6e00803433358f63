"""Adapters for other families: frames of a clip -> model inputs, and inputs of many clips -> captions.

Clips are read and sampled uniformly over time by this package; the model's own processor does the rest.

Guarantees: captions are searched for and reproducible, whatever the model's generation config, unless `do_sample` is
set. Limitations: no embeddings, guidance or required phrases, which are refused by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

from modeling_vidcap.pipeline_vidcap import beams_for
from processing import VideoCaptionVideoProcessor

from ..captioner import Change, Clip, Clips, ScoredCaption, batches_of, best_first

if TYPE_CHECKING:
    from modeling_vidcap.settings_vidcap import Forms
    from processing.cache.feature_cache import ClipCache

MAX_NEW_TOKENS = 64  # if the generation config sets no limit
NUM_FRAMES = 16  # for models that take any number and prefer none

Inputs = dict[str, torch.Tensor]


@dataclass
class GeneratedCaption:
    """The new tokens of a caption, its end token included.

    Attributes:
        ids: `(L,)`, int64.
        log_probabilities: `(L,)`, float32: natural logarithms of the model's own probabilities, before any processing
            by the search; `None` unless requested.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor | None


@dataclass
class SeparateProcessor:
    """A tokenizer with an image or video processor, for models without a processor class.

    Attributes:
        tokenizer: The decoder's.
        image_processor: Takes the frames of a clip as a list of images.
        video_processor: Takes the clip, in place of `image_processor`.
    """

    tokenizer: Any
    image_processor: Any = None
    video_processor: Any = None


Processor = ProcessorMixin | SeparateProcessor


class CaptionAdapter(ABC):
    """A [`Captioner`] of another family.

    Args:
        model: A loaded model, on its device.
        processor: Its processor, or another object with its `tokenizer` that prepares its inputs.

    Attributes:
        family: Name of the family, for messages.
        auto_class: Loads the weights.
        takes_prompt: Whether the model takes a prompt.
        default_prompt: The prompt unless one is given.
        separate_processor: Whether tokenizer and image or video processor are separate, see [`SeparateProcessor`].

    Raises:
        ValueError: If this model or processor cannot caption clips.
    """

    family: ClassVar[str]
    auto_class: ClassVar[Any] = AutoModelForImageTextToText
    takes_prompt: ClassVar[bool] = False
    default_prompt: ClassVar[str | None] = None
    separate_processor: ClassVar[bool] = False
    gives_features = False

    # Options for models of `vidcap train` only.
    refused: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "similarity_weight": "compares captions with clips, which this family cannot do",
            "memory_weight": "ranks captions remembered from training, which this family does not keep",
            "guidance_scale": "compares with captions written without video, which this family never learnt",
            "include": "needs a search that only models of `vidcap train` have",
            "size": "is set by the model's own processor",
        }
    )

    def __init__(self, model: PreTrainedModel, processor: Processor):
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        self.prompt = self.default_prompt
        self.keep_frames = False  # whether the model sees as many frames as are read, whatever the clip's length
        # Only reads clips: frames of their own size, uint8.
        self.video_processor = VideoCaptionVideoProcessor(
            num_frames=self.fixed_frames or self.default_frames,
            do_resize=False,
            do_pad=False,
            do_rescale=False,
            do_normalize=False,
        )

    # To be defined by a family, as far as it differs.

    @property
    def fixed_frames(self) -> int | None:
        """Number of frames that the model takes of every clip; `None` if it takes any number."""
        return None

    @property
    def default_frames(self) -> int:
        """Default number of frames read from a clip, unless it is fixed."""
        return NUM_FRAMES

    @classmethod
    def load_processor(cls, name: str, *, trust_remote_code: bool = False, **kwargs) -> Any:
        """Load the processor from a folder or Hub id; `kwargs` are for `from_pretrained`."""
        return AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)

    @abstractmethod
    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        """The model's inputs for one clip, each with a batch axis.

        Args:
            frames: uint8 `(T, 3, H, W)`; clips shorter than `fixed_frames` repeat their last frame.
            times: `(T,)`, seconds from the start of the clip.
            prompt: `None` for families that take none.
        """

    def collate(self, items: Sequence[Inputs]) -> Inputs:
        """Join the inputs of single clips, whose tensors have equal shapes but for the first axis."""
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}

    def shapes(self, item: Inputs) -> list[tuple[str, torch.Size]]:
        """A key that is equal for clips that can form a batch."""
        return [(name, tensor.shape[1:]) for name, tensor in sorted(item.items())]

    # Common to all families.
    @property
    def left_out(self) -> Mapping[str, str]:
        """Parts of an evaluation that need a model of this package, each with the reason."""
        models = f"{self.family} models"
        return {
            "no_video": f"{models} give no access to the decoder without a clip",
            "grounding": f"{models} give no access to word probabilities",
            "retrieval": f"{models} do not embed clips and texts in one space",
        }

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def generation_config(self) -> Any:
        return self.model.generation_config

    def num_parameters(self) -> int:
        return self.model.num_parameters()

    def check_options(self, options: Mapping[str, Any], *, prefix: str = "") -> None:
        """Refuse options that this family does not have.

        Args:
            options: By name; `None` and empty lists count as not given.
            prefix: Precedes names in messages, such as `--`.

        Raises:
            ValueError: Naming the option and the remedy.
        """
        given = {name: value for name, value in options.items() if value is not None and value != []}
        for name, reason in self.refused.items():
            if name in given:
                raise ValueError(f"{prefix}{name} {reason} ({self.family}): leave it out")
        if "prompt" in given and not self.takes_prompt:
            raise ValueError(f"{prefix}prompt is for chat models, {self.family} models take none: leave it out")
        if given.get("backend") == "openvino":
            raise ValueError(f"{prefix}backend openvino is for models of `vidcap train`: leave it out")
        if self.fixed_frames and given.get("num_frames", self.fixed_frames) != self.fixed_frames:
            raise ValueError(
                f"{prefix}num_frames {given['num_frames']}: this {self.family} model takes exactly "
                f"{self.fixed_frames} frames; leave it out"
            )

    def use_backend(self, backend: str) -> None:
        return

    def clip_encoder(self) -> None:
        return

    def open_cache(
        self, *, folder: str | Path | None = None, backend: str = "auto", limit: float | None = None
    ) -> "ClipCache":
        """Read clips anew each time, see [`UncachedClips`]."""
        from .clips import UncachedClips

        return UncachedClips(self.video_processor)

    def caption(
        self,
        clips: Clips,
        *,
        batch_size: int = 16,
        change: Change | None = None,
        progress: str | None = None,
        **generate_kwargs,
    ) -> list[str]:
        captions = self._generate_all(clips, batch_size, change=change, progress=progress, **generate_kwargs)
        return [self.decode(group[0]) for group in captions]

    def caption_with_scores(
        self, clips: Clips, *, batch_size: int = 16, include: "Sequence[Forms]" = (), **generate_kwargs
    ) -> list[list[ScoredCaption]]:
        self.check_options({"include": list(include)})
        generated = self._generate_all(clips, batch_size, scores=True, **generate_kwargs)
        groups = [[self._scored(caption) for caption in captions] for captions in generated]
        return list(map(best_first, groups)) if generate_kwargs.get("do_sample") else groups

    def _scored(self, caption: GeneratedCaption) -> ScoredCaption:
        assert caption.log_probabilities is not None
        tokens = self.tokenizer.convert_ids_to_tokens(caption.ids.tolist())
        return ScoredCaption(self.decode(caption), tokens, caption.log_probabilities.tolist(), novelty=None)

    def _generate_all(
        self,
        clips: Clips,
        batch_size: int,
        *,
        change: Change | None = None,
        progress: str | None = None,
        **generate_kwargs,
    ) -> list[list[GeneratedCaption]]:
        """Captions of clips, each prepared as soon as it is read, since frames of its own size take more memory."""

        def prepare(clip: Clip) -> Inputs:
            if change is not None:
                batch = {name: value[None] for name, value in clip.items() if isinstance(value, torch.Tensor)}
                clip = {name: value[0] for name, value in change(batch).items()}
            return self.prepare(clip)

        results: list[list[GeneratedCaption]] = []
        for batch in batches_of(clips, batch_size, progress, prepare=prepare):
            results += self.generate(batch, **generate_kwargs)
        return results

    def configure(self, *, num_frames: int | None = None, prompt: str | None = None) -> None:
        """Set the frames read per clip, and the prompt; see [`check_options`]."""
        self.check_options({"num_frames": num_frames, "prompt": prompt})
        if num_frames is not None:
            self.video_processor.num_frames = num_frames
            self.keep_frames = True
        if prompt is not None:
            self.prompt = prompt

    def prepare(
        self, clip: Mapping[str, Any], *, prompt: str | None = None, keep_frames: bool | None = None
    ) -> Inputs:
        """Turn a clip into the model's inputs.

        Args:
            clip: `pixel_values_videos` `(T, 3, H, W)` as uint8, `video_mask` and `video_times` `(T,)`, as from
                `video_processor` without the batch axis.
            prompt: Replaces the adapter's own.
            keep_frames: Whether to pass on all frames, however short the clip; default: the adapter's own setting.

        Returns:
            Tensors with a batch axis, pixels in the model's precision.
        """
        frames, times = clip["pixel_values_videos"], clip["video_times"]
        if self.fixed_frames is None:
            real = clip["video_mask"].bool()
            frames, times = frames[real], times[real]
            if not (self.keep_frames if keep_frames is None else keep_frames):
                picks = self.pick(times)
                frames, times = frames[picks], times[picks]
        inputs = self.inputs(frames, times, prompt or self.prompt)
        tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
        pixels = {
            name: tensor.to(self.model.dtype)
            for name, tensor in tensors.items()
            if name.startswith("pixel_values") and tensor.is_floating_point()
        }
        return tensors | pixels  # times stay exact

    def pick(self, times: torch.Tensor) -> list[int]:
        """Indices of the frames that the model sees; all by default."""
        return list(range(len(times)))

    @torch.inference_mode()
    def generate(
        self, items: Sequence[Inputs], *, scores: bool = False, **generate_kwargs
    ) -> list[list[GeneratedCaption]]:
        """Caption prepared clips, as many at once as have inputs of the same shapes.

        Args:
            items: One result of [`prepare`] per clip.
            scores: Also return the probability of every token, which keeps `(steps, B * beams, vocabulary)` logits
                for each batch.
            generate_kwargs: For `model.generate`.

        Returns:
            The `num_return_sequences` captions of each clip, as ranked by `generate`.
        """
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(str(self.shapes(item)), []).append(index)
        results: list[list[GeneratedCaption]] = [[] for _ in items]
        for members in groups.values():
            batch = self.collate([items[index] for index in members])
            captions = self._generate_batch(batch, scores, generate_kwargs)
            per_clip = len(captions) // len(members)
            for place, index in enumerate(members):
                results[index] = captions[place * per_clip : (place + 1) * per_clip]
        return results

    def decode(self, caption: GeneratedCaption) -> str:
        """The text without special tokens and surrounding space."""
        return self.tokenizer.decode(caption.ids, skip_special_tokens=True).strip()

    def _generate_batch(self, batch: Inputs, scores: bool, options: Mapping[str, Any]) -> list[GeneratedCaption]:
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        outputs = self.model.generate(
            **inputs,
            **self.generation_options(options),
            output_logits=scores,
            return_dict_in_generate=True,
        )
        # The decoder's start token, or the prompt, precedes the caption.
        start = batch["input_ids"].shape[1] if "input_ids" in batch and not self.config.is_encoder_decoder else 1
        tokens = outputs.sequences[:, start:]  # (B * R, L)
        log_probabilities = _log_probabilities(outputs, tokens) if scores else None
        captions = []
        for row, length in enumerate(_lengths(tokens, self._end_tokens(), self._pad_token())):
            ids = tokens[row, :length].cpu()
            scored = None if log_probabilities is None else log_probabilities[row, :length].cpu()
            captions.append(GeneratedCaption(ids, scored))
        return captions

    def generation_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with defaults that must not come from the model's generation config."""
        set_by_caller = ("output_logits", "return_dict_in_generate")
        options = {name: value for name, value in options.items() if name not in set_by_caller}
        if "generation_config" in options:
            return options
        options |= beams_for(options, self.generation_config.num_beams or 1)
        defaults: dict[str, Any] = {"do_sample": False}
        config = self.generation_config
        if not {"max_new_tokens", "max_length"} & set(options) and not (config.max_new_tokens or config.max_length):
            defaults["max_new_tokens"] = MAX_NEW_TOKENS
        if not options.get("do_sample"):
            # Settings for sampling in the config would only cause warnings in a search.
            defaults |= {"temperature": None, "top_p": None, "top_k": None}
        return defaults | options

    def _end_tokens(self) -> list[int]:
        end = self.generation_config.eos_token_id
        return [] if end is None else list(end) if isinstance(end, (list, tuple)) else [end]

    def _pad_token(self) -> int | None:
        for token in (self.generation_config.pad_token_id, self.tokenizer.pad_token_id, *self._end_tokens()):
            if token is not None:
                return token
        return None


def _lengths(tokens: torch.Tensor, end: Sequence[int], pad: int | None) -> list[int]:
    """Lengths of captions `(N, L)` up to their first end token, otherwise without padding."""
    lengths = []
    for row in tokens.tolist():
        length = next((index + 1 for index, token in enumerate(row) if token in end), len(row))
        while length and row[length - 1] == pad and pad not in end:
            length -= 1
        lengths.append(length)
    return lengths


def _log_probabilities(outputs: ModelOutput, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities `(N, L)` of the tokens of `outputs.sequences`, undefined after the end of a caption."""
    beams = outputs.get("beam_indices")  # (N, steps), -1 after the end; `None` without beams
    columns = []
    for step in range(tokens.shape[1]):
        logits = outputs["logits"][step]
        if beams is not None:
            logits = logits[beams[:, step].clamp(min=0)] if step < beams.shape[1] else logits[: len(tokens)]
        columns.append(logits.float().log_softmax(dim=-1).gather(1, tokens[:, step, None]))
    return torch.cat(columns, dim=1) if columns else tokens.new_zeros(tokens.shape, dtype=torch.float32)
