"""The model, from video features to captions: public names, imported lazily.

Importing this package registers the model with transformers, as soon as transformers is loaded: the Auto classes load
it without `trust_remote_code`, and `pipeline("video-captioning", model=...)` works.
"""

from typing import TYPE_CHECKING

from processing.support.lazy_names import lazy_names

from .registration import register, when_loaded

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig as VideoCaptionConfig
    from .modeling_vidcap import VideoCaptionForConditionalGeneration as VideoCaptionForConditionalGeneration
    from .modeling_vidcap import VideoCaptionModel as VideoCaptionModel
    from .modeling_vidcap import VideoCaptionPreTrainedModel as VideoCaptionPreTrainedModel
    from .pipeline_vidcap import VideoCaptioningPipeline as VideoCaptioningPipeline
    from .saving_vidcap import TASK as TASK
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            ".configuration_vidcap": ("VideoCaptionConfig",),
            ".modeling_vidcap": (
                "VideoCaptionForConditionalGeneration",
                "VideoCaptionModel",
                "VideoCaptionPreTrainedModel",
            ),
            ".pipeline_vidcap": ("VideoCaptioningPipeline",),
            ".saving_vidcap": ("TASK",),
        },
    )

when_loaded(register)
