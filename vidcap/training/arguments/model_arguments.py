"""Options of `vidcap train` that shape the model."""

from dataclasses import dataclass, field
from typing import Literal

from .bounds import check_least
from .presets import PRESETS


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a captioner to go on training, with its tokenizer and its way of reading "
            "clips; the sizes below are then its own, rates and weights of the loss can be changed."
        },
    )
    preset: str | None = field(
        default=None, metadata={"help": f"Sizes that go together: {', '.join(PRESETS)} parameters; 1m by default."}
    )
    backbone: str = field(
        default="efficientnet_lite0",
        metadata={
            "help": "efficientnet_lite0 (or 1, 2), cnn, s3d, or folder or Hub id of an image model or clip encoder, "
            "such as timm/resnet18.a1_in1k or MCG-NJU/videomae-base."
        },
    )
    backbone_stages: list[int] | None = field(
        default=None,
        metadata={
            "help": "Stages of the backbone to read [EfficientNet-Lite: 2 3 4, of 0 (stride 2) to 4 (stride 32); "
            "others: their last output, or hidden states counted from 0]."
        },
    )
    freeze_backbone: bool | None = field(
        default=None, metadata={"help": "Keep the backbone as it is [if its weights are trained ones]."}
    )
    trained_backbone_stages: int | None = field(
        default=None, metadata={"help": "Train the backbone's last stages, so many of them, and keep the others."}
    )
    grayscale_backbone: bool = field(
        default=False, metadata={"help": "Show the backbone frames without colour; the histogram still tells it."}
    )
    decoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a language model that writes the captions, with its own tokenizer: GPT-2, or "
            "with --fusion joint SmolLM2, Llama and Qwen, too."
        },
    )
    freeze_decoder: bool = field(
        default=False, metadata={"help": "Keep this model as it is, but for attention to the clip that is new to it."}
    )
    lora: list[str] | None = field(
        default=None,
        metadata={
            "help": "Train low-rank matrices beside the weights of these pretrained parts, of backbone and decoder; "
            "they are added into the weights at the end. Needs the extra lora."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Of these matrices."})
    lora_alpha: int | None = field(default=None, metadata={"help": "They count alpha / rank [twice the rank]."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id; by default made of the captions."}
    )
    text_embeddings: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a text model whose tokenizer and word embeddings are taken."},
    )
    freeze_embeddings: bool = field(default=False, metadata={"help": "Keep these embeddings as they are."})
    max_vocab_size: int = field(default=10_000, metadata={"help": "Words of a tokenizer made of the captions."})
    max_caption_length: int = field(default=64, metadata={"help": "In tokens."})
    image_size: int = field(default=160, metadata={"help": "Side of the square that whole frames are fitted into."})
    num_frames: int = field(default=16, metadata={"help": "Frames of a clip that the model sees, spread over it."})
    feature_grid: int = field(default=3, metadata={"help": "Cells a side that a frame's features are averaged to."})
    thumbnail_size: int = field(
        default=5, metadata={"help": "Pixels a side that each cell keeps of the frame itself."}
    )
    spatial_tokens: bool = field(default=False, metadata={"help": "Each cell a token; by default each frame is one."})
    color_bins: int = field(
        default=5, metadata={"help": "Levels of each primary colour in a histogram of colours; 0 leaves it out."}
    )
    color_dropout: float = field(
        default=0.0, metadata={"help": "Share of the clips whose histogram of colours training hides."}
    )
    time_positions: Literal["rotary", "learned", "sinusoidal"] = field(
        default="rotary", metadata={"help": "How tokens know when they are; rotary: in seconds."}
    )
    space_positions: Literal["learned", "rotary", "sinusoidal"] = field(
        default="learned", metadata={"help": "How cells know where in the frame they are."}
    )
    encoder_attention: Literal["joint", "factorized"] = field(
        default="joint", metadata={"help": "Over all cells of all frames, or in turns in a frame and along time."}
    )
    temporal_pyramid: int = field(default=0, metadata={"help": "Levels of averages over 2, 4 ... frames to append."})
    fusion: Literal["cross_attention", "joint"] = field(
        default="cross_attention", metadata={"help": "How the decoder sees the video; joint: one transformer of both."}
    )
    encoder_window: int | None = field(
        default=None, metadata={"help": "Frames before and behind its own that a video token attends to [all]."}
    )
    caption_queries: int = field(
        default=0, metadata={"help": "Queries that pool a clip for the decoder; 0 shows it every frame."}
    )
    motion: bool = field(default=True, metadata={"help": "Show each token its difference from the frame before."})
    motion_floor: float = field(
        default=0.05, metadata={"help": "Show it scaled to one size, too, unless it is well below this; 0 does not."}
    )
    hidden_size: int = field(default=PRESETS["1m"]["hidden_size"], metadata={"help": "Width of encoder and decoder."})
    intermediate_size: int = field(
        default=PRESETS["1m"]["intermediate_size"], metadata={"help": "Width inside their feed-forward blocks."}
    )
    num_attention_heads: int = field(
        default=PRESETS["1m"]["num_attention_heads"], metadata={"help": "Of each layer; they share the width out."}
    )
    encoder_layers: int = field(
        default=PRESETS["1m"]["encoder_layers"], metadata={"help": "Layers over the video's tokens; 0: none."}
    )
    text_layers: int = field(
        default=PRESETS["1m"]["text_layers"], metadata={"help": "Layers of the decoder that read words alone."}
    )
    multimodal_layers: int = field(
        default=PRESETS["1m"]["multimodal_layers"], metadata={"help": "Layers above them, which see the video, too."}
    )
    dropout: float = field(default=0.0, metadata={"help": "For larger presets and many epochs: 0.1 or more."})
    stochastic_depth: float = field(default=0.0, metadata={"help": "Drop path, at the last layer."})
    frame_dropout: float = field(default=0.0, metadata={"help": "Share of the frames that training hides."})
    video_dropout: float = field(
        default=0.0,
        metadata={"help": "Share of clips captioned without video, for guidance when captions are written."},
    )
    word_dropout: float = field(
        default=0.6, metadata={"help": "Share of the decoder's input words that training hides, so that it looks."}
    )
    scheduled_sampling: float = field(
        default=0.0,
        metadata={"help": "Share of input words that are the model's own predictions, ahead of word dropout."},
    )
    label_smoothing: float = field(default=0.1, metadata={"help": "Of the caption loss."})
    caption_weight: float = field(default=1.0, metadata={"help": "Weight of the caption loss."})
    masked_word_weight: float = field(
        default=0.0, metadata={"help": "Weight of a loss on words that are hidden, which sees those behind them."}
    )
    contrastive_weight: float = field(
        default=0.5, metadata={"help": "Weight of the loss that brings clips and their captions together; 0: none."}
    )
    contrastive_type: Literal["softmax", "sigmoid"] = field(
        default="softmax", metadata={"help": "Over the batch (CLIP) or of each pair (SigLIP)."}
    )
    reversed_negatives: bool = field(
        default=False, metadata={"help": "Contrast a clip with itself backwards; not where that has the same caption."}
    )
    num_beams: int = field(default=4, metadata={"help": "Beams of `generate`, saved with the model."})
    similarity_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the likeness to the clip when `generate` ranks beams, saved with the model [0.1, or 0 "
            "without a contrastive loss]."
        },
    )
    guidance_scale: float = field(
        default=1.0, metadata={"help": "Guidance of `generate`, saved with the model; above 1 needs --video_dropout."}
    )

    def __post_init__(self) -> None:
        # A caption is a word and its end at least; sizes of the model are checked with its config.
        check_least(self, num_beams=1, max_caption_length=2, image_size=1, num_frames=1, lora_rank=1, lora_alpha=1)
