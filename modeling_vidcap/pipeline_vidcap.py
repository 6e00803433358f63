"""Clips -> captions in one call: `pipeline("video-captioning", model=...)`.

Clips come in every form that the processor takes, one or many.

Guarantees: each option goes to `generate` or to the processor, whichever knows its name; an unknown name is an error.
Limitations: no captions of events within a clip.
"""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, Pipeline

from .saving_vidcap import pop_hub_options
from .settings_vidcap import check_guidance

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class VideoCaptioningPipeline(Pipeline):
    """
    Captions of videos.

    Example:

    ```python
    >>> import vidcap
    >>> from transformers import pipeline

    >>> captioner = pipeline("video-captioning", model="my-captioner")
    >>> captioner("clip.mp4")
    [{'generated_text': 'a red circle slides left and then grows'}]
    >>> captioner(["clip.mp4", "clip.gif"], batch_size=2, num_beams=4)
    [[{'generated_text': 'a red circle slides left and then grows'}], [{'generated_text': 'a star spins'}]]
    ```
    """

    model: Any
    processor: Any
    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: "PreTrainedModel", **kwargs):
        if model.config.model_type != "vidcap":
            raise ValueError(
                f"{model.name_or_path or type(model).__name__} is a model of type {model.config.model_type}: pass a "
                "video captioner (type vidcap), such as one made by `vidcap train`"
            )
        super().__init__(model=model, **kwargs)

    def __call__(self, inputs: Any, **kwargs) -> Any:  # type: ignore[override]
        """
        Caption one clip or many.

        Args:
            inputs: A clip: a path, URL, bytes, open binary file, array of 4 axes, `{"path", "bytes"}` dict, Pillow
                image, or a list of frames (still Pillow images or arrays of 3 axes). Or many: a list, a 5-D array, a
                dataset or a generator of clips.
            batch_size (`int`, defaults to 1): Clips per forward pass.
            num_workers (`int`, defaults to 0): Processes that read a list or a dataset of clips.
            generate_kwargs (`dict`, *optional*): Options of `generate`.
            **kwargs: Options of `generate` (`max_new_tokens`, `num_beams`, `num_return_sequences`, `guidance_scale`
                ...) or of the processor (`num_frames`, `size` ...).

        Returns:
            For a clip, a list with a `{"generated_text": caption}` per returned sequence. For a list, a list of
            these; for a dataset or a generator, an iterator over these.

        Raises:
            VideoDecodeError: If a clip cannot be read.
            TypeError: For an unknown option.
            ValueError: If there is no clip, an option of `generate` is given twice, or the model does not support
                guidance.
        """
        if isinstance(inputs, (list, tuple)) and inputs and all(map(self.clip_reader.is_frame, inputs)):
            return super().__call__([inputs], **kwargs)[0]
        if _ndim(inputs) == 5 or isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list):
            if not inputs:
                raise ValueError("the list of clips is empty: pass at least one clip")
            return super().__call__(inputs, **kwargs)
        # A column of a data set is a sequence like a list, but too large for memory.
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray, memoryview)):
            return list(super().__call__((clip for clip in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs) -> None:
        """Save model, processor and code, for processes with this package and without it.

        With `push_to_hub`, the three are also uploaded, to `repo_id` or the folder's name.
        """
        hub_options = pop_hub_options(kwargs, save_directory)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(**hub_options)

    @property
    def clip_reader(self) -> Any:
        """The video processor that reads clips, and tells a list of frames from a list of clips."""
        return self.processor.video_processor

    def _sanitize_parameters(
        self, generate_kwargs: dict[str, Any] | None = None, **options
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reading_names = sorted(self.clip_reader.valid_kwargs.__annotations__)
        reading, generation = sort_options(
            options, generate_kwargs, [*vars(GenerationConfig()), "memory_weight", "similarity_weight"], reading_names
        )
        check_guidance(self.model.config, generation.get("guidance_scale"))
        if "generation_config" not in generation:
            generation |= beams_for(generation, self.model.generation_config.num_beams or 1)
        return reading, generation, {}

    def preprocess(self, input_: object, **preprocess_parameters) -> Any:
        # In a list, an array of several clips is refused; a lone array of 3 axes is refused outside of one.
        videos = input_ if self.clip_reader.is_frame(input_) else [input_]
        reading = {**preprocess_parameters, "return_tensors": "pt"}
        if self.clip_reader.decoding_threads == 1 and torch.utils.data.get_worker_info() is None:
            reading.setdefault("decoding_threads", 0)  # all cores, which are idle meanwhile
        inputs = dict(self.processor(videos=videos, **reading))
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.dtype)  # times stay exact in float32
        return inputs

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters) -> Any:
        options = dict(forward_parameters)
        if (settings := options.get("generation_config")) is None:
            options["return_dict_in_generate"] = False
        else:
            options["generation_config"] = copy.copy(settings)
            options["generation_config"].return_dict_in_generate = False
        sequences = self.model.generate(**input_tensors, **options)  # (B * R, L)
        clips = input_tensors["pixel_values_videos"].shape[0]
        return {"sequences": sequences.unflatten(0, (clips, -1))}  # (B, R, L), which a batch is split by

    def postprocess(self, model_outputs: Any, **postprocess_parameters) -> list[dict[str, str]]:
        captions = self.processor.post_process_generation(model_outputs["sequences"][0])
        return [{"generated_text": caption} for caption in captions]


def beams_for(generation: Mapping[str, Any], default: int) -> dict[str, int]:
    """The number of beams that other options of `generate` imply, if any.

    Sampling needs a single beam, and a search at least as many beams as captions.

    Args:
        generation: The options.
        default: The model's own number of beams.
    """
    if "num_beams" in generation:
        return {}
    if generation.get("do_sample"):
        return {"num_beams": 1}
    captions = generation.get("num_return_sequences") or 1
    return {"num_beams": captions} if captions > default else {}


def sort_options(
    options: dict[str, Any],
    generate_kwargs: dict[str, Any] | None,
    generation_names: Iterable[str],
    reading_names: list[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the options of a call by their names.

    Args:
        options: All options that were passed directly.
        generate_kwargs: Options of `generate` that were passed as such.
        generation_names: Names of the options of `generate`, beside `generation_config`.
        reading_names: Names of the options of reading.

    Returns:
        The options of reading, and those of `generate`.

    Raises:
        TypeError: For an unknown name.
        ValueError: For an option that is given twice.
    """
    reading = {name: value for name, value in options.items() if name in reading_names}
    generation = {name: value for name, value in options.items() if name not in reading}
    if unknown := sorted(set(generation) - set(generation_names) - {"generation_config"}):
        raise TypeError(
            f"unknown option {', '.join(unknown)}: pass an option of `generate` (max_new_tokens, num_beams ...) or of "
            f"the processor ({', '.join(reading_names)})"
        )
    if twice := sorted(set(generation) & set(generate_kwargs or {})):
        raise ValueError(f"{', '.join(twice)} is given both directly and in generate_kwargs: keep one of them")
    return reading, {**generation, **(generate_kwargs or {})}


def _ndim(item: object) -> int | None:
    """Number of axes of an array or tensor; `None` for anything else, such as a Pillow image or a path."""
    return getattr(item, "ndim", None)


__all__ = ["VideoCaptioningPipeline", "sort_options"]
