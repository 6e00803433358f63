"""Small video-captioning models: train, evaluate, share, run.

Importing it registers everything with transformers: `AutoModel.from_pretrained` and
`pipeline("video-captioning", model=...)` then load a captioner without `trust_remote_code`, the pipeline also those of
other families, see `vidcap.adapters`. Nothing is fetched.
"""

from modeling_vidcap import (
    VideoCaptionConfig,
    VideoCaptionForConditionalGeneration,
    VideoCaptioningPipeline,
    VideoCaptionModel,
)
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor, VideoDecodeError

from . import pipelines as pipelines  # registers the task for every family

__version__ = "0.1.0"

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
