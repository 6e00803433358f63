"""`pipeline("video-captioning", model=...)` for every captioner: the package's own, and those with an adapter.

transformers loads the model by [`AutoVideoCaptioner`] and the pipeline by [`CaptioningPipeline`]; both depend on the
type of the model.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, AutoProcessor, Pipeline, PreTrainedModel, ProcessorMixin
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from modeling_vidcap import TASK, VideoCaptionConfig, VideoCaptioningPipeline
from modeling_vidcap.pipeline_vidcap import sort_options
from processing.support.trusted import load_pretrained

from ..adapters import CaptionAdapter, SeparateProcessor, UnsupportedModelError, family_of
from .backends import keep_freed_memory

# Options of a call for reading clips.
READING = (
    *("decoding_threads", "frame_rate", "max_clip_frames", "max_download_bytes", "max_frame_pixels", "num_frames"),
    *("skip_loop_filter", "snap_to_keyframes"),
)


class AutoVideoCaptioner:
    """An Auto class, in the sense of transformers, for captioners of all families."""

    @classmethod
    def from_pretrained(cls, name: str, **kwargs) -> Any:
        """Load a model in the class that captions.

        Args:
            name: Folder or Hub id.
            kwargs: As for `AutoModel.from_pretrained`. Weights must be safetensors, unless `use_safetensors` is given.

        Raises:
            UnsupportedModelError: For a type of model without an adapter, and for another family's weights that cannot
                be loaded.
        """
        location = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
        config = AutoConfig.from_pretrained(name, **{key: kwargs[key] for key in location if key in kwargs})
        options = {"use_safetensors": True, **kwargs}
        if config.model_type == VideoCaptionConfig.model_type:
            return AutoModel.from_pretrained(name, **options)
        family = family_of(config.model_type, name)
        try:
            return family.auto_class.from_pretrained(name, **options)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            # After one of these transformers would try the class that the config names, and unpickle its weights.
            reason = str(error).strip().split("\n")[0]
            raise UnsupportedModelError(f"{name}: its weights cannot be loaded: {reason}") from error


class CaptioningPipeline(VideoCaptioningPipeline):
    """Creates the pipeline for a model: [`VideoCaptioningPipeline`] or [`AdapterPipeline`]."""

    # transformers then loads the parts that a model has, without an error for the others.
    _load_processor = None
    _load_tokenizer = None
    _load_image_processor = None

    def __new__(cls, model: PreTrainedModel, **kwargs) -> Any:
        """Neither result derives from this class, so that Python does not call its `__init__`."""
        parts = [kwargs.pop(name, None) for name in ("tokenizer", "image_processor", "video_processor")]
        processor, name = kwargs.pop("processor", None), model.name_or_path
        own = model.config.model_type == VideoCaptionConfig.model_type
        try:
            family = None if own else family_of(model.config.model_type, name or type(model).__name__)
        except UnsupportedModelError as error:
            raise ValueError(str(error)) from error
        # The separate parts of other families, which transformers loads in place of a processor.
        separate = family is not None and family.separate_processor
        if processor is None and separate and parts[0] is not None and (parts[1] or parts[2]) is not None:
            processor = SeparateProcessor(*parts)
        if processor is None:
            if not name:
                raise ValueError(f"a {type(model).__name__} passed as an object needs its processor: pass processor=")
            # To raise the reason why it could not be loaded.
            processor = load_pretrained(family.load_processor if family else AutoProcessor.from_pretrained, name)
        if family is None:
            if model.device.type == "cpu":
                keep_freed_memory()
            return VideoCaptioningPipeline(model=model, processor=processor, **kwargs)
        return AdapterPipeline(model=model, processor=processor, family=family, **kwargs)


class AdapterPipeline(VideoCaptioningPipeline):
    """
    Captions videos by a model from outside this package, such as GIT or a chat model.

    Example:

    ```python
    >>> import vidcap
    >>> from transformers import pipeline

    >>> captioner = pipeline("video-captioning", model="microsoft/git-base-vatex")
    >>> captioner(["clip.mp4", "clip.gif"], batch_size=2)
    [[{'generated_text': 'a dog is running on the grass'}], [{'generated_text': 'a cat is jumping'}]]
    >>> captioner = pipeline("video-captioning", model="HuggingFaceTB/SmolVLM2-500M-Video-Instruct")
    >>> captioner("clip.mp4", prompt="What happens in this clip? One sentence.", num_frames=8)
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        processor: ProcessorMixin | SeparateProcessor,
        family: type[CaptionAdapter],
        **kwargs,
    ):
        self.adapter = family(model, processor)
        parts: Any = {"processor": processor}
        Pipeline.__init__(self, model=model, **parts, **kwargs)

    @property
    def clip_reader(self) -> Any:
        return self.adapter.video_processor

    def _sanitize_parameters(
        self, generate_kwargs: dict[str, Any] | None = None, **options
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        self.adapter.check_options({**options, **(generate_kwargs or {})})
        if options.get("prompt") is None:
            options.pop("prompt", None)
        reading_names = [*READING, *["prompt"] * self.adapter.takes_prompt]
        return *sort_options(options, generate_kwargs, vars(self.model.generation_config), reading_names), {}

    def preprocess(self, input_: object, **preprocess_parameters) -> Any:
        reading = dict(preprocess_parameters)
        prompt = reading.pop("prompt", None)
        videos = input_ if self.clip_reader.is_frame(input_) else [input_]
        batch = self.clip_reader(videos, return_tensors="pt", **reading)
        clip = {name: value[0] for name, value in batch.items()}
        return self.adapter.prepare(clip, prompt=prompt, keep_frames=reading.get("num_frames") is not None or None)

    def _forward(self, input_tensors: Any, **forward_parameters) -> Any:
        generated = self.adapter.generate(input_tensors, **forward_parameters)
        return [[self.adapter.decode(caption) for caption in captions] for captions in generated]

    def postprocess(self, model_outputs: Any, **postprocess_parameters) -> list[dict[str, str]]:
        return [{"generated_text": caption} for caption in model_outputs]

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[dict[str, str]]]:
        """Batches as formed by the adapter; transformers' own knows few names of tensors."""
        if hasattr(inputs, "__len__"):
            clips: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            clips = PipelineIterator(inputs, self.preprocess, preprocess_params)
        for items in DataLoader(clips, num_workers=num_workers, batch_size=batch_size, collate_fn=list):
            for captions in self.forward(items, **forward_params):
                yield self.postprocess(captions, **postprocess_params)

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> list[dict[str, str]]:
        return next(self.get_iterator([inputs], 0, 1, preprocess_params, forward_params, postprocess_params))

    def get_inference_context(self) -> Any:
        return torch.inference_mode


def register() -> None:
    """Register these classes in place of `VideoCaptioningPipeline`; may be repeated."""
    task = PIPELINE_REGISTRY.supported_tasks[TASK]
    PIPELINE_REGISTRY.supported_tasks[TASK] = {**task, "impl": CaptioningPipeline, "pt": (AutoVideoCaptioner,)}
