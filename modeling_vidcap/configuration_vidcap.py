"""What a video captioner is made of: sizes, the frame backbone, the parts of the loss.

Every combination that cannot work is refused here, when the config is built.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from packaging.version import Version
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .settings_vidcap import DECODERS, VERSION, DerivedSizes

SHARES = (
    "dropout",
    "attention_dropout",
    "stochastic_depth",
    "frame_dropout",
    "color_dropout",
    "video_dropout",
    "word_dropout",
    "scheduled_sampling",
    "label_smoothing",
)
WEIGHTS = ("caption_weight", "masked_word_weight", "contrastive_weight")


@strict
class VideoCaptionConfig(DerivedSizes, PreTrainedConfig):
    r"""
    Configuration of [`VideoCaptionModel`] and [`VideoCaptionForConditionalGeneration`].

    Args:
        vocab_size (`int`): Number of tokens of the captions' tokenizer.
        embedding_size (`int`, *optional*): Size of the words' embeddings where it is not `hidden_size`, as that of
            embeddings of a pretrained text model; a projection goes between the two.
        freeze_embeddings (`bool`): Keep the words' embeddings, and the output that is tied to them, as they are.
        hidden_size (`int`): Width of the video encoder and of the caption decoder.
        intermediate_size (`int`): Width inside their feed-forward blocks.
        num_attention_heads (`int`): Attention heads everywhere; must divide `hidden_size` into even head sizes.
        encoder_layers (`int`): Self-attention layers over the video's tokens.
        text_layers (`int`): First decoder layers, which see text only (the "unimodal" part of CoCa).
        multimodal_layers (`int`): Decoder layers above them, with cross-attention to the video.
        decoder_config (`PreTrainedConfig` or `dict`, *optional*): A pretrained language model in the place of these
            layers, one of `DECODERS`; `fusion` says how it sees the clip.
        freeze_decoder (`bool`): Keep its weights as they are, but for attention to the clip that it did not bring.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): Image backbone or clip encoder that
            `AutoModel.from_config` builds (for `timm_backbone`, `AutoBackbone`), see `docs/model.md`. `None` stands
            for `own_backbone`.
        own_backbone (`str`): `cnn`, the small CNN of this package, with `cnn_hidden_sizes`, or `s3d`, torchvision's
            clip encoder (https://arxiv.org/abs/1712.04851).
        backbone_stages (`list[int]`, *optional*): Hidden states of `backbone_config` to read, counted as its
            `output_hidden_states` counts them; `None` reads its last output.
        trained_backbone_stages (`int`, *optional*): Train the last stages of the backbone alone, so many of them;
            `None` trains or, with `freeze_backbone`, freezes all of it.
        cnn_hidden_sizes (`list[int]`): Channels of the small CNN's stages, at 1/4, 1/8, 1/16 ... of the frame's size;
            multiples of 8.
        freeze_backbone (`bool`): Keep the backbone's weights and statistics fixed. Its features can then be cached.
        grayscale_backbone (`bool`): Show the backbone frames without colour, so that a shape looks the same in every
            colour; colours are left to `thumbnail_size` and `color_bins`.
        feature_size (`int`): Channels of the backbone's feature maps, summed over its output stages.
        feature_grid (`int`): Each feature map is averaged to `feature_grid` x `feature_grid` cells.
        thumbnail_size (`int`): Pixels a side that each cell keeps of the frame itself, behind the backbone's features;
            colours and small movements survive there that an ImageNet backbone has learnt to ignore. 0 leaves it out.
        image_mean, image_std (`list[float]`): How the processor normalises pixels of [0, 1], so that thumbnails and
            histograms know what black and white are.
        color_bins (`int`): Levels of each primary colour in the
            histogram of `color_bins`^3 colours that each cell gets; it tells what colours there are however small
            their surface, which an average blurs. 0 leaves it out, 2 to 8 are possible.
        color_dropout (`float`): Share of the clips whose histogram training hides, so that nothing but colours is
            read off it: what is seen together with a colour would be otherwise.
        spatial_tokens (`bool`): `True`: each cell of each frame is a token of its own. `False`: the cells of a frame
            are concatenated into one token a frame, which keeps positions at a fraction of the cost.
        time_positions (`str`): How a video token knows its moment in the encoder. `rotary`: attention sees the seconds
            between two tokens. `sinusoidal`: sines of the token's time in seconds are added to it, with the same
            periods. `learned`: a table of `num_frames` positions is added, laid over the clip from its first frame to
            its last and interpolated for other numbers of frames; it knows no seconds. In all three the decoder's
            cross-attention uses rotary times.
        space_positions (`str`): How a cell's token knows its place in the frame, with `spatial_tokens`. `learned`: a
            table of the cells is added. `sinusoidal`: fixed sines of row and column are added. `rotary`: attention
            sees how far apart two cells are, but not where; a quarter of each head's channels is for rows and a
            quarter for columns, half and half where `time_positions` leave time's channels free.
        encoder_attention (`str`): `joint`: every token attends to every token. `factorized`: layers attend in turns
            to the cells of their frame and to their cell in all frames (TimeSformer,
            https://arxiv.org/abs/2102.05095; ViViT, https://arxiv.org/abs/2103.15691).
        encoder_window (`int`, *optional*): How many frames before and behind its own a video token attends to;
            `None` is the whole clip.
        temporal_pyramid (`int`): Levels of slower tokens behind the encoder's layers: level l holds means over 2^l
            neighbouring frames, for decoder and contrastive loss to look at beside the frames.
        caption_queries (`int`): Learned queries that pool a clip into as many tokens for the decoder (CoCa's
            attentional pooling); 0 lets the decoder look at every token of the encoder.
        fusion (`str`): How the decoder's upper layers look at the video: `cross_attention`, or `joint`, one
            transformer over video and text tokens, in which text sees all of the video and the video sees no text.
            A pretrained decoder, causal as it is, then reads the clip's tokens ahead of the caption.
        motion (`bool`): Show each token its difference from the frame before, ahead of attention.
        motion_floor (`float`): Show that difference scaled to one size, too, whatever part of the frame moves: tokens
            are normalised, and differences well below this root mean square are taken for noise and kept small. 0
            shows the difference as it is alone.
        num_frames (`int`): Frames a clip is sampled to by default; the model itself takes any number.
        frame_interval (`float`): Seconds between frames, assumed only where no `video_times` are given.
        min_time_period, max_time_period (`float`): Shortest and longest period, in seconds, of the rotary positions
            in time.
        max_position_embeddings (`int`): Longest caption in tokens.
        dropout (`float`): Dropout on embeddings and on each block's output.
        stochastic_depth (`float`): Rate at which training skips a block of the last encoder or decoder layer for a
            clip; earlier layers less, in proportion to their depth.
        frame_dropout (`float`): Share of the frames that training hides from attention.
        video_dropout (`float`): Share of the clips whose video training hides from the decoder, which learns to write
            without one. Needed for `guidance_scale` of `generate` (https://arxiv.org/abs/2207.12598).
        word_dropout (`float`): Share of the decoder's *input* words that training replaces by the unknown token, so
            that the next word has to be read off the video (Bowman et al. 2016, https://arxiv.org/abs/1511.06349).
        scheduled_sampling (`float`): Share of the decoder's input words that training replaces, ahead of word
            dropout, by those that the model itself predicts there, in a first pass (Mihaylova & Martins 2019,
            https://arxiv.org/abs/1906.07651).
        label_smoothing (`float`): Label smoothing of the caption loss.
        caption_weight (`float`): Weight of the caption loss.
        masked_word_weight (`float`): Weight of a second caption loss, in which the decoder sees the words on both
            sides of the hidden ones it has to name (as in LLM2Vec, https://arxiv.org/abs/2404.05961); 0 leaves it out.
        contrastive_weight (`float`): Weight of the contrastive loss between clip and caption (CoCa,
            https://arxiv.org/abs/2205.01917); 0 leaves it out.
        contrastive_type (`str`): `softmax` over the batch (CLIP), or `sigmoid` of each pair (SigLIP).
        reversed_negatives (`bool`): Let the contrastive loss tell a clip from itself played backwards. Only for
            captions that are untrue of the reversed clip.
        projection_dim (`int`): Size of the shared space of clips and captions.
        logit_scale_init_value (`float`): Start of the contrastive temperature, as ln(1 / temperature).
        unk_token_id (`int`): The token that stands in for dropped words.
        vidcap_version (`str`): The version of vidcap that wrote a checkpoint, not to be set. Versions with the same
            first two numbers read each other's checkpoints, and a version those of all earlier ones.
    """

    model_type = "vidcap"
    keys_to_ignore_at_inference = ["cache"]
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="timm_backbone", optional=True),
        "decoder_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt2", optional=True),
    }

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
        super().__post_init__(**kwargs)
        for name in ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of 2 x `num_attention_heads` "
                f"({2 * self.num_attention_heads}): rotary positions need heads of even size"
            )
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a share in [0, 1), got {getattr(self, name)}")
        for name in (*WEIGHTS, "encoder_layers", "text_layers", "caption_queries", "thumbnail_size", "motion_floor"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` cannot be negative, got {getattr(self, name)}")
        for name in ("multimodal_layers", "feature_grid", "num_frames", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.encoder_window is not None and self.encoder_window < 1:
            raise ValueError(f"`encoder_window` must be at least 1 frame, or None, got {self.encoder_window}")
        if self.color_dropout and not self.color_bins:
            raise ValueError(f"`color_dropout` {self.color_dropout} hides a histogram: set `color_bins` above 0")
        if self.color_bins not in (0, *range(2, 9)):
            raise ValueError(f"`color_bins` is 0 (none) or 2 to 8 levels a primary colour, got {self.color_bins}")
        self._check_space_and_time()
        self._check_losses()
        if not 0 < self.min_time_period < self.max_time_period:
            raise ValueError(
                f"0 < `min_time_period` < `max_time_period` is needed, got {self.min_time_period} and "
                f"{self.max_time_period} seconds"
            )
        if self.pad_token_id == self.eos_token_id:
            raise ValueError(
                f"`pad_token_id` and `eos_token_id` are both {self.pad_token_id}: captions would never learn to end; "
                "give the tokenizer a pad token of its own"
            )
        if self.pad_token_id in (self.unk_token_id, self.decoder_start_token_id):
            raise ValueError(
                f"`pad_token_id` {self.pad_token_id} is also the unknown or the first token, which captions are read "
                "with; give the tokenizer a pad token of its own"
            )
        self._check_backbone()
        self._check_decoder()

    def _check_backbone(self) -> None:
        if self._backbone_type == "cnn":
            if self.feature_size != self.cnn_hidden_sizes[-1]:
                raise ValueError(
                    f"`feature_size` {self.feature_size} differs from the last of `cnn_hidden_sizes` "
                    f"{self.cnn_hidden_sizes[-1]}: set them equal"
                )
            if self.trained_backbone_stages is not None:
                raise ValueError("the small CNN is trained as a whole: leave `trained_backbone_stages` out")
        if self.backbone_stages is not None and self._backbone_type in ("cnn", "s3d", "timm_backbone"):
            raise ValueError(
                "`backbone_stages` are hidden states of an `AutoModel`: leave them out, or set `out_indices` of a "
                "`timm_backbone` in its own config"
            )
        if self.trained_backbone_stages is not None and (self.freeze_backbone or self.trained_backbone_stages < 1):
            raise ValueError(
                f"`trained_backbone_stages` {self.trained_backbone_stages} must be at least 1, with `freeze_backbone` "
                f"False (it is {self.freeze_backbone}): to train nothing of it, set `freeze_backbone` alone"
            )
        self.check_frames(self.num_frames)

    def _check_decoder(self) -> None:
        decoder: Any = self.decoder_config
        if decoder is None:
            if self.freeze_decoder:
                raise ValueError("`freeze_decoder` is for a pretrained decoder: set `decoder_config`, or leave it out")
            return
        kind = decoder.model_type
        if kind not in DECODERS:
            raise ValueError(f"`decoder_config` is of type {kind!r}; known are {', '.join(DECODERS)}")
        crosses = self.fusion == "cross_attention"
        if crosses and not DECODERS[kind]:
            raise ValueError(f"`fusion` 'cross_attention': {kind} has no cross-attention, set `fusion` to 'joint'")
        if bool(getattr(decoder, "add_cross_attention", False)) is not crosses:
            raise ValueError(f"`fusion` {self.fusion!r} needs `add_cross_attention` {crosses} in `decoder_config`")
        if decoder.vocab_size != self.vocab_size:
            raise ValueError(
                f"`vocab_size` is {self.vocab_size}, that of `decoder_config` {decoder.vocab_size}: set them equal"
            )
        if self.embedding_size is not None or self.masked_word_weight:
            raise ValueError(
                "a pretrained decoder has embeddings of its own and sees no words ahead: leave `embedding_size` and "
                f"`masked_word_weight` out, they are {self.embedding_size} and {self.masked_word_weight}"
            )
        needed = self.max_position_embeddings + 1  # the summary behind the caption
        if not crosses:
            cells = self.feature_grid**2 if self.spatial_tokens else 1
            needed += self.caption_queries or self.num_frames // self.frame_stride * cells
        if needed > decoder.max_position_embeddings:
            raise ValueError(
                f"caption and clip take {needed} positions, `decoder_config` has {decoder.max_position_embeddings}: "
                "lower `max_position_embeddings` or `num_frames`, or set `caption_queries`"
            )

    def _check_space_and_time(self) -> None:
        for name, default in (("space_positions", "learned"), ("encoder_attention", "joint")):
            if getattr(self, name) != default and not self.spatial_tokens:
                raise ValueError(
                    f"`{name}` {getattr(self, name)!r} needs a token a cell: set `spatial_tokens` to True, "
                    f"or `{name}` to {default!r}"
                )
        if not self.encoder_layers and (self.encoder_window is not None or self.space_positions == "rotary"):
            raise ValueError(
                "`encoder_window` and `space_positions` 'rotary' are for the attention of `encoder_layers`, of which "
                "there are 0: leave them at their defaults, or set `encoder_layers` above 0"
            )
        head_size = self.hidden_size // self.num_attention_heads
        smallest = 16 if self.time_positions == "rotary" else 8  # two periods or more on each axis
        if self.space_positions == "rotary" and head_size < smallest:
            raise ValueError(
                f"`space_positions` 'rotary' and `time_positions` {self.time_positions!r} need heads of {smallest} or "
                f"more channels, `hidden_size` / `num_attention_heads` is {head_size}: use fewer heads"
            )
        if self.encoder_attention == "factorized" and (self.encoder_layers < 2 or self.encoder_layers % 2):
            raise ValueError(
                "`encoder_attention` 'factorized' needs `encoder_layers` in pairs, one for space and one for time, "
                f"got {self.encoder_layers}: set 2, 4, 6 ..."
            )
        if self.temporal_pyramid < 0 or 2**self.temporal_pyramid > self.num_frames:
            raise ValueError(
                f"`temporal_pyramid` {self.temporal_pyramid} must be 0 or more, and its last level's "
                f"2^{self.temporal_pyramid} frames at most `num_frames` ({self.num_frames}): use fewer levels"
            )

    def _check_losses(self) -> None:
        if not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"{', '.join(f'`{name}`' for name in WEIGHTS)} are all 0: nothing would be trained")
        if self.contrastive_weight and not self.text_layers:
            raise ValueError(
                "the contrastive loss needs at least one of `text_layers`, got 0: captions would all be alike"
            )
        if self.reversed_negatives and not self.contrastive_weight:
            raise ValueError("`reversed_negatives` are part of the contrastive loss: set `contrastive_weight` above 0")
        if self.fusion == "joint" and not self.text_layers:
            raise ValueError("`fusion` 'joint' needs at least one of `text_layers`, got 0: set it to 1 or more")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds the config; in the installed package, without the keys that lead to code inside a model's folder.

        `pipeline()` prefers the folder's pipeline, which it may not run unasked, to the one that is registered.

        Raises:
            ValueError: If a newer version of vidcap wrote it.
        """
        config_dict = dict(config_dict)
        written = config_dict.pop("vidcap_version", VERSION)  # what is saved again is of this version
        if Version(written).release[:2] > Version(VERSION).release[:2]:
            raise ValueError(f"a model of vidcap {written}, and this is {VERSION}: update vidcap to load it")
        if not cls.__module__.startswith("transformers_modules."):
            config_dict = {key: config_dict[key] for key in config_dict if key not in ("auto_map", "custom_pipelines")}
        return super().from_dict(config_dict, **kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "VideoCaptionConfig":
        """The config itself, which holds both sides. That of transformers would copy it several times a `generate`."""
        return self


__all__ = ["VideoCaptionConfig"]
