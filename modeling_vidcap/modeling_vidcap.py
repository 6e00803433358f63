"""Clip -> caption: frame features, a space-time encoder, and a CoCa-style decoder whose first layers read text only.

What it promises: padding and masked frames change nothing; the KV cache changes nothing; a frozen backbone's features
may be given in place of pixels. What it gives up: one clip, one sentence; events of long videos are found elsewhere.
"""

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .backbones_vidcap import VideoBackbone
from .configuration_vidcap import VideoCaptionConfig
from .layers_vidcap import (
    Rotation,
    VideoCaptionDecoderLayer,
    VideoCaptionEncoderLayer,
    VideoCaptionMotion,
    VideoCaptionPooler,
    rotary_rotation,
)
from .losses_vidcap import caption_loss, contrastive_loss
from .outputs_vidcap import VideoCaptionModelOutput, VideoCaptionOutput, VideoEncoderOutput

MAX_TEXT_PERIOD = 10_000 * 2 * torch.pi  # tokens; the longest rotary period of RoFormer


class VideoCaptionPreTrainedModel(PreTrainedModel):
    config: VideoCaptionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoCaptionEncoderLayer", "VideoCaptionDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VideoCaptionPooler):
            init.normal_(module.query, std=self.config.initializer_range)
        elif isinstance(module, VideoCaptionDecoder):
            init.normal_(module.summary_embedding, std=self.config.initializer_range)
        elif isinstance(module, VideoCaptionForConditionalGeneration):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class VideoCaptionEncoder(VideoCaptionPreTrainedModel):
    """Backbone, projection and self-attention over the tokens of all frames, with rotary positions in seconds."""

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        cells = config.feature_grid**2
        self.backbone = VideoBackbone(config)
        self.feature_norm = nn.LayerNorm(config.feature_size, eps=config.layer_norm_eps)
        size = config.feature_size + config.thumbnail_features
        if config.spatial_tokens:
            self.projection = nn.Linear(size, config.hidden_size)
            self.cell_embeddings = nn.Embedding(cells, config.hidden_size)
        else:
            self.projection = nn.Linear(size * cells, config.hidden_size)
        self.motion = VideoCaptionMotion(config) if config.motion else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(VideoCaptionEncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        **kwargs,
    ) -> VideoEncoderOutput:
        """Encodes clips given as pixels `(B, T, C, H, W)` or as backbone features `(B, T, N, D)`.

        Features win where both are given, since `generate` fills an absent main input with dummy ids.
        """
        if video_features is None:
            if pixel_values_videos is None or pixel_values_videos.ndim != 5:
                shape = None if pixel_values_videos is None else tuple(pixel_values_videos.shape)
                raise ValueError(
                    f"`pixel_values_videos` must be (batch, frames, channels, height, width), got {shape}; "
                    "make it with the processor, or pass `video_features`"
                )
            video_features = self.backbone(pixel_values_videos)
        batch, frames, cells, size = video_features.shape
        expected = (self.config.feature_grid**2, self.config.feature_size + self.config.thumbnail_features)
        if (cells, size) != expected:
            raise ValueError(
                f"`video_features` have {cells} cells of size {size} a frame; this model takes "
                f"{expected[0]} cells of size {expected[1]}: extract them with its own backbone"
            )
        if video_mask is None:
            video_mask = torch.ones(batch, frames, dtype=torch.long, device=video_features.device)
        if video_times is None:
            video_times = (
                torch.arange(frames, device=video_features.device).expand(batch, -1) * self.config.frame_interval
            )
        video_times = video_times.float()

        video_features = video_features.to(self.feature_norm.weight.dtype)
        split = size - self.config.thumbnail_features
        # Thumbnails keep their scale: normalised, white would equal black.
        tokens = torch.cat([self.feature_norm(video_features[..., :split]), video_features[..., split:]], dim=-1)
        if self.config.spatial_tokens:
            tokens = self.projection(tokens) + self.cell_embeddings.weight  # (B, T, N, D)
            video_mask = video_mask.repeat_interleave(cells, dim=1)
            video_times = video_times.repeat_interleave(cells, dim=1)
        else:
            tokens = self.projection(tokens.flatten(2)).unsqueeze(2)  # (B, T, 1, D)
        if self.motion is not None:
            tokens = self.motion(tokens)
        tokens = tokens.flatten(1, 2)  # (B, S, D)
        hidden_states = self.dropout(tokens)

        rotation = time_rotation(self.config, video_times, hidden_states.dtype)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=video_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, rotation)
        return VideoEncoderOutput(
            last_hidden_state=self.norm(hidden_states), attention_mask=video_mask, token_times=video_times
        )


class VideoCaptionDecoder(VideoCaptionPreTrainedModel):
    """Causal text layers, then causal layers with cross-attention to every token of the clip."""

    main_input_name = "input_ids"

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.summary_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        self.text_layers = nn.ModuleList(
            VideoCaptionDecoderLayer(config, index, sees_video=False) for index in range(config.text_layers)
        )
        self.multimodal_layers = nn.ModuleList(
            VideoCaptionDecoderLayer(config, config.text_layers + index, sees_video=True)
            for index in range(config.multimodal_layers)
        )
        self.text_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _text_rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        return rotary_rotation(positions, head_dim, min_period=2 * torch.pi, max_period=MAX_TEXT_PERIOD, dtype=dtype)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The summary token `(B, D)` of captions `(B, L)`, read by the text layers alone.

        It stands right after a caption's last real token, whatever the padding.
        """
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.pad_token_id).long()
        batch, length = input_ids.shape
        summary = self.summary_embedding.expand(batch, 1, -1)
        hidden_states = torch.cat([self.embed_tokens(input_ids), summary], dim=1)  # (B, L+1, D)
        hidden_states = self.dropout(hidden_states)
        positions = torch.arange(length, device=input_ids.device).expand(batch, -1)
        positions = torch.cat([positions, attention_mask.sum(dim=1, keepdim=True)], dim=1)
        rotation = self._text_rotation(positions, hidden_states.dtype)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=torch.cat([attention_mask, attention_mask.new_ones(batch, 1)], dim=1),
            past_key_values=None,
        )
        for layer in self.text_layers:
            hidden_states = layer(hidden_states, mask, rotation)
        return self.text_norm(hidden_states[:, -1])

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_outputs: VideoEncoderOutput,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        hidden_states = self.dropout(self.embed_tokens(input_ids))  # (B, L, D)
        positions = (torch.arange(input_ids.shape[1], device=input_ids.device) + past_length).expand(
            len(input_ids), -1
        )
        rotation = self._text_rotation(positions, hidden_states.dtype)

        self_cache = past_key_values.self_attention_cache if isinstance(past_key_values, EncoderDecoderCache) else None
        mask = create_causal_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask, past_key_values=self_cache
        )
        video = encoder_outputs.last_hidden_state.to(hidden_states.dtype)
        video_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=encoder_outputs.attention_mask,
            encoder_hidden_states=video,
        )
        video_rotation = time_rotation(self.config, encoder_outputs.token_times, hidden_states.dtype)
        for layer in [*self.text_layers, *self.multimodal_layers]:
            hidden_states = layer(
                hidden_states, mask, rotation, video, video_mask, video_rotation, past_key_values=past_key_values
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class VideoCaptionModel(VideoCaptionPreTrainedModel):
    """Encoder and decoder without the language-model head."""

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.encoder = VideoCaptionEncoder(config)
        self.decoder = VideoCaptionDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embed_tokens = value  # type: ignore[assignment]

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: VideoEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> VideoCaptionModelOutput:
        if decoder_input_ids is None:
            raise ValueError(
                "`decoder_input_ids` (or `labels` on the captioner) are needed; to write captions call `generate`"
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(pixel_values_videos, video_mask, video_times, video_features)
        outputs = self.decoder(
            drop_words(decoder_input_ids, self.config) if self.training else decoder_input_ids,
            encoder_outputs,
            attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return VideoCaptionModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            encoder_outputs=encoder_outputs,
        )


class VideoCaptionForConditionalGeneration(VideoCaptionPreTrainedModel, GenerationMixin):
    """The captioner: caption cross-entropy plus a contrastive loss between the clip and its caption.

    Example:

    ```python
    >>> import vidcap
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("my-captioner")
    >>> processor = AutoProcessor.from_pretrained("my-captioner")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    ['a red circle slides left and then grows']
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    # A Trainer that loads a checkpoint does not take the tied head for a missing weight.
    _keys_to_ignore_on_save = ["lm_head.weight"]
    # The Trainer then hands over `num_items_in_batch`, see `caption_loss`.
    accepts_loss_kwargs = True

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.model = VideoCaptionModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.video_pooler = VideoCaptionPooler(config)
        self.video_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.model.encoder

    def get_decoder(self) -> nn.Module:
        return self.model.decoder

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return shift_right(labels, self.config)

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """L2-normalised clip embeddings `(B, projection_dim)`, comparable with [`get_text_features`]."""
        encoded = self.model.encoder(pixel_values_videos, video_mask, video_times, video_features)
        return nn.functional.normalize(self._video_embeds(encoded), dim=-1)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """L2-normalised caption embeddings `(B, projection_dim)` of tokenised text that ends in EOS."""
        summary = self.model.decoder.encode_text(input_ids, attention_mask)
        return nn.functional.normalize(self.text_projection(summary), dim=-1)

    def _video_embeds(self, encoded: VideoEncoderOutput) -> torch.Tensor:
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=encoded.last_hidden_state[:, :1],
            attention_mask=encoded.attention_mask,
            encoder_hidden_states=encoded.last_hidden_state,
        )
        return self.video_projection(self.video_pooler(encoded.last_hidden_state, mask))

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: VideoEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> VideoCaptionOutput | tuple:
        """Scores captions; with `labels`, also computes the loss.

        Args:
            pixel_values_videos: `(B, T, C, H, W)`, from the processor.
            video_mask: `(B, T)`, 0 for frames that only fill up a short clip.
            video_times: `(B, T)`, seconds.
            video_features: `(B, T, N, D)`, the backbone's output, in place of pixels.
            decoder_input_ids: `(B, L)`; by default the labels, shifted right behind BOS.
            labels: `(B, L)`, the caption's tokens and EOS, padded with -100.
            num_items_in_batch: Labels in the whole optimiser step, see [`caption_loss`].
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None:
                decoder_input_ids = shift_right(labels, self.config)
        outputs = self.model(
            pixel_values_videos,
            video_mask,
            video_times,
            video_features,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            self.config.use_cache if use_cache is None else use_cache,
        )
        result = VideoCaptionOutput(
            logits=self.lm_head(outputs.last_hidden_state),
            past_key_values=outputs.past_key_values,
            encoder_outputs=outputs.encoder_outputs,
        )
        if labels is not None:
            self._add_losses(result, labels, num_items_in_batch)
        return result if return_dict is not False else result.to_tuple()

    def _add_losses(
        self, result: VideoCaptionOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> None:
        result.caption_loss = caption_loss(
            result.logits,
            labels,
            label_smoothing=self.config.label_smoothing if self.training else 0.0,
            num_items_in_batch=num_items_in_batch,
        )
        result.loss = result.caption_loss
        if self.config.contrastive_weight > 0:
            caption_ids = labels.masked_fill(labels == -100, self.config.pad_token_id)
            result.video_embeds = self._video_embeds(result.encoder_outputs)
            result.text_embeds = self.text_projection(self.model.decoder.encode_text(caption_ids))
            result.contrastive_loss = contrastive_loss(
                result.video_embeds, result.text_embeds, self.logit_scale, caption_ids
            )
            # `num_items_in_batch` spans the whole optimiser step, the contrastive loss one micro-batch: its share of
            # the step is its share of the labels, so that accumulation does not multiply it.
            share = 1.0 if num_items_in_batch is None else (labels != -100).sum() / num_items_in_batch
            result.loss = result.loss + self.config.contrastive_weight * share * result.contrastive_loss


def shift_right(labels: torch.Tensor, config: VideoCaptionConfig) -> torch.Tensor:
    """Decoder inputs for `labels`: the start token, then each label but the last; -100 becomes padding."""
    start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, config.pad_token_id)], dim=1)


def drop_words(input_ids: torch.Tensor, config: VideoCaptionConfig) -> torch.Tensor:
    """Replaces a share `config.word_dropout` of the words by the unknown token; the start token and padding stay."""
    if config.word_dropout == 0:
        return input_ids
    drop = torch.rand(input_ids.shape, device=input_ids.device) < config.word_dropout
    drop &= (input_ids != config.decoder_start_token_id) & (input_ids != config.pad_token_id)
    return input_ids.masked_fill(drop, config.unk_token_id)


def time_rotation(config: VideoCaptionConfig, times: torch.Tensor, dtype: torch.dtype) -> Rotation:
    return rotary_rotation(
        times,
        config.hidden_size // config.num_attention_heads,
        min_period=config.min_time_period,
        max_period=config.max_time_period,
        dtype=dtype,
    )


__all__ = ["VideoCaptionForConditionalGeneration", "VideoCaptionModel", "VideoCaptionPreTrainedModel"]
