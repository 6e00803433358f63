"""The processor of the light captioner: clips -> frames, and ids -> captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from processing.video_frames_vidcap import VideoFrames, centre_frames
from processing.video_io_vidcap import decode_video

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers, as in processor_config.json
# Options of `decode_video` with the same names here.
READING = (
    *("frame_rate", "max_clip_frames", "max_download_bytes", "max_frame_pixels", "num_frames"),
    *("skip_loop_filter", "snap_to_keyframes"),
)


@dataclass
class LightVideoProcessor:
    """A [`VideoCaptionVideoProcessor`] that scales, centres and normalises frames."""

    num_frames: int
    size: dict[str, int]
    resample: int
    rescale_factor: float
    image_mean: list[float]
    image_std: list[float]
    frame_rate: float
    decoding_threads: int
    skip_loop_filter: bool
    snap_to_keyframes: bool
    max_frame_pixels: int
    max_clip_frames: int
    max_download_bytes: int

    @property
    def _box(self) -> tuple[int, int]:
        return self.size["height"], self.size["width"]

    def decode_clip(self, video: object, *, decoding_threads: int | None = None) -> VideoFrames:
        """Read a clip, without centring its frames.

        Raises:
            VideoDecodeError: If it cannot be read.
        """
        return decode_video(
            video,
            fit=self._box,
            interpolation=INTERPOLATIONS[self.resample],
            threads=self.decoding_threads if decoding_threads is None else decoding_threads,
            **{name: getattr(self, name) for name in READING},
        )

    def centre(self, clip: VideoFrames) -> torch.Tensor:
        """A clip's frames, centred on black: `(T, 3, H, W)`, uint8."""
        return centre_frames(clip, self._box)


class LightTokenizer:
    """The decoding half of transformers' tokenizers.

    Args:
        tokenizer: Read from a tokenizer.json.
        clean_up: Remove spaces before punctuation, as `clean_up_tokenization_spaces` does.
    """

    def __init__(self, tokenizer: Tokenizer, *, clean_up: bool):
        self.tokenizer = tokenizer
        # Not with byte pairs, whose spaces are the text's own, as in transformers.
        self.clean_up = clean_up and type(tokenizer.model).__name__ != "BPE"

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.tokenizer.id_to_token(token) or "" for token in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if self.clean_up:
            for spaced in (" .", " ?", " !", " ,"):
                text = text.replace(spaced, spaced[1:])
            text = text.replace(" ' ", "'")
            for spaced in (" n't", " 'm", " 's", " 've", " 're"):
                text = text.replace(spaced, spaced[1:])
        return text


@dataclass
class LightProcessor:
    """Video processor and tokenizer in one, as in [`VideoCaptionProcessor`]."""

    video_processor: LightVideoProcessor
    tokenizer: LightTokenizer

    def batch_decode(self, sequences: torch.Tensor, *, skip_special_tokens: bool = True) -> list[str]:
        """The captions of ids `(N, L)`."""
        return [self.tokenizer.decode(row) for row in sequences.tolist()]
