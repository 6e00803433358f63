"""Small video-captioning models: train, evaluate, share, run.

Importing it registers everything with transformers: `AutoModel.from_pretrained` and
`pipeline("video-captioning", model=...)` then load a captioner without `trust_remote_code`, the pipeline also those of
other families, see `vidcap.adapters`, and `push_to_hub` checks what it uploads. Nothing is fetched.
"""

import hub_card  # noqa: F401 - has `push_to_hub` go through the exporter
from modeling_vidcap import (
    VideoCaptionConfig,
    VideoCaptionForConditionalGeneration,
    VideoCaptioningPipeline,
    VideoCaptionModel,
)
from modeling_vidcap.configuration_vidcap import VERSION as __version__
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor, VideoDecodeError

from . import pipelines as pipelines  # registers the task for every family

__all__ = [
    "VideoCaptionConfig",
    "VideoCaptionForConditionalGeneration",
    "VideoCaptionModel",
    "VideoCaptionProcessor",
    "VideoCaptionVideoProcessor",
    "VideoCaptioningPipeline",
    "VideoDecodeError",
    "__version__",
]
