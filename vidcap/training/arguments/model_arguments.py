"""Options of a training that shape the model."""

from dataclasses import dataclass
from typing import Literal

from .options import check_least, option

_NAMES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "encoder_layers",
    "text_layers",
    "multimodal_layers",
)
# Named by their trained parameters, counted with 5,000 words and the features of EfficientNet-Lite0, whose own 3.4
# million are frozen. `8m` is what a bare `VideoCaptionConfig` has, `71m` the captioner that this project began with.
_SIZES = {
    "1m": (80, 320, 2, 1, 1, 1),
    "8m": (256, 1024, 4, 2, 1, 2),
    "25m": (384, 1536, 6, 3, 2, 4),
    "71m": (576, 2304, 9, 4, 3, 6),
    "150m": (768, 3072, 12, 6, 3, 7),
}
PRESETS: dict[str, dict[str, int]] = {name: dict(zip(_NAMES, sizes, strict=True)) for name, sizes in _SIZES.items()}
_DEFAULT = PRESETS["1m"]


@dataclass
class ModelArguments:
    _argument_group_name = "model"  # read by HfArgumentParser

    model_name_or_path: str | None = option(
        None,
        "Captioner to continue from: a folder or Hub id. Its tokenizer, sizes and way of reading clips stay; learning "
        "rates and loss weights can be changed",
    )
    preset: str | None = option(None, f"Sizes that go together: {', '.join(PRESETS)} parameters [1m]")
    backbone: str = option(
        "efficientnet_lite0",
        "Backbone that reads frames: efficientnet_lite0, 1 or 2, cnn, s3d, or the folder or Hub id of an image model "
        "or clip encoder, such as timm/resnet18.a1_in1k or MCG-NJU/videomae-base",
    )
    backbone_stages: list[int] | None = option(
        None,
        "Backbone stages to read [EfficientNet-Lite: 2 3 4, of 0 (stride 2) to 4 (stride 32); others: the last "
        "output, or hidden states counted from 0]",
    )
    freeze_backbone: bool | None = option(None, "Keep the backbone's weights fixed [if they are pretrained]")
    trained_backbone_stages: int | None = option(
        None, "Number of backbone stages to train, counted from the last; earlier stages stay fixed"
    )
    grayscale_backbone: bool = option(
        False, "Show the backbone frames without colour; the colour histogram still carries it"
    )
    decoder: str | None = option(
        None,
        "Language model that writes the captions, with its own tokenizer: the folder or Hub id of a GPT-2, or with "
        "--fusion joint of a SmolLM2, Llama or Qwen",
    )
    freeze_decoder: bool = option(
        False, "Keep the pretrained --decoder fixed, except for its newly added attention to the clip"
    )
    lora: list[str] | None = option(
        None,
        "Pretrained parts to train by low-rank matrices (LoRA), backbone and/or decoder; the matrices are merged into "
        "the weights at the end. Needs the extra lora",
    )
    lora_rank: int = option(8, "LoRA rank")
    lora_alpha: int | None = option(None, "LoRA alpha; matrices are scaled by alpha / rank [twice the rank]")
    tokenizer: str | None = option(None, "Tokenizer to use: a folder or Hub id [a new one, trained on the captions]")
    text_embeddings: str | None = option(
        None, "Text model whose tokenizer and word embeddings are used: a folder or Hub id"
    )
    freeze_embeddings: bool = option(False, "Keep the pretrained word embeddings fixed")
    max_vocab_size: int = option(10_000, "Vocabulary size of a tokenizer trained on the captions, at most")
    max_caption_length: int = option(64, "Longest caption, in tokens")
    image_size: list[int] | None = option(
        None,
        "Pixels that each frame is fitted into: the side of a square, or width and height [EfficientNet-Lite: the "
        "shape of the clips, at most 61,440 pixels; others: the backbone's own size, or 160]",
    )
    num_frames: int = option(16, "Frames per clip, spread evenly over it")
    feature_grid: int = option(3, "Cells per side that a frame's features are averaged into")
    thumbnail_size: int = option(5, "Pixels per side that each cell keeps of the frame itself")
    spatial_tokens: bool = option(False, "Make each cell a token, not each frame")
    color_bins: int = option(5, "Levels per primary colour in the colour histogram; 0 omits the histogram")
    color_dropout: float = option(0.0, "Share of training clips whose colour histogram is hidden")
    time_positions: Literal["rotary", "learned", "sinusoidal"] = option(
        "rotary", "Encoding of the time of tokens; rotary positions are in seconds"
    )
    space_positions: Literal["learned", "rotary", "sinusoidal"] = option(
        "learned", "Encoding of the position of cells within the frame"
    )
    encoder_attention: Literal["joint", "factorized"] = option(
        "joint",
        "Attention over all cells of all frames (joint), or alternating within frames and over time (factorized)",
    )
    temporal_pyramid: int = option(0, "Levels of averages over 2, 4, ... frames to append as tokens")
    fusion: Literal["cross_attention", "joint"] = option(
        "cross_attention", "Path from video to decoder: cross-attention, or one transformer over both (joint)"
    )
    encoder_window: int | None = option(None, "Frames before and after its own that a video token attends to [all]")
    caption_queries: int = option(0, "Queries that pool a clip for the decoder; 0 passes on every frame")
    motion: bool = option(True, "Show each token its difference from the previous frame [True]")
    motion_floor: float = option(
        0.05, "Also show that difference scaled to unit size, unless it is well below this value; 0 omits this"
    )
    hidden_size: int = option(_DEFAULT["hidden_size"], "Width of encoder and decoder")
    intermediate_size: int = option(_DEFAULT["intermediate_size"], "Width inside the feed-forward blocks")
    num_attention_heads: int = option(
        _DEFAULT["num_attention_heads"], "Attention heads per layer; must divide hidden_size"
    )
    encoder_layers: int = option(_DEFAULT["encoder_layers"], "Encoder layers over the video tokens; 0 for none")
    text_layers: int = option(_DEFAULT["text_layers"], "Decoder layers that read words alone")
    multimodal_layers: int = option(
        _DEFAULT["multimodal_layers"], "Decoder layers above these that also see the video"
    )
    dropout: float = option(0.0, "Dropout; larger presets and long trainings need 0.1 or more")
    stochastic_depth: float = option(0.0, "Drop-path rate of the last layer; earlier layers have lower rates")
    frame_dropout: float = option(0.0, "Share of frames hidden in training")
    video_dropout: float = option(
        0.0, "Share of training clips captioned without their video; --guidance_scale above 1 needs it"
    )
    word_dropout: float = option(
        0.6, "Share of the decoder's input words hidden in training, so that it relies on the video"
    )
    scheduled_sampling: float = option(
        0.0, "Share of the decoder's input words replaced by its own predictions, before word dropout"
    )
    label_smoothing: float = option(0.1, "Label smoothing of the caption loss")
    caption_weight: float = option(1.0, "Weight of the caption loss")
    masked_word_weight: float = option(
        0.0, "Weight of a loss on masked words, predicted from the words on both sides of them"
    )
    contrastive_weight: float = option(
        0.5, "Weight of the contrastive loss between clips and their captions; 0 for none"
    )
    contrastive_type: Literal["softmax", "sigmoid"] = option(
        "softmax", "Contrastive loss over the batch (softmax, CLIP) or per pair (sigmoid, SigLIP)"
    )
    reversed_negatives: bool = option(
        False, "Contrast each clip with itself played backwards, unless that has the same caption"
    )
    num_beams: int = option(4, "Beams of the caption search, saved with the model")
    similarity_weight: float | None = option(
        None,
        "Weight of the similarity to the clip in ranking beams, saved with the model [0.1, or 0 without a contrastive "
        "loss]",
    )
    memory_weight: float | None = option(
        None,
        "Weight of the captions remembered from training in the caption search, saved with the model; 0 for no memory "
        "[chosen on validation clips]",
    )
    guidance_scale: float = option(
        1.0,
        "Guidance away from captions written without the video, saved with the model; above 1 needs --video_dropout",
    )

    def __post_init__(self) -> None:
        # A caption is at least a word and its end. Sizes of the model are checked with its config.
        check_least(self, num_beams=1, max_caption_length=2, num_frames=1, lora_rank=1, lora_alpha=1)
        if isinstance(self.image_size, int):  # from a recipe
            self.image_size = [self.image_size]
        if self.image_size is not None and (len(self.image_size) > 2 or min(self.image_size, default=0) < 1):
            sides = " ".join(map(str, self.image_size))
            raise ValueError(f"--image_size {sides} must be one side or width and height, in pixels above 0")
