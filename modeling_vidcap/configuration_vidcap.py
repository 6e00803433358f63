"""The architecture of a video captioner: sizes, backbone, decoder, losses.

Guarantees: a combination that cannot work is refused when the config is built.
"""

from typing import Any, Literal

import transformers
from huggingface_hub.dataclasses import strict
from packaging.version import Version
from transformers import AutoConfig, PreTrainedConfig
from transformers import __version__ as transformers_version

from .settings_vidcap import DECODERS, VERSION, DerivedSizes, warn_of_transformers

OLDEST_TRANSFORMERS = "5.20"  # as in setup.cfg
if Version(transformers_version) < Version(OLDEST_TRANSFORMERS):  # configs are loaded first
    raise ImportError(
        f"vidcap {VERSION} needs transformers {OLDEST_TRANSFORMERS} or later, not {transformers_version}; "
        "run: pip install --upgrade transformers"
    )

# The name of the cache among the arguments of transformers' functions and models, which 5.24 changed.
CACHE = "cache" if Version(transformers_version) >= Version("5.24") else "past_key_values"
SHARES = (
    *("dropout", "attention_dropout", "stochastic_depth", "frame_dropout", "color_dropout", "video_dropout"),
    *("word_dropout", "scheduled_sampling", "label_smoothing"),
)
DEFAULT_TYPES = {"backbone_config": "timm_backbone", "decoder_config": "gpt2"}
POSITIVE = (
    *("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("multimodal_layers", "feature_grid", "num_frames", "max_position_embeddings"),
)
WEIGHTS = ("caption_weight", "masked_word_weight", "contrastive_weight")


@strict
class VideoCaptionConfig(DerivedSizes, PreTrainedConfig):
    r"""
    Configuration of [`VideoCaptionModel`] and [`VideoCaptionForConditionalGeneration`].

    Args:
        vocab_size (`int`): Number of tokens of the tokenizer.
        embedding_size (`int`, *optional*): Size of the word embeddings where it differs from `hidden_size`, as with
            the embeddings of a pretrained text model; a projection connects the two.
        freeze_embeddings (`bool`): Freeze the word embeddings and the output tied to them.
        hidden_size (`int`): Width of the video encoder and of the caption decoder.
        intermediate_size (`int`): Width inside their feed-forward blocks.
        num_attention_heads (`int`): Attention heads per layer; must divide `hidden_size` into even head sizes.
        encoder_layers (`int`): Self-attention layers over the video's tokens.
        text_layers (`int`): First decoder layers, which see text only (the "unimodal" part of CoCa).
        multimodal_layers (`int`): Decoder layers above them, with cross-attention to the video.
        decoder_config (`PreTrainedConfig` or `dict`, *optional*): Pretrained language model in place of these layers,
            of a type in `DECODERS`; `fusion` determines how it sees the clip.
        freeze_decoder (`bool`): Freeze its pretrained weights; cross-attention that was added to it is still trained.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): Image backbone or clip encoder, built by
            `AutoModel.from_config` (a `timm_backbone` by `AutoBackbone`), see `docs/model.md`. `None` takes
            `own_backbone`.
        own_backbone (`str`): `cnn`, the small CNN of this package, with `cnn_hidden_sizes`, or `s3d`, torchvision's
            clip encoder (https://arxiv.org/abs/1712.04851).
        backbone_stages (`list[int]`, *optional*): Indices of the hidden states of `backbone_config` to read, as in its
            `output_hidden_states`; `None` reads its last output.
        trained_backbone_stages (`int`, *optional*): Number of last stages of the backbone to train; `None` trains or,
            with `freeze_backbone`, freezes all of it.
        cnn_hidden_sizes (`list[int]`): Channels of the small CNN's stages, at 1/4, 1/8, 1/16 ... of the frame's size;
            multiples of 8.
        freeze_backbone (`bool`): Freeze the backbone's weights and statistics. Its features can then be cached.
        grayscale_backbone (`bool`): Pass frames without colour to the backbone, so that a shape looks the same in
            every colour; colours are left to `thumbnail_size` and `color_bins`.
        feature_size (`int`): Channels of the backbone's feature maps, summed over its output stages.
        feature_grid (`int`): Rows and columns of cells that each feature map is averaged to.
        thumbnail_size (`int`): Side in pixels of the thumbnail that follows each cell's features; it keeps colours and
            small movements that an ImageNet backbone has learnt to ignore. 0 leaves it out.
        image_mean, image_std (`list[float]`): Normalisation of pixels in [0, 1] by the processor, from which
            thumbnails and histograms recover black and white.
        color_bins (`int`): Levels per primary colour of each cell's histogram of `color_bins`^3 colours, which shows
            colours of small areas that an average blurs: 2 to 8, or 0 for none.
        color_dropout (`float`): Share of the clips whose histogram is hidden in training, so that it serves for
            colours only and not for what tends to appear with them.
        spatial_tokens (`bool`): `True`: one token per cell of each frame. `False`: one token per frame, which
            concatenates its cells; positions are kept at a fraction of the cost.
        time_positions (`str`): Positions of video tokens in time. `rotary`: attention sees the seconds between two
            tokens. `sinusoidal`: sines of the token's time in seconds, with the same periods, are added to it.
            `learned`: a table of `num_frames` positions, stretched over the clip and interpolated for other numbers
            of frames, is added; it ignores seconds. The decoder's cross-attention always uses rotary times.
        space_positions (`str`): Positions of cells in the frame, with `spatial_tokens`. `learned`: a table of cells is
            added. `sinusoidal`: fixed sines of row and column are added. `rotary`: attention sees the distance
            between two cells but not their place; rows and columns take a quarter of each head's channels each, or
            half each if `time_positions` are not rotary.
        encoder_attention (`str`): `joint`: every token attends to every token. `factorized`: layers attend alternately
            to the cells of their frame and to their cell in all frames (TimeSformer,
            https://arxiv.org/abs/2102.05095; ViViT, https://arxiv.org/abs/2103.15691).
        encoder_window (`int`, *optional*): Number of frames before and after its own that a video token attends to;
            `None` is the whole clip.
        temporal_pyramid (`int`): Levels of slower tokens after the encoder's layers: level l holds means over 2^l
            neighbouring frames, which decoder and contrastive loss see beside the frames.
        caption_queries (`int`): Learned queries that pool a clip into as many tokens for the decoder (CoCa's
            attentional pooling); with 0 the decoder sees every token of the encoder.
        fusion (`str`): How the decoder's upper layers see the video: `cross_attention`, or `joint`, one transformer
            over video and text tokens, in which text sees all of the video and the video sees no text. A pretrained
            decoder, which is causal, then reads the clip's tokens before the caption.
        motion (`bool`): Add each token's difference from the previous frame before attention.
        motion_floor (`float`): Root mean square below which a difference counts as noise and stays small; above 0,
            the difference also enters scaled to one size, whatever part of the frame moves. 0 leaves this out.
        num_frames (`int`): Default number of frames sampled from a clip; the model itself takes any number.
        frame_interval (`float`): Seconds between frames, assumed only without `video_times`.
        min_time_period, max_time_period (`float`): Shortest and longest period, in seconds, of the rotary positions
            in time.
        max_position_embeddings (`int`): Maximum length of a caption in tokens.
        dropout (`float`): Dropout of embeddings and of each block's output.
        stochastic_depth (`float`): Rate at which training skips a block of the last encoder or decoder layer for a
            clip; proportionally less for earlier layers.
        frame_dropout (`float`): Share of the frames hidden from attention in training.
        video_dropout (`float`): Share of the clips whose video is hidden from the decoder in training, so that it
            learns to write without one; needed for `guidance_scale` of `generate` (https://arxiv.org/abs/2207.12598).
        word_dropout (`float`): Share of the decoder's *input* words replaced by the unknown token in training, so
            that the next word has to be read off the video (Bowman et al. 2016, https://arxiv.org/abs/1511.06349).
        scheduled_sampling (`float`): Share of the decoder's input words replaced in training, before word dropout, by
            the model's own predictions from a first pass (Mihaylova & Martins 2019, https://arxiv.org/abs/1906.07651).
        label_smoothing (`float`): Label smoothing of the caption loss.
        caption_weight (`float`): Weight of the caption loss.
        masked_word_weight (`float`): Weight of a second caption loss, in which the decoder predicts masked words from
            the words on both sides (as in LLM2Vec, https://arxiv.org/abs/2404.05961); 0 leaves it out.
        contrastive_weight (`float`): Weight of the contrastive loss between clip and caption (CoCa,
            https://arxiv.org/abs/2205.01917); 0 leaves it out.
        contrastive_type (`str`): `softmax` over the batch (CLIP), or `sigmoid` of each pair (SigLIP).
        reversed_negatives (`bool`): Whether the contrastive loss contrasts a clip with itself played backwards; only
            for captions that are untrue of the reversed clip.
        projection_dim (`int`): Size of the shared space of clips and captions.
        logit_scale_init_value (`float`): Initial contrastive temperature, as ln(1 / temperature).
        memory_shape (`list[int]`, *optional*): Captions, tokens per caption, n-grams and vector size of the
            [`CaptionMemory`] that training fitted; `None` for none.
        memory_share (`float`): Share of the memory in the embeddings of clips and captions.
        unk_token_id (`int`): Token that replaces dropped words.
        vidcap_version (`str`): Version of vidcap that wrote the checkpoint; not to be set. A version reads the
            checkpoints of all earlier ones and of those with the same first two numbers.
    """

    model_type = "vidcap"
    keys_to_ignore_at_inference = ["cache"]
    sub_configs = {"backbone_config": AutoConfig, "decoder_config": AutoConfig}

    vocab_size: int = 1000
    embedding_size: int | None = None
    freeze_embeddings: bool = False
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_attention_heads: int = 4
    encoder_layers: int = 2
    text_layers: int = 1
    multimodal_layers: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5

    decoder_config: dict | PreTrainedConfig | None = None
    freeze_decoder: bool = False
    backbone_config: dict | PreTrainedConfig | None = None
    own_backbone: Literal["cnn", "s3d"] = "cnn"
    backbone_stages: list[int] | None = None
    trained_backbone_stages: int | None = None
    cnn_hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128)
    freeze_backbone: bool = False
    grayscale_backbone: bool = False
    feature_size: int = 128
    feature_grid: int = 4
    thumbnail_size: int = 0
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    color_bins: int = 0
    color_dropout: float = 0.0
    spatial_tokens: bool = False
    time_positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    space_positions: Literal["learned", "rotary", "sinusoidal"] = "learned"
    encoder_attention: Literal["joint", "factorized"] = "joint"
    encoder_window: int | None = None
    temporal_pyramid: int = 0
    caption_queries: int = 0
    fusion: Literal["cross_attention", "joint"] = "cross_attention"
    motion: bool = True
    motion_floor: float = 0.0
    num_frames: int = 16
    frame_interval: float = 0.25
    min_time_period: float = 0.25
    max_time_period: float = 256.0

    max_position_embeddings: int = 64
    dropout: float = 0.1
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    frame_dropout: float = 0.0
    video_dropout: float = 0.0
    word_dropout: float = 0.6
    scheduled_sampling: float = 0.0
    label_smoothing: float = 0.1
    caption_weight: float = 1.0
    masked_word_weight: float = 0.0
    contrastive_weight: float = 0.5
    contrastive_type: Literal["softmax", "sigmoid"] = "softmax"
    reversed_negatives: bool = False
    projection_dim: int = 256
    logit_scale_init_value: float = 2.6592  # ln(1 / 0.07), as in CLIP
    initializer_range: float = 0.02
    memory_shape: list[int] | tuple[int, ...] | None = None
    memory_share: float = 0.0

    pad_token_id: int = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    unk_token_id: int = 3
    decoder_start_token_id: int = 1
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    vidcap_version: str = VERSION

    def __post_init__(self, **kwargs):
        for name in self.sub_configs:
            if isinstance(value := getattr(self, name), dict):
                setattr(self, name, AutoConfig.for_model(**{"model_type": DEFAULT_TYPES[name], **value}))
        super().__post_init__(**kwargs)
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of 2 x `num_attention_heads` "
                f"({2 * self.num_attention_heads}): rotary positions need heads of even size"
            )
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1, got {getattr(self, name)}")
        for name in (*WEIGHTS, "encoder_layers", "text_layers", "caption_queries", "thumbnail_size", "motion_floor"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")
        if self.encoder_window is not None and self.encoder_window < 1:
            raise ValueError(f"`encoder_window` must be None or at least 1 frame, got {self.encoder_window}")
        if self.color_dropout and not self.color_bins:
            raise ValueError(f"`color_dropout` {self.color_dropout} needs a histogram: set `color_bins` above 0")
        if self.color_bins not in (0, *range(2, 9)):
            raise ValueError(f"`color_bins` must be 0 (no histogram) or between 2 and 8, got {self.color_bins}")
        self._check_space_and_time()
        self._check_losses()
        if not 0 < self.min_time_period < self.max_time_period:
            raise ValueError(
                "`min_time_period` must be above 0 and below `max_time_period`, got "
                f"{self.min_time_period} and {self.max_time_period} seconds"
            )
        if self.pad_token_id == self.eos_token_id:
            raise ValueError(
                f"`pad_token_id` and `eos_token_id` are both {self.pad_token_id}, so that the model could not learn "
                "to end a caption; give the tokenizer a separate pad token"
            )
        if self.pad_token_id in (self.unk_token_id, self.decoder_start_token_id):
            raise ValueError(
                f"`pad_token_id` {self.pad_token_id} equals `unk_token_id` or `decoder_start_token_id`, which the "
                "decoder reads; give the tokenizer a separate pad token"
            )
        self._check_backbone()
        self._check_decoder()
        self._check_memory()

    def _check_memory(self) -> None:
        shape = self.memory_shape
        if shape is not None and (len(shape) != 4 or min(shape) < 1):
            raise ValueError(f"`memory_shape` must be four numbers above 0, got {shape}")
        if not 0 <= self.memory_share <= 1 or (self.memory_share and shape is None):
            raise ValueError(f"`memory_share` must be from 0 to 1, and 0 without a memory, got {self.memory_share}")

    def _check_backbone(self) -> None:
        if self._backbone_type == "cnn":
            if self.feature_size != self.cnn_hidden_sizes[-1]:
                raise ValueError(
                    f"`feature_size` must equal the last of `cnn_hidden_sizes` ({self.cnn_hidden_sizes[-1]}), got "
                    f"{self.feature_size}"
                )
            if self.trained_backbone_stages is not None:
                raise ValueError(
                    f"`trained_backbone_stages` {self.trained_backbone_stages}: the small CNN is trained as a whole; "
                    "leave it out"
                )
        if self.backbone_stages is not None and self._backbone_type in ("cnn", "s3d", "timm_backbone"):
            raise ValueError(
                f"`backbone_stages` {self.backbone_stages} cannot be chosen for a backbone of type "
                f"{self._backbone_type}: leave them out, or set `out_indices` of a `timm_backbone` in its own config"
            )
        if self.trained_backbone_stages is not None and (self.freeze_backbone or self.trained_backbone_stages < 1):
            raise ValueError(
                f"`trained_backbone_stages` must be at least 1 and `freeze_backbone` False, got "
                f"{self.trained_backbone_stages} and {self.freeze_backbone}; to freeze the whole backbone, leave "
                "`trained_backbone_stages` out"
            )
        self.check_frames(self.num_frames)

    def _check_decoder(self) -> None:
        decoder: Any = self.decoder_config
        if decoder is None:
            if self.freeze_decoder:
                raise ValueError("`freeze_decoder` True needs a `decoder_config`: set it, or leave it out")
            return
        model_type = decoder.model_type
        if model_type not in DECODERS:
            raise ValueError(f"`decoder_config` must be of type {', '.join(DECODERS)}, got {model_type!r}")
        crosses = self.fusion == "cross_attention"
        if crosses and not DECODERS[model_type]:
            raise ValueError(f"`fusion` 'cross_attention': {model_type} has none; set `fusion` to 'joint'")
        if bool(getattr(decoder, "add_cross_attention", False)) is not crosses:
            raise ValueError(
                f"`fusion` {self.fusion!r} needs a `decoder_config` with `add_cross_attention` {crosses}; set it there"
            )
        if decoder.vocab_size != self.vocab_size:
            raise ValueError(
                f"`vocab_size` must be that of `decoder_config` ({decoder.vocab_size}), got {self.vocab_size}"
            )
        if self.embedding_size is not None or self.masked_word_weight:
            raise ValueError(
                f"`embedding_size` {self.embedding_size}, `masked_word_weight` {self.masked_word_weight}: a "
                "pretrained decoder has its own embeddings and sees no words ahead; leave both out"
            )
        # The summary token follows the caption, the token of the memory the clip.
        needed = self.max_position_embeddings + 1 + (self.memory_shape is not None)
        if not crosses:
            cells = self.feature_grid**2 if self.spatial_tokens else 1
            needed += self.caption_queries or self.num_frames // self.frame_stride * cells
        if needed > decoder.max_position_embeddings:
            raise ValueError(
                f"caption and clip need {needed} positions, but `decoder_config` has "
                f"{decoder.max_position_embeddings}: lower `max_position_embeddings` or `num_frames`, or set "
                "`caption_queries`"
            )

    def _check_space_and_time(self) -> None:
        for name, default in (("space_positions", "learned"), ("encoder_attention", "joint")):
            if getattr(self, name) != default and not self.spatial_tokens:
                raise ValueError(
                    f"`{name}` {getattr(self, name)!r} needs one token per cell: set `spatial_tokens` to True, "
                    f"or `{name}` to {default!r}"
                )
        if not self.encoder_layers and (self.encoder_window is not None or self.space_positions == "rotary"):
            raise ValueError(
                "`encoder_window` and `space_positions` 'rotary' need `encoder_layers` above 0, got 0: raise it, or "
                "leave them at their defaults"
            )
        head_size = self.hidden_size // self.num_attention_heads
        smallest = 16 if self.time_positions == "rotary" else 8  # two periods or more on each axis
        if self.space_positions == "rotary" and head_size < smallest:
            raise ValueError(
                f"`space_positions` 'rotary' and `time_positions` {self.time_positions!r} need at least {smallest} "
                f"channels per head, but `hidden_size` / `num_attention_heads` is {head_size}: use fewer heads"
            )
        if self.encoder_attention == "factorized" and (self.encoder_layers < 2 or self.encoder_layers % 2):
            raise ValueError(
                "`encoder_attention` 'factorized' needs `encoder_layers` in pairs, one for space and one for time; "
                f"set 2, 4, 6 ..., not {self.encoder_layers}"
            )
        if self.temporal_pyramid < 0 or 2**self.temporal_pyramid > self.num_frames:
            raise ValueError(
                f"`temporal_pyramid` must be at least 0, and 2^`temporal_pyramid` at most `num_frames` "
                f"({self.num_frames}), got {self.temporal_pyramid}"
            )

    def _check_losses(self) -> None:
        if not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"{', '.join(f'`{name}`' for name in WEIGHTS)} are all 0: set at least one above 0")
        if self.contrastive_weight and not self.text_layers:
            raise ValueError(
                f"`contrastive_weight` {self.contrastive_weight} needs at least one of `text_layers`, which tell "
                "captions apart; got 0"
            )
        if self.reversed_negatives and not self.contrastive_weight:
            raise ValueError("`reversed_negatives` True needs the contrastive loss: set `contrastive_weight` above 0")
        if self.fusion == "joint" and not self.text_layers:
            raise ValueError("`fusion` 'joint' needs at least one of `text_layers`, got 0")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """Build the config, and check the versions of vidcap and transformers that saved it.

        The installed package drops the keys that lead to code inside a model's folder: `pipeline()` would prefer the
        folder's pipeline, which it may not run unasked, to the registered one.

        Raises:
            ValueError: If a newer version of vidcap wrote it.
        """
        config_dict = dict(config_dict)
        written = config_dict.pop("vidcap_version", VERSION)  # saving writes the current version
        if Version(written).release[:2] > Version(VERSION).release[:2]:
            raise ValueError(
                f"the model was saved by vidcap {written}, which is newer than the installed {VERSION}: update vidcap"
            )
        warn_of_transformers(config_dict.get("transformers_version"), transformers.__version__)
        if not cls.__module__.startswith("transformers_modules."):
            config_dict = {key: config_dict[key] for key in config_dict if key not in ("auto_map", "custom_pipelines")}
        return super().from_dict(config_dict, **kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "VideoCaptionConfig":
        """The config itself, which transformers would copy several times per call of `generate`."""
        return self


__all__ = ["VideoCaptionConfig"]
