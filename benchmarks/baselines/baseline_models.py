"""Baselines from transformers that read the cached features of the frozen backbone, as our captioner does.

`vision_encoder_decoder` is a [`VisionEncoderDecoderModel`] with GPT-2 as its decoder, `git` a [`GitForCausalLM`] (GIT,
https://arxiv.org/abs/2205.14100), `blind` GPT-2 alone, which sees no video. In the first two, a projection of the
features with one position per frame replaces the image encoder. All train with their own losses and write captions
with the `generate` of transformers.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    GenerationConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

from modeling_vidcap import VideoCaptionConfig
from modeling_vidcap.blocks_vidcap import axis_angles, to_sines
from processing.clips.collator import IGNORED

KINDS = ("vision_encoder_decoder", "git", "blind")


@strict
class FeatureEncoderConfig(PreTrainedConfig):
    """Sizes of [`FeatureEncoder`].

    Each of `num_frames` frames has `cells` cells of `maps` backbone channels, `thumbnail` pixel values and `colors`
    histogram shares.
    """

    model_type = "vidcap_features"
    hidden_size: int = 256
    num_frames: int = 16
    cells: int = 9
    maps: int = 1
    thumbnail: int = 0
    colors: int = 0
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


class FeatureEncoder(PreTrainedModel):
    """Features `(B, num_frames, cells, size)` -> one token per frame `(B, num_frames, hidden_size)`.

    The parts of the features are brought to one scale as in our encoder: backbone maps by a norm, colour histograms by
    their cube root and a norm. Positions are learned and start as sines of the tokens' magnitude, since small random
    ones, usual in image encoders, would hardly encode the order of the frames.
    """

    config: FeatureEncoderConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # contains no attention

    def __init__(self, config: FeatureEncoderConfig):
        super().__init__(config)
        self.sizes = (config.maps, config.thumbnail, config.colors)
        self.projection = nn.Linear(config.cells * sum(self.sizes), config.hidden_size)
        self.positions = nn.Embedding(config.num_frames, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.positions:
            frames = torch.arange(self.config.num_frames)
            angles = axis_angles(
                frames, self.config.hidden_size // 2, min_period=2, max_period=4 * self.config.num_frames
            )
            init.copy_(module.weight, to_sines(angles, module.weight.dtype))

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Encodes features; `pixel_values` is the name of this input in transformers."""
        maps, thumbnails, colors = pixel_values.to(self.projection.weight.dtype).split(self.sizes, dim=-1)
        parts = [nn.functional.layer_norm(maps, maps.shape[-1:]), thumbnails]
        if self.config.colors:
            parts.append(nn.functional.layer_norm(colors ** (1 / 3), colors.shape[-1:]))
        tokens = self.norm(self.projection(torch.cat(parts, dim=-1).flatten(2))) + self.positions.weight  # (B, T, D)
        return BaseModelOutput(last_hidden_state=self.dropout(tokens))


# VisionEncoderDecoderConfig looks up the encoder's configuration by name.
AutoConfig.register(FeatureEncoderConfig.model_type, FeatureEncoderConfig)


@strict
class BaselineConfig(PreTrainedConfig):
    """Kind and sizes of a baseline; `features` are the values of a [`FeatureEncoderConfig`]."""

    model_type = "vidcap_baseline"
    kind: str = "vision_encoder_decoder"
    features: dict[str, Any] | None = None
    vocab_size: int = 1000
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_attention_heads: int = 4
    num_hidden_layers: int = 3
    max_position_embeddings: int = 64
    pad_token_id: Any = 0
    bos_token_id: Any = 1
    eos_token_id: Any = 2
    unk_token_id: Any = 3
    initializer_range: float = 0.02


class BaselineCaptioner(PreTrainedModel):
    """A captioner of transformers, in `net`, with the inputs of our captioner.

    Frames of shorter clips are repeated to fill all positions, since these models have no mask for video.
    """

    config: BaselineConfig
    main_input_name = "video_features"
    accepts_loss_kwargs = False  # these losses are means over the words of a batch

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        if config.kind not in KINDS:
            raise ValueError(f"unknown kind={config.kind!r}: choose from {', '.join(KINDS)}")
        make: Any = {"vision_encoder_decoder": _encoder_decoder, "git": _git, "blind": _gpt2}[config.kind]
        self.net = make(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing, since `net` initialises itself."""

    def forward(
        self,
        video_features: torch.Tensor,
        video_mask: torch.Tensor,
        labels: torch.Tensor,
        video_times: torch.Tensor | None = None,
    ) -> ModelOutput:
        """The loss of captions.

        Args:
            video_features: `(B, T, N, D)`, the backbone's output.
            video_mask: `(B, T)`, 0 for padding of short clips.
            labels: `(B, L)`, the caption's tokens and EOS, padded with -100.
            video_times: `(B, T)`; unused, since these models count frames.
        """
        whole = torch.cat([labels.new_full((len(labels), 1), self.config.bos_token_id), labels], dim=1)
        real = whole != IGNORED
        if self.config.kind == "vision_encoder_decoder":
            frames = self._frames(video_features, video_mask)
            return self.net(pixel_values=frames, labels=labels, decoder_attention_mask=real[:, :-1].long())
        inputs = {  # these two shift labels themselves
            "input_ids": whole.masked_fill(~real, self.config.pad_token_id),
            "attention_mask": real.long(),
            "labels": whole,
        }
        if self.config.kind == "git":
            inputs["pixel_values"] = self._frames(video_features, video_mask)
        return self.net(**inputs)

    @torch.no_grad()
    def generate(
        self,
        video_features: torch.Tensor,
        video_mask: torch.Tensor,
        video_times: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Writes captions `(B, L)` that begin with BOS; `labels`, which a Trainer passes, are ignored."""
        if self.config.kind == "vision_encoder_decoder":
            inputs = {"pixel_values": self._frames(video_features, video_mask)}
        else:
            start = torch.full((len(video_mask), 1), self.config.bos_token_id, device=video_mask.device)
            inputs = {"input_ids": start, "attention_mask": torch.ones_like(start)}
            if self.config.kind == "git":
                inputs["pixel_values"] = self._frames(video_features, video_mask)
        self.net.generation_config = self.generation_config
        return self.net.generate(**inputs, **kwargs)

    def _frames(self, video_features: torch.Tensor, video_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T, N, D)` -> `(B, num_frames, N, D)`: a clip's real frames, which come first, evenly spaced."""
        features: Any = self.config.features
        count = features["num_frames"]
        lengths = video_mask.sum(dim=1, keepdim=True)  # (B, 1)
        index = torch.arange(count, device=video_mask.device) * lengths // count  # (B, num_frames)
        return video_features.gather(1, index[..., None, None].expand(-1, -1, *video_features.shape[2:]))


def make_baseline(kind: str, config: VideoCaptionConfig, *, parameters: int, num_beams: int = 1) -> BaselineCaptioner:
    """Creates a baseline with random weights, and with the features and words of one of our captioners.

    Width, heads and inner width are the captioner's; the number of layers brings the trained parameters closest to
    `parameters`.

    Args:
        kind: One of [`KINDS`].
        config: Configuration of the captioner.
        parameters: Target number of trained parameters.
        num_beams: Beams of `generate`.
    """
    features = {
        "hidden_size": config.hidden_size,
        "num_frames": config.num_frames,
        "cells": config.feature_grid**2,
        "maps": config.feature_size,
        "thumbnail": config.thumbnail_features,
        "colors": config.color_bins**3,
    }
    ids = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings")
    values = {name: getattr(config, name) for name in (*ids, *sizes)}

    def make(layers: int) -> BaselineCaptioner:
        return BaselineCaptioner(BaselineConfig(kind=kind, features=features, num_hidden_layers=layers, **values))

    with torch.device("meta"):
        one, two = (make(layers).num_parameters() for layers in (1, 2))
    model = make(max(1, 1 + round((parameters - one) / (two - one))))
    model.generation_config = GenerationConfig(
        max_new_tokens=config.max_position_embeddings,
        num_beams=num_beams,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.bos_token_id,
        suppress_tokens=[config.unk_token_id, config.bos_token_id],  # as in our captioner
    )
    return model


def _encoder(config: BaselineConfig) -> FeatureEncoder:
    return FeatureEncoder(FeatureEncoderConfig(**(config.features or {})))


def _gpt2_config(config: BaselineConfig, **options: Any) -> GPT2Config:
    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings + 1,  # for BOS
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=config.intermediate_size,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        **options,
    )


def _gpt2(config: BaselineConfig) -> GPT2LMHeadModel:
    net = GPT2LMHeadModel(_gpt2_config(config))
    net.loss_type = "ForCausalLM"  # the default, set to avoid a warning
    return net


def _encoder_decoder(config: BaselineConfig) -> VisionEncoderDecoderModel:
    encoder = _encoder(config)
    decoder = GPT2LMHeadModel(_gpt2_config(config, add_cross_attention=True, is_decoder=True))
    both = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config,
        decoder.config,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.bos_token_id,
    )
    return VisionEncoderDecoderModel(config=both, encoder=encoder, decoder=decoder)


def _git(config: BaselineConfig) -> GitForCausalLM:
    encoder = _encoder(config)
    vision = {"hidden_size": config.hidden_size, "num_hidden_layers": 0, "num_attention_heads": 1, "image_size": 16}
    net = GitForCausalLM(
        GitConfig(
            vision_config=vision,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings + 1,
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
        )
    )
    body: Any = net.git
    body.image_encoder = encoder
    for layer in body.encoder.layer:  # the default is a number of image patches
        layer.attention.self.image_patch_tokens = encoder.config.num_frames
    return net
