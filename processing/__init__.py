"""Files and strings -> tensors: the public names of this room."""

from .frame_sampling_vidcap import segment_indices, snap_to_keys, uniform_indices, uniform_time_indices
from .processing_vidcap import VideoCaptionProcessor
from .video_frames_vidcap import DecodeOptions, VideoDecodeError, VideoFrames
from .video_io_vidcap import decode_video, split_batch
from .video_processing_vidcap import VideoCaptionVideoProcessor

__all__ = [
    "DecodeOptions",
    "VideoCaptionProcessor",
    "VideoCaptionVideoProcessor",
    "VideoDecodeError",
    "VideoFrames",
    "decode_video",
    "segment_indices",
    "snap_to_keys",
    "split_batch",
    "uniform_indices",
    "uniform_time_indices",
]
