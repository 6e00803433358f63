"""Small video-captioning models: train, evaluate, share, run.

Importing this package registers its classes with transformers, as soon as transformers is loaded:
`AutoModel.from_pretrained` and `pipeline("video-captioning", model=...)` then load a captioner without
`trust_remote_code`, the pipeline also those of other families, see `vidcap.adapters`, and `push_to_hub` verifies its
uploads. Nothing is downloaded, and the names below are imported on first use.
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
    from processing.video_io_vidcap import decode_video as decode_video

    from .adapters import CaptionAdapter as CaptionAdapter
    from .api import caption as caption
    from .api import evaluate as evaluate
    from .api import push as push
    from .api import train as train
    from .evaluation import score_captions as score_captions
    from .inference.loading import load_captioner as load_captioner
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
            "processing.video_io_vidcap": ("decode_video",),
            ".adapters": ("CaptionAdapter",),
            ".api": ("caption", "evaluate", "push", "train"),
            ".evaluation": ("score_captions",),
            ".inference.loading": ("load_captioner",),
        },
    )
    __all__ += ["__version__"]


def _register() -> None:
    from .inference.pipelines import register

    register()


when_loaded(_register)
