"""What an adapter is: frames of one clip -> the inputs of a model, and inputs of many clips -> generated captions.

Clips are read by this package and sampled uniformly over time; all that shapes pixels and prompt is done by the
model's own processor, on frames of the clip's own size. Captions are searched for, not drawn, unless `do_sample` says
so: the same clip gets the same caption, whatever a chat model's generation config prefers. Given up: what needs the
inside of a model - embeddings, guidance, phrases that a caption must hold - which is refused by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_vidcap.pipeline_vidcap import beams_for
from processing import VideoCaptionVideoProcessor

MAX_NEW_TOKENS = 64  # of models whose generation config sets no limit
NUM_FRAMES = 16  # of models that take any number and name none

Inputs = dict[str, torch.Tensor]


@dataclass
class GeneratedCaption:
    """The new tokens of a caption, up to its end token, which is included where the model wrote one.

    Args:
        ids: `(L,)`, int64.
        log_probabilities: `(L,)`, float32: natural logarithms of the model's own probabilities, before any processing
            of the search; `None` where they were not asked for.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor | None


@dataclass
class SeparateProcessor:
    """A tokenizer and what prepares frames, of models that have no processor class of their own.

    Args:
        tokenizer: The decoder's.
        image_processor: Takes the frames of a clip as a list of images, or
        video_processor: takes the clip.
    """

    tokenizer: Any
    image_processor: Any = None
    video_processor: Any = None


class CaptionAdapter(ABC):
    """A captioner of another family.

    Args:
        model: A loaded model, on its device.
        processor: Its processor, or whatever else has its `tokenizer` and prepares its inputs.

    Attributes:
        family: Name of the family, for messages.
        auto_class: Loads the weights.
        takes_prompt: Whether a prompt is said to the model.
        default_prompt: Said where none is given.
        separate_processor: Whether tokenizer and image or video processor stand for themselves, without a class that
            holds both.

    Raises:
        ValueError: If this model or processor cannot caption clips.
    """

    family: ClassVar[str]
    auto_class: ClassVar[Any] = AutoModelForImageTextToText
    takes_prompt: ClassVar[bool] = False
    default_prompt: ClassVar[str | None] = None
    separate_processor: ClassVar[bool] = False

    # What works with a model of `vidcap train` alone, by the names that Python and the command line give it.
    refused: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "similarity_weight": "compares captions with clips, which this family cannot",
            "guidance_scale": "compares with captions written without video, which this family never learnt",
            "include": "is a search that only models of `vidcap train` have",
            "size": "is set by the model's own processor",
        }
    )

    def __init__(self, model: Any, processor: Any):
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = self.default_prompt
        self.keep_frames = False  # whether as many frames are shown as are read, whatever the clip's length
        # Reads clips only: frames of their own size, uint8.
        self.video_processor = VideoCaptionVideoProcessor(
            num_frames=self.fixed_frames or self.default_frames,
            do_resize=False,
            do_pad=False,
            do_rescale=False,
            do_normalize=False,
        )

    # What a family says of itself.

    @property
    def fixed_frames(self) -> int | None:
        """Frames that the model takes of every clip; `None` if it takes any number."""
        return None

    @property
    def default_frames(self) -> int:
        """Frames read of a clip unless told otherwise, where the number is not fixed."""
        return NUM_FRAMES

    @classmethod
    def load_processor(cls, name: str, *, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """Loads the processor from a folder or Hub id; `kwargs` are those of `from_pretrained`."""
        return AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)

    @abstractmethod
    def inputs(self, frames: torch.Tensor, times: torch.Tensor, prompt: str | None) -> Mapping[str, Any]:
        """The model's inputs for one clip, each with a batch axis.

        Args:
            frames: uint8 `(T, 3, H, W)`; of clips that are shorter than `fixed_frames` with the last one repeated.
            times: `(T,)`, seconds from the start of the clip.
            prompt: What to say to the model, `None` for families that take none.
        """

    def collate(self, items: Sequence[Inputs]) -> Inputs:
        """Joins the inputs of single clips, whose tensors agree but for the first axis."""
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}

    def shapes(self, item: Inputs) -> Any:
        """Clips form one batch if this is equal."""
        return [(name, tensor.shape[1:]) for name, tensor in sorted(item.items())]

    # What all families share.

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """The model's."""
        return self.model.generation_config

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    def num_parameters(self) -> int:
        """Of the model."""
        return self.model.num_parameters()

    def check_options(self, options: Mapping[str, Any], *, prefix: str = "") -> None:
        """Refuses what makes no sense for this family.

        Args:
            options: By name; those that are `None`, or empty, are not given.
            prefix: Stands before a name in messages, `--` on the command line.

        Raises:
            ValueError: Names the option, and what to do.
        """
        given = {name: value for name, value in options.items() if value is not None and value != []}
        for name, reason in self.refused.items():
            if name in given:
                raise ValueError(f"{prefix}{name} {reason} ({self.family}): leave it out")
        if "prompt" in given and not self.takes_prompt:
            raise ValueError(f"{prefix}prompt is for chat models, {self.family} models take none: leave it out")
        if self.fixed_frames and given.get("num_frames", self.fixed_frames) != self.fixed_frames:
            raise ValueError(
                f"{prefix}num_frames {given['num_frames']}: this {self.family} model takes {self.fixed_frames} "
                "frames, no other number: leave it out"
            )

    def configure(self, *, num_frames: int | None = None, prompt: str | None = None) -> None:
        """Sets what is read of each clip and said to the model, from now on; see [`check_options`]."""
        self.check_options({"num_frames": num_frames, "prompt": prompt})
        if num_frames is not None:
            self.video_processor.num_frames = num_frames
            self.keep_frames = True
        if prompt is not None:
            self.prompt = prompt

    def prepare(
        self, clip: Mapping[str, Any], *, prompt: str | None = None, keep_frames: bool | None = None
    ) -> Inputs:
        """Turns a clip as it is read into the model's inputs.

        Args:
            clip: `pixel_values_videos` `(T, 3, H, W)` as uint8, `video_mask` and `video_times` `(T,)`, as
                `video_processor` gives them, less the batch axis.
            prompt: In place of the adapter's own.
            keep_frames: Likewise: show all frames, however short the clip.

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
        found = self.inputs(frames, times, prompt or self.prompt)
        tensors = {name: torch.as_tensor(value) for name, value in found.items()}
        pixels = {
            name: tensor.to(self.model.dtype)
            for name, tensor in tensors.items()
            if name.startswith("pixel_values") and tensor.is_floating_point()
        }
        return tensors | pixels  # times stay exact

    def pick(self, times: torch.Tensor) -> list[int]:
        """Which of the frames that were read are shown to the model; all of them by default."""
        return list(range(len(times)))

    @torch.inference_mode()
    def generate(
        self, items: Sequence[Inputs], *, scores: bool = False, **generate_kwargs: Any
    ) -> list[list[GeneratedCaption]]:
        """Captions clips that [`prepare`] has made ready, as many at once as have inputs of one form.

        Args:
            items: Of each clip.
            scores: Also give the probability of every token, which keeps `(steps, B * beams, vocabulary)` logits for
                the time of a batch.
            generate_kwargs: For `model.generate`.

        Returns:
            For each clip its `num_return_sequences` captions, as `generate` ranks them.
        """
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(str(self.shapes(item)), []).append(index)
        results: list[list[GeneratedCaption]] = [[] for _ in items]
        for members in groups.values():
            batch = self.collate([items[index] for index in members])
            captions = self._generate_batch(batch, scores, generate_kwargs)
            each = len(captions) // len(members)
            for place, index in enumerate(members):
                results[index] = captions[place * each : (place + 1) * each]
        return results

    def decode(self, caption: GeneratedCaption) -> str:
        """The text, without special tokens and surrounding space."""
        return self.tokenizer.decode(caption.ids, skip_special_tokens=True).strip()

    def _generate_batch(self, batch: Inputs, scores: bool, options: Mapping[str, Any]) -> list[GeneratedCaption]:
        inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}
        outputs = self.model.generate(
            **inputs,
            **self.generation_options(options),
            output_logits=scores,
            return_dict_in_generate=True,
        )
        # What stands before the caption: the decoder's start, or the prompt.
        start = batch["input_ids"].shape[1] if "input_ids" in batch and not self.config.is_encoder_decoder else 1
        tokens = outputs.sequences[:, start:]  # (B * R, L)
        found = _log_probabilities(outputs, tokens) if scores else None
        captions = []
        for row, length in enumerate(_lengths(tokens, self._end_tokens(), self._pad_token())):
            ids = tokens[row, :length].cpu()
            captions.append(GeneratedCaption(ids, None if found is None else found[row, :length].cpu()))
        return captions

    def generation_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with what is left out and must not come from the model's generation config."""
        # What the caller sets itself.
        options = {
            name: value for name, value in options.items() if name not in ("output_logits", "return_dict_in_generate")
        }
        if "generation_config" in options:
            return options
        options |= beams_for(options, self.generation_config.num_beams or 1)
        defaults: dict[str, Any] = {"do_sample": False}
        config = self.generation_config
        if not {"max_new_tokens", "max_length"} & set(options) and not (config.max_new_tokens or config.max_length):
            defaults["max_new_tokens"] = MAX_NEW_TOKENS
        if not options.get("do_sample"):
            # A config that draws holds settings which would only be warned of in a search.
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
    """Of captions `(N, L)`: up to their first end token, or else without what fills them up behind."""
    lengths = []
    for row in tokens.tolist():
        length = next((index + 1 for index, token in enumerate(row) if token in end), len(row))
        while length and row[length - 1] == pad and pad not in end:
            length -= 1
        lengths.append(length)
    return lengths


def _log_probabilities(outputs: Any, tokens: torch.Tensor) -> torch.Tensor:
    """`(N, L)` of the tokens of `outputs.sequences`; meaningless behind the end of a caption."""
    beams = getattr(outputs, "beam_indices", None)  # (N, steps), -1 behind the end; a search without beams has none
    columns = []
    for step in range(tokens.shape[1]):
        logits = outputs.logits[step]
        if beams is not None:
            logits = logits[beams[:, step].clamp(min=0)] if step < beams.shape[1] else logits[: len(tokens)]
        columns.append(logits.float().log_softmax(dim=-1).gather(1, tokens[:, step, None]))
    return torch.cat(columns, dim=1) if columns else tokens.new_zeros(tokens.shape, dtype=torch.float32)
