"""Small video-captioning models: train, evaluate, share, run.

Importing it registers everything with transformers: `AutoModel.from_pretrained` and
`pipeline("video-captioning", model=...)` then load a captioner without `trust_remote_code`. Nothing is fetched.
"""

from modeling_vidcap import (
    VideoCaptionConfig,
    VideoCaptionForConditionalGeneration,
    VideoCaptioningPipeline,
    VideoCaptionModel,
)
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor, VideoDecodeError

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
