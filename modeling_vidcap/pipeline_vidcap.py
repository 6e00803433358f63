"""Clips -> captions in one call: `pipeline("video-captioning", model=...)`.

Clips come in every form that the processor takes, one or many. Options are sorted by their names: those of `generate`
go there, the rest to the processor; a name that neither knows is an error. Given up: captions of events within a clip.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, Pipeline

from .generation_vidcap import check_guidance
from .saving_vidcap import pop_hub_options


class VideoCaptioningPipeline(Pipeline):
    """
    Captions videos.

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
    _pipeline_calls_generate = True

    def __init__(self, model: Any, **kwargs: Any):
        if model.config.model_type != "vidcap":
            raise ValueError(
                f"{model.name_or_path or type(model).__name__} is a model of type {model.config.model_type}: pass a "
                "video captioner (type vidcap), as `vidcap train` makes it"
            )
        super().__init__(model=model, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Captions one clip or many.

        Args:
            inputs (`Any`): a clip: a path, URL, bytes, open binary file, array of 4 axes, `{"path", "bytes"}` dict,
                Pillow image, or a list of frames (still Pillow images or arrays of 3 axes). Or many: a list, a 5-D
                array, a dataset or a generator of clips.
            batch_size (`int`, defaults to 1): clips a forward pass takes.
            num_workers (`int`, defaults to 0): processes that read a list or a dataset of clips.
            generate_kwargs (`dict`, *optional*): options of `generate`.
            **kwargs: options of `generate` (`max_new_tokens`, `num_beams`, `num_return_sequences`, `guidance_scale`
                ...) or of the processor (`num_frames`, `size` ...).

        Returns:
            For a clip, a list of one `{"generated_text": caption}` for each returned sequence. For a list, a list of
            these; for a dataset or a generator, an iterator over these.

        Raises:
            `VideoDecodeError`: if a clip cannot be read.
            `TypeError`: for an unknown option.
            `ValueError`: if there is no clip, an option of `generate` is given twice, or the model cannot be guided.
        """
        if isinstance(inputs, (list, tuple)) and inputs and all(map(self.clip_reader.is_frame, inputs)):
            return super().__call__([inputs], **kwargs)[0]
        if _ndim(inputs) == 5 or isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list):
            if not inputs:
                raise ValueError("the list of clips is empty: pass at least one clip")
            return super().__call__(inputs, **kwargs)
        # A column of a data set: a sequence like a list, but not to be held in memory as a whole.
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray, memoryview)):
            return list(super().__call__((clip for clip in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Saves model, processor and code, for processes with this package and without it. With `push_to_hub`, the
        three are also uploaded, to `repo_id` or the folder's name."""
        hub = pop_hub_options(kwargs, save_directory)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(**hub)

    @property
    def clip_reader(self) -> Any:
        """The video processor that reads clips, and tells a list of frames from a list of clips."""
        return self.processor.video_processor

    def _sanitize_parameters(
        self, generate_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = self.clip_reader.valid_kwargs.__annotations__
        reading, generation = sort_options(
            options, generate_kwargs, [*vars(GenerationConfig()), "similarity_weight"], sorted(known)
        )
        check_guidance(self.model.config, generation.get("guidance_scale"))
        if "generation_config" not in generation:
            generation |= beams_for(generation, self.model.generation_config.num_beams or 1)
        return reading, generation, {}

    def preprocess(self, input_: Any, **preprocess_parameters: Any) -> Any:
        # In a list, an array of several clips is refused; a lone array of 3 axes is refused outside of one.
        videos = input_ if self.clip_reader.is_frame(input_) else [input_]
        reading = {**preprocess_parameters, "return_tensors": "pt"}
        if self.clip_reader.decoding_threads == 1 and torch.utils.data.get_worker_info() is None:
            reading.setdefault("decoding_threads", 0)  # all cores: nothing else is done in this process meanwhile
        inputs = dict(self.processor(videos=videos, **reading))
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.dtype)  # times stay exact in float32
        return inputs

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        options = self._prepare_generate_kwargs(forward_parameters, return_dict_in_generate=False)
        sequences = self.model.generate(**input_tensors, **options)  # (B * R, L)
        clips = input_tensors["pixel_values_videos"].shape[0]
        return {"sequences": sequences.unflatten(0, (clips, -1))}  # (B, R, L), which a batch is split by

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> list[dict[str, str]]:
        captions = self.processor.post_process_generation(model_outputs["sequences"][0])
        return [{"generated_text": caption} for caption in captions]


def beams_for(generation: Mapping[str, Any], own: int) -> dict[str, int]:
    """The beams that options of `generate` ask for without saying so, if any: the model's own ones would search where
    captions are to be drawn, and cannot be fewer than the captions that are wanted."""
    if "num_beams" in generation:
        return {}
    if generation.get("do_sample"):
        return {"num_beams": 1}
    wanted = generation.get("num_return_sequences") or 1
    return {"num_beams": wanted} if wanted > own else {}


def sort_options(
    options: dict[str, Any], generate_kwargs: dict[str, Any] | None, of_generate: Iterable[str], of_reading: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Tells options of a call apart by their names.

    Args:
        options (`dict`): all that was given directly.
        generate_kwargs (`dict`, *optional*): options of `generate` that were given as such.
        of_generate (`Iterable[str]`): names that go to `generate`, beside `generation_config`.
        of_reading (`list[str]`): names that say how a clip is read.

    Returns:
        `tuple[dict, dict]`: those of reading, and those of `generate`.

    Raises:
        `TypeError`: for an unknown name.
        `ValueError`: for an option that is given twice.
    """
    reading = {name: value for name, value in options.items() if name in of_reading}
    generation = {name: value for name, value in options.items() if name not in reading}
    if unknown := sorted(set(generation) - set(of_generate) - {"generation_config"}):
        raise TypeError(
            f"unknown option {', '.join(unknown)}: pass an option of `generate` (max_new_tokens, num_beams ...) or of "
            f"the processor ({', '.join(of_reading)})"
        )
    if twice := sorted(set(generation) & set(generate_kwargs or {})):
        raise ValueError(f"{', '.join(twice)} is given directly and in generate_kwargs: keep one of them")
    return reading, {**generation, **(generate_kwargs or {})}


def _ndim(item: Any) -> int | None:
    """Axes of an array or tensor; `None` for everything else, Pillow images and paths among it."""
    return getattr(item, "ndim", None)


__all__ = ["VideoCaptioningPipeline", "sort_options"]
