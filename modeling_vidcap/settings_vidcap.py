"""Versions, kinds of backbones and decoders, derived sizes and checks of generation, without transformers."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

logger = logging.getLogger(__name__)

VERSION = "0.2.0.dev0"  # of vidcap, and of the checkpoints that it writes

# Backbones of whole clips, and the config option with the number of frames that they join (None: they join none).
CLIP_ENCODERS: dict[str, str | None] = {
    "timesformer": None,
    "videomae": "tubelet_size",
    "vivit": "tubelet_size",
    "vjepa2": "tubelet_size",
}
FIXED_FRAMES = ("videomae", "vivit")  # these have a table of positions for their own `num_frames`
S3D_STRIDE = 8

# Pretrained language models that write captions, and whether cross-attention can be added to their layers.
DECODERS = {"gpt2": True, "llama": False, "qwen2": False, "qwen3": False}


class DerivedSizes:
    """Sizes derived from the fields of a config, with transformers or without."""

    thumbnail_size: int
    color_bins: int
    feature_size: int
    hidden_size: int
    text_layers: int
    multimodal_layers: int
    own_backbone: str
    backbone_config: Any
    decoder_config: Any
    contrastive_weight: float
    video_dropout: float
    memory_shape: Any

    @property
    def thumbnail_features(self) -> int:
        """Number of thumbnail values per cell."""
        return 3 * self.thumbnail_size**2

    @property
    def cell_features(self) -> int:
        """Number of values per cell: the backbone's channels, the thumbnail and the colour histogram."""
        return self.feature_size + self.thumbnail_features + self.color_bins**3

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers: text layers, then those that see the video."""
        decoder: Any = self.decoder_config
        return self.text_layers + self.multimodal_layers if decoder is None else decoder.num_hidden_layers

    @property
    def decoder_size(self) -> int:
        """Width of the decoder."""
        decoder: Any = self.decoder_config
        return self.hidden_size if decoder is None else decoder.hidden_size

    @property
    def _backbone_type(self) -> str:
        backbone: Any = self.backbone_config
        return self.own_backbone if backbone is None else backbone.model_type

    @property
    def encodes_clips(self) -> bool:
        """Whether the backbone sees all frames of a clip at once."""
        return self._backbone_type == "s3d" or self._backbone_type in CLIP_ENCODERS

    @property
    def frame_stride(self) -> int:
        """Frames that the backbone joins into one step of its features."""
        if self._backbone_type == "s3d":
            return S3D_STRIDE
        attribute = CLIP_ENCODERS.get(self._backbone_type)
        stride: Any = 1 if attribute is None else getattr(self.backbone_config, attribute)
        return stride if isinstance(stride, int) else stride[0]

    @property
    def min_frames(self) -> int:
        """Minimum number of frames for the backbone; one with a table of positions takes exactly that many."""
        if self._takes_fixed_frames:
            backbone: Any = self.backbone_config
            return backbone.num_frames
        return self.frame_stride

    def check_frames(self, frames: int) -> None:
        """Raise a `ValueError` if the backbone cannot take clips of so many frames."""
        if self._takes_fixed_frames and frames != self.min_frames:
            raise ValueError(f"`num_frames` must be {self.min_frames} for this clip encoder, got {frames}")
        if frames % self.frame_stride or frames < self.min_frames:
            raise ValueError(
                f"`num_frames` must be a multiple of {self.frame_stride} for this clip encoder, got {frames}"
            )

    @property
    def _takes_fixed_frames(self) -> bool:
        return self._backbone_type in FIXED_FRAMES


AnyConfig = Union["VideoCaptionConfig", DerivedSizes]  # read with transformers, or without
Forms = Sequence[Sequence[int]]  # a phrase's ids at the start of a caption and, where they differ, elsewhere


def check_guidance(config: AnyConfig, guidance_scale: float | None) -> None:
    """Refuse guidance that cannot work with a model of this config.

    Raises:
        ValueError: If the scale is below 1, or the model was not trained to write captions without video.
    """
    if guidance_scale is None or guidance_scale == 1:
        return
    if not guidance_scale > 1:
        raise ValueError(f"`guidance_scale` must be at least 1 (no guidance), got {guidance_scale}")
    if config.video_dropout == 0:
        raise ValueError(
            f"`guidance_scale` {guidance_scale} needs a model that was trained to write without video, and this one "
            "has `video_dropout` 0: train with video_dropout=0.1, or leave guidance out"
        )


def check_similarity(config: AnyConfig, similarity_weight: float | None) -> None:
    """Refuse to rank captions by embeddings that were never trained.

    Raises:
        ValueError: If the weight is negative, or above 0 for a model without contrastive loss.
    """
    if not similarity_weight:
        return
    if similarity_weight < 0:
        raise ValueError(f"`similarity_weight` must be at least 0 (no ranking), got {similarity_weight}")
    if config.contrastive_weight == 0:
        raise ValueError(
            f"`similarity_weight` {similarity_weight} needs a model that was trained to compare clips with captions, "
            "and this one has `contrastive_weight` 0: train with contrastive_weight=0.5, or leave it out"
        )


def check_memory(config: AnyConfig, memory_weight: float | None) -> None:
    """Refuse to rank captions by a memory that does not exist.

    Raises:
        ValueError: If the weight is negative, or above 0 for a model without memory.
    """
    if not memory_weight:
        return
    if memory_weight < 0:
        raise ValueError(f"`memory_weight` must be at least 0 (no memory), got {memory_weight}")
    if config.memory_shape is None:
        raise ValueError(
            f"`memory_weight` {memory_weight} needs a model with a memory of its training captions, which this one "
            "does not have: train it with a frozen backbone on at least 20 clips, or leave it out"
        )


def check_phrases(
    phrases_ids: Sequence[Forms], bad_words_ids: Sequence[Sequence[int]], max_new_tokens: int | None
) -> None:
    """Refuse phrases that no caption can contain.

    Raises:
        ValueError: If one contains a banned word, or all together are too long.
    """
    if any(contains_phrase(form, word) for forms in phrases_ids for form in forms for word in bad_words_ids):
        raise ValueError("a phrase contains a banned word: allow the word, or leave the phrase out")
    length = phrase_length(phrases_ids) + 1
    if max_new_tokens is not None and length > max_new_tokens:
        raise ValueError(
            f"phrases and EOS take {length} tokens, but `max_new_tokens` is {max_new_tokens}: raise it, or leave out "
            "a phrase"
        )


def phrase_length(phrases_ids: Sequence[Forms]) -> int:
    """Number of tokens of all phrases, each in its longer form."""
    return sum(max(map(len, forms)) for forms in phrases_ids)


def contains_phrase(words: Sequence[int], phrase: Sequence[int]) -> bool:
    """Whether `phrase` occurs in `words`."""
    return any(list(words[t : t + len(phrase)]) == list(phrase) for t in range(len(words) - len(phrase) + 1))


@cache  # a model's config is read several times while it is loaded
def warn_of_transformers(saved_with: str | None, installed: str) -> None:
    """Warn in one line of an installed transformers of another major version than a model was saved with.

    Args:
        saved_with: Version of transformers that saved the model, if its config names one.
        installed: Version that loads it.
    """
    from packaging.version import Version

    if saved_with is not None and Version(saved_with).major != Version(installed).major:
        logger.warning(
            f"the model was saved with transformers {saved_with} and is loaded with {installed}: captions may differ; "
            f"install transformers {Version(saved_with).major} to rule that out"
        )
