"""Small video-captioning models: train, evaluate, share, run.

Importing it registers everything with transformers, as soon as transformers is there: `AutoModel.from_pretrained` and
`pipeline("video-captioning", model=...)` then load a captioner without `trust_remote_code`, the pipeline also those of
other families, see `vidcap.adapters`, and `push_to_hub` checks what it uploads. Nothing is fetched, and the names
below are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

import hub_card  # noqa: F401 - has `push_to_hub` go through the exporter
from modeling_vidcap.registration import when_loaded
from modeling_vidcap.settings_vidcap import VERSION as __version__
from processing.support.lazy_names import lazy_names

if TYPE_CHECKING:
    from modeling_vidcap import VideoCaptionConfig as VideoCaptionConfig
    from modeling_vidcap import VideoCaptionForConditionalGeneration as VideoCaptionForConditionalGeneration
    from modeling_vidcap import VideoCaptioningPipeline as VideoCaptioningPipeline
    from modeling_vidcap import VideoCaptionModel as VideoCaptionModel
    from processing import VideoCaptionProcessor as VideoCaptionProcessor
    from processing import VideoCaptionVideoProcessor as VideoCaptionVideoProcessor
    from processing import VideoDecodeError as VideoDecodeError
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "modeling_vidcap": (
                "VideoCaptionConfig",
                "VideoCaptionForConditionalGeneration",
                "VideoCaptionModel",
                "VideoCaptioningPipeline",
            ),
            "processing": ("VideoCaptionProcessor", "VideoCaptionVideoProcessor", "VideoDecodeError"),
        },
    )
    __all__ += ["__version__"]


def _register() -> None:
    from .inference.pipelines import register

    register()


when_loaded(_register)
