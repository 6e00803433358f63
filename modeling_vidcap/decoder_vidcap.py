"""The text side: causal layers that read captions, and layers above them that look at the video."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .configuration_vidcap import VideoCaptionConfig
from .encoder_vidcap import VideoCaptionPreTrainedModel, time_rotation
from .layers_vidcap import Rotation, VideoCaptionDecoderLayer, rotary_rotation, stochastic_depth_rates
from .outputs_vidcap import VideoEncoderOutput

MAX_TEXT_PERIOD = 10_000 * 2 * torch.pi  # tokens; the longest rotary period of RoFormer


class VideoCaptionDecoder(VideoCaptionPreTrainedModel):
    """Causal text layers, then causal layers with cross-attention to every token of the clip."""

    main_input_name = "input_ids"

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.summary_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        rates = stochastic_depth_rates(config.stochastic_depth, config.num_hidden_layers)
        layers = [
            VideoCaptionDecoderLayer(config, index, sees_video=index >= config.text_layers, drop_path=rate)
            for index, rate in enumerate(rates)
        ]
        self.text_layers = nn.ModuleList(layers[: config.text_layers])
        self.multimodal_layers = nn.ModuleList(layers[config.text_layers :])
        self.text_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.summary_embedding, std=self.config.initializer_range)

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
