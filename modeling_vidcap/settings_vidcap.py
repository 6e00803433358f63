"""What configs say, without transformers: version, kinds of parts, derived sizes, checks of generation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig


VERSION = "0.2.0.dev0"  # of vidcap, and of the checkpoints that it writes

# Backbones of whole clips, and which of their options tells how many frames they join (None: none of them).
CLIP_ENCODERS: dict[str, str | None] = {
    "timesformer": None,
    "videomae": "tubelet_size",
    "vivit": "tubelet_size",
    "vjepa2": "tubelet_size",
}
FIXED_FRAMES = ("videomae", "vivit")  # these have a table of positions for `num_frames` of their own
S3D_STRIDE = 8

# Pretrained language models that write captions, and whether attention to a clip can be added to their layers.
DECODERS = {"gpt2": True, "llama": False, "qwen2": False, "qwen3": False}


class DerivedSizes:
    """Properties of [`VideoCaptionConfig`], and of a config that is read without transformers."""

    thumbnail_size: int
    color_bins: int
    feature_size: int
    hidden_size: int
    text_layers: int
    multimodal_layers: int
    own_backbone: str
    backbone_config: Any
    decoder_config: Any

    @property
    def thumbnail_features(self) -> int:
        """Values of the thumbnail in each cell."""
        return 3 * self.thumbnail_size**2

    @property
    def cell_features(self) -> int:
        """Values of a cell: the backbone's channels, the thumbnail, the histogram of colours."""
        return self.feature_size + self.thumbnail_features + self.color_bins**3

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers in all: the text-only ones, then those that see the video."""
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
        """Fewest frames that the backbone takes; those with a table of positions take just as many as that has."""
        if self._takes_fixed_frames:
            backbone: Any = self.backbone_config
            return backbone.num_frames
        return self.frame_stride

    def check_frames(self, frames: int) -> None:
        """Raises a ValueError if the backbone cannot take clips of so many frames."""
        least = self.min_frames
        if self._takes_fixed_frames and frames != least:
            raise ValueError(f"`num_frames` {frames}: this clip encoder takes {least} frames, no more and no less")
        if frames % self.frame_stride or frames < least:
            raise ValueError(f"`num_frames` {frames}: this clip encoder takes multiples of {self.frame_stride} frames")

    @property
    def _takes_fixed_frames(self) -> bool:
        return self._backbone_type in FIXED_FRAMES


Forms = Sequence[Sequence[int]]  # a phrase's ids at the start of a caption, and elsewhere where these differ


def check_guidance(config: "VideoCaptionConfig", guidance_scale: float | None) -> None:
    """Refuses a guidance that cannot work with a model of this config.

    Raises:
        ValueError: If the scale is below 1, or the model was not trained to write captions without video.
    """
    if guidance_scale is None or guidance_scale == 1:
        return
    if not guidance_scale > 1:
        raise ValueError(f"`guidance_scale` is {guidance_scale}: 1 is no guidance, pass a number above it")
    if config.video_dropout == 0:
        raise ValueError(
            f"`guidance_scale` {guidance_scale} compares with captions written without video, which this model never "
            "learnt (its `video_dropout` is 0): train with --video_dropout 0.1, or leave guidance out"
        )


def check_similarity(config: "VideoCaptionConfig", similarity_weight: float | None) -> None:
    """Refuses a ranking by embeddings that were never trained.

    Raises:
        ValueError: If the weight is negative, or above 0 for a model without contrastive loss.
    """
    if not similarity_weight:
        return
    if similarity_weight < 0:
        raise ValueError(f"`similarity_weight` is {similarity_weight}: 0 ranks by probability alone, pass 0 or more")
    if config.contrastive_weight == 0:
        raise ValueError(
            f"`similarity_weight` {similarity_weight} compares clips with captions, which this model never learnt "
            "(its `contrastive_weight` is 0): train with --contrastive_weight 0.5, or leave it out"
        )


def check_phrases(
    phrases_ids: Sequence[Forms], bad_words_ids: Sequence[Sequence[int]], max_new_tokens: int | None
) -> None:
    """Refuses phrases that no caption can hold.

    Raises:
        ValueError: If one holds a banned word, or all are too long together.
    """
    if any(holds_phrase(form, word) for forms in phrases_ids for form in forms for word in bad_words_ids):
        raise ValueError("a phrase holds a banned word: allow the word, or leave the phrase out")
    length = phrase_length(phrases_ids) + 1
    if max_new_tokens is not None and length > max_new_tokens:
        raise ValueError(
            f"phrases and EOS are {length} tokens, `max_new_tokens` is {max_new_tokens}: raise it, or leave one out"
        )


def phrase_length(phrases_ids: Sequence[Forms]) -> int:
    """Tokens that phrases take in a caption, each in its longer form."""
    return sum(max(map(len, forms)) for forms in phrases_ids)


def holds_phrase(words: Sequence[int], phrase: Sequence[int]) -> bool:
    """Whether `phrase` stands somewhere among `words`."""
    return any(list(words[t : t + len(phrase)]) == list(phrase) for t in range(len(words) - len(phrase) + 1))
