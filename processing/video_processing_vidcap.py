"""Videos -> the tensors a captioning model takes.

The whole frame is kept: it is scaled, aspect preserved, until it fits into `size`, and centred on black; nothing is
cropped away. A clip gives the same tensors alone and in any batch. An option that is not listed in
[`VideoCaptionVideoProcessorKwargs`] raises a TypeError instead of being ignored.

Limitations: no cropping, no sampling by frames per second and no mask of the padded pixels.
"""

import logging
from typing import Annotated, Any, TypedDict, Unpack

import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers import BaseVideoProcessor, BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.utils import TensorType
from transformers.utils.type_validators import (
    image_size_validator,
    positive_any_number,
    positive_int,
    resampling_validator,
    tensor_type_validator,
)

from .video_frames_vidcap import VideoFrames, centre_frames
from .video_io_vidcap import decode_video, is_frame, split_batch

logger = logging.getLogger(__name__)

INTERPOLATIONS = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}
# Options of `DecodeOptions` of the same name.
SAME_OPTIONS = (
    *("frame_rate", "skip_loop_filter", "snap_to_keyframes"),
    *("max_frame_pixels", "max_clip_frames", "max_download_bytes"),
)
# Keys of a saved configuration beside the options.
SERVICE_KEYS = {"auto_map", "image_processor_type", "processor_class", "video_processor_type"}


class VideoCaptionVideoProcessorKwargs(TypedDict, total=False):
    """
    Options of [`VideoCaptionVideoProcessor`], for its constructor, which saves them, and for a call.

    Args:
        num_frames (`int`, defaults to 16): frames per clip, uniform over time. A shorter clip is padded with masked
            repeats of its last frame.
        do_sample_frames (`bool`, defaults to `True`): `False` keeps every frame and pads the clips of a batch to the
            longest one.
        do_resize (`bool`, defaults to `True`): scale frames, up or down, to fit into `size`.
        size (`dict[str, int]`, defaults to `{"height": 224, "width": 224}`): size of the output.
        resample (`int` or `PILImageResampling`, defaults to 2, bilinear): 2 or 3 (bicubic), both antialiased.
        do_pad (`bool`, defaults to `True`): centre the frames on black of `size`.
        do_rescale (`bool`, defaults to `True`): multiply the uint8 values by `rescale_factor`.
        rescale_factor (`float`, defaults to 1/255): the factor.
        do_normalize (`bool`, defaults to `True`): subtract `image_mean` and divide by `image_std`. Without this and
            `do_rescale` the output stays uint8.
        image_mean (`list[float]`, defaults to that of ImageNet): one value per channel.
        image_std (`list[float]`, defaults to that of ImageNet): one value per channel.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays; inferred by default.
        decoding_threads (`int`, defaults to 1): threads that decode one video; 0 means one per core.
        frame_rate, skip_loop_filter, snap_to_keyframes, max_frame_pixels, max_clip_frames, max_download_bytes: as in
            `DecodeOptions`.
        return_tensors (`str`, *optional*): `"pt"` or `"np"`; torch tensors by default.
    """

    num_frames: Annotated[int | None, positive_int()]
    do_sample_frames: bool | None
    do_resize: bool | None
    size: Annotated[int | list[int] | tuple[int, ...] | dict[str, int] | None, image_size_validator()]
    resample: Annotated[PILImageResampling | int | None, resampling_validator()]
    do_pad: bool | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    input_data_format: str | None
    frame_rate: Annotated[int | float | None, positive_any_number()]
    decoding_threads: int | None
    skip_loop_filter: bool | None
    snap_to_keyframes: bool | None
    max_frame_pixels: Annotated[int | None, positive_int()]
    max_clip_frames: Annotated[int | None, positive_int()]
    max_download_bytes: Annotated[int | None, positive_int()]
    return_tensors: Annotated[str | TensorType | None, tensor_type_validator()]


class VideoCaptionVideoProcessor(BaseVideoProcessor):
    """
    Turns clips of any kind into `pixel_values_videos`, `video_mask` and `video_times`.

    Args:
        **kwargs: the options, see [`VideoCaptionVideoProcessorKwargs`].

    Raises:
        `TypeError`: for an unknown option.
    """

    valid_kwargs = VideoCaptionVideoProcessorKwargs  # type: ignore[assignment]
    _auto_class: Any = "AutoVideoProcessor"  # makes transformers save the code, too
    model_input_names = ["pixel_values_videos", "video_mask", "video_times"]
    is_frame = staticmethod(is_frame)  # for pipelines, whose files cannot import this folder

    num_frames = 16
    do_sample_frames = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    do_pad = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    frame_rate = 25.0
    decoding_threads = 1
    skip_loop_filter = False
    snap_to_keyframes = False
    max_frame_pixels = 8192 * 8192
    max_clip_frames = 10 * 3600 * 60
    max_download_bytes = 1 << 30

    def __init__(self, **kwargs: Unpack[VideoCaptionVideoProcessorKwargs]):
        check_option_names(set(kwargs) - SERVICE_KEYS, set(self.valid_kwargs.__annotations__))
        super().__init__(**kwargs)  # type: ignore[misc]

    @classmethod
    def from_dict(  # type: ignore[override]
        cls, video_processor_dict: dict[str, Any], **kwargs: object
    ) -> "VideoCaptionVideoProcessor":
        """Build the processor from a saved configuration, without the options that this version does not know."""
        known = set(cls.valid_kwargs.__annotations__) | SERVICE_KEYS
        unknown = sorted(set(video_processor_dict) - known)
        if unknown:
            logger.warning(f"ignoring options of the saved video processor that are unknown: {', '.join(unknown)}")
        known -= {"auto_map"}  # it leads to code beside the configuration, and is written anew with it
        return super().from_dict(
            {key: video_processor_dict[key] for key in video_processor_dict if key in known}, **kwargs
        )

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Bring options to one form and check them, both in the constructor and in a call."""
        options = super()._standardize_kwargs(default_to_square=True, **kwargs)
        if not (options["size"].height and options["size"].width):
            raise ValueError(f"size={dict(options['size'])}: pass the height and the width of the output")
        if options["resample"] not in INTERPOLATIONS:
            raise ValueError(f"resample={options['resample']}: pass 2 (bilinear) or 3 (bicubic)")
        if options["input_data_format"] not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"input_data_format={options['input_data_format']!r}: pass 'channels_first' or 'channels_last'"
            )
        return options

    def preprocess(self, videos: object, **kwargs: Unpack[VideoCaptionVideoProcessorKwargs]) -> BatchFeature:
        """
        Prepare one clip or a batch.

        Args:
            videos: a clip or a list of clips of any kinds: paths, URLs, bytes, open files, arrays, lists of frames;
                see `decode_video` and `split_batch` in `video_io_vidcap.py`.
            **kwargs: options that differ from those of the processor.

        Returns:
            [`BatchFeature`]: `pixel_values_videos` of shape `(B, T, 3, H, W)`, float32 or uint8; `video_mask` of
            shape `(B, T)`, int64, 0 for repeats that pad a short clip; `video_times` of shape `(B, T)`, float32,
            seconds from the start of each clip.

        Raises:
            `VideoDecodeError`: if a clip cannot be read.
            `TypeError`: for an unknown option.
            `ValueError`: if the options do not fit together.
        """
        options = self._complete(kwargs)
        size = options["size"]
        clips = [self._decode(video, options) for video in split_batch(videos)]
        length = max(len(clip.frames) for clip in clips)
        clips = [clip.padded(length) for clip in clips]
        frames = _stack_frames(clips, (size.height, size.width) if options["do_pad"] else None)  # (B, T, 3, H, W)
        pixels = self.rescale_and_normalize(
            frames,
            options["do_rescale"],
            options["rescale_factor"],
            options["do_normalize"],
            options["image_mean"],
            options["image_std"],
        )
        data = {
            "pixel_values_videos": pixels,
            "video_mask": torch.stack([clip.mask for clip in clips]).long(),  # (B, T)
            "video_times": torch.stack([clip.times for clip in clips]),  # (B, T)
        }
        return BatchFeature(data, tensor_type=options["return_tensors"])

    def decode_clip(self, video: object, **kwargs: Unpack[VideoCaptionVideoProcessorKwargs]) -> VideoFrames:
        """Read one clip as [`preprocess`] does: its uint8 frames, not yet centred on `size`, times and duration."""
        return self._decode(video, self._complete(kwargs))

    def centre(self, clip: VideoFrames) -> torch.Tensor:
        """The uint8 frames `(T, 3, H, W)` of a clip from [`decode_clip`], centred on black of `size` if `do_pad`."""
        size: Any = self.size
        return centre_frames(clip, (size["height"], size["width"])) if self.do_pad else clip.frames

    def _complete(self, kwargs: VideoCaptionVideoProcessorKwargs) -> dict[str, Any]:
        """The checked options of a call: those given, and for the rest the processor's own."""
        known = self.valid_kwargs.__annotations__
        check_option_names(set(kwargs), set(known))
        validate_typed_dict(VideoCaptionVideoProcessorKwargs, kwargs)  # type: ignore[arg-type, type-var]
        given = {name: value for name, value in kwargs.items() if value is not None}
        return self._standardize_kwargs(**{name: given.get(name, getattr(self, name)) for name in known})

    def _decode(self, video: object, options: dict[str, Any]) -> VideoFrames:
        size, data_format = options["size"], options["input_data_format"]
        return decode_video(
            video,
            num_frames=options["num_frames"] if options["do_sample_frames"] else None,
            fit=(size.height, size.width) if options["do_resize"] else None,
            interpolation=INTERPOLATIONS[options["resample"]],
            channels_first=None if data_format is None else data_format == "channels_first",
            threads=options["decoding_threads"],
            **{name: options[name] for name in SAME_OPTIONS},
        )


def check_option_names(names: set[str], known: set[str]) -> None:
    """Raise a TypeError that lists the known options if a name is not among them."""
    unknown = sorted(names - known)
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(known))}")


def _stack_frames(clips: list[VideoFrames], size: tuple[int, int] | None) -> torch.Tensor:
    """Centre the frames of all clips on black of `size` (height, width) and stack them: `(B, T, 3, H, W)`, uint8."""
    if size is not None:
        return torch.stack([centre_frames(clip, size) for clip in clips])
    shapes = sorted({tuple(clip.frames.shape[-2:]) for clip in clips})
    if len(shapes) > 1:
        raise ValueError(f"clips of sizes {shapes} (height, width) cannot form one batch: set do_pad=True")
    return torch.stack([clip.frames for clip in clips])
