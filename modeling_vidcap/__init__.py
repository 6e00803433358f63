"""Video features -> caption: the public names of this room.

Importing it makes the model known to transformers: the Auto classes load it without `trust_remote_code`, and
`pipeline("video-captioning", model=...)` works.
"""

from typing import Any, NoReturn

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor

from .configuration_vidcap import VideoCaptionConfig
from .modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptionModel, VideoCaptionPreTrainedModel
from .pipeline_vidcap import VideoCaptioningPipeline
from .saving_vidcap import TASK


class _NoDefaultModel(dict[str, Any]):
    """Stands where transformers looks up a task's default model, to say how to get one instead of a KeyError."""

    def __getitem__(self, key: str) -> NoReturn:
        raise ValueError(
            f'pipeline("{TASK}") has no default model: pass model="FOLDER_OR_HUB_ID"; to make one, run '
            "`vidcap train --dataset FOLDER_OR_HUB_ID --output_dir FOLDER`"
        )


def register() -> None:
    """Registers the classes with the Auto classes and the pipeline registry; harmless when repeated."""
    AutoConfig.register(VideoCaptionConfig.model_type, VideoCaptionConfig, exist_ok=True)
    for each in (AutoModel, AutoModelForImageTextToText):
        each.register(VideoCaptionConfig, VideoCaptionForConditionalGeneration, exist_ok=True)
    AutoVideoProcessor.register(VideoCaptionConfig, VideoCaptionVideoProcessor, exist_ok=True)
    AutoProcessor.register(VideoCaptionConfig, VideoCaptionProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=VideoCaptioningPipeline,
            pt_model=AutoModel,
            default=_NoDefaultModel(model=None),
            type="multimodal",
        )


register()

__all__ = [
    "TASK",
    "VideoCaptionConfig",
    "VideoCaptionForConditionalGeneration",
    "VideoCaptionModel",
    "VideoCaptionPreTrainedModel",
    "VideoCaptioningPipeline",
]
