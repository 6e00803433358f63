"""Videos and captions -> tensors; each public name is imported at its first use."""

from typing import TYPE_CHECKING

from .support.lazy_names import lazy_names

if TYPE_CHECKING:
    from .processing_vidcap import VideoCaptionProcessor as VideoCaptionProcessor
    from .video_frames_vidcap import DecodeOptions as DecodeOptions
    from .video_frames_vidcap import VideoDecodeError as VideoDecodeError
    from .video_frames_vidcap import VideoFrames as VideoFrames
    from .video_frames_vidcap import uniform_indices as uniform_indices
    from .video_io_vidcap import decode_video as decode_video
    from .video_io_vidcap import split_batch as split_batch
    from .video_processing_vidcap import VideoCaptionVideoProcessor as VideoCaptionVideoProcessor
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            ".processing_vidcap": ("VideoCaptionProcessor",),
            ".video_frames_vidcap": ("DecodeOptions", "VideoDecodeError", "VideoFrames", "uniform_indices"),
            ".video_io_vidcap": ("decode_video", "split_batch"),
            ".video_processing_vidcap": ("VideoCaptionVideoProcessor",),
        },
    )
