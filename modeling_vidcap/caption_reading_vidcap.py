"""What the decoder of captions is made of, and how its text layers read one, in torch alone."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .blocks_vidcap import DecoderLayer, Freezes, Rotation, positions_behind, rotary_rotation, stochastic_depth_rates

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

MAX_TEXT_PERIOD = 10_000 * 2 * torch.pi  # tokens; the longest rotary period of RoFormer


class CaptionReading(Freezes, nn.Module):
    """The decoder's parts and arithmetic; [`VideoCaptionDecoder`] is one within transformers."""

    layer_class: type[DecoderLayer] = DecoderLayer
    config: Any  # `VideoCaptionConfig`; transformers has it as `PreTrainedConfig`

    def add_parts(self, config: "VideoCaptionConfig") -> None:
        """Makes all modules."""
        size = config.embedding_size or config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, size, config.pad_token_id)
        self.freeze()
        self.embedding_projection = None
        if size != config.hidden_size:
            self.embedding_projection = nn.Linear(size, config.hidden_size, bias=False)
        self.summary_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        rates = stochastic_depth_rates(config.stochastic_depth, config.num_hidden_layers)
        first_cross = config.text_layers if config.fusion == "cross_attention" else config.num_hidden_layers
        layers = [
            self.layer_class(config, index, cross_attention=index >= first_cross, drop_path=rate)
            for index, rate in enumerate(rates)
        ]
        self.text_layers = nn.ModuleList(layers[: config.text_layers])
        self.multimodal_layers = nn.ModuleList(layers[config.text_layers :])
        self.text_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def text_rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of words at `positions` `(B, L)`."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        return rotary_rotation(positions, head_dim, min_period=2 * torch.pi, max_period=MAX_TEXT_PERIOD, dtype=dtype)

    def freeze(self) -> None:
        """Takes the gradient from embeddings that are not to be trained."""
        if self.config.freeze_embeddings:
            self.embed_tokens.weight.requires_grad_(False)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`(B, L)` -> `(B, L, D)`."""
        embeds = self.embed_tokens(input_ids)
        return embeds if self.embedding_projection is None else self.embedding_projection(embeds)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The summary token `(B, D)` of captions `(B, L)`, read by the text layers alone.

        It stands right after a caption's last real token, whatever the padding.
        """
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.pad_token_id).long()
        batch = len(input_ids)
        summary = self.summary_embedding.expand(batch, 1, -1)
        hidden_states = torch.cat([self.embed(input_ids), summary], dim=1)  # (B, L+1, D)
        hidden_states = self.dropout(hidden_states)
        positions = positions_behind(attention_mask)
        rotation = self.text_rotation(positions, hidden_states.dtype)
        mask = self._causal_mask(hidden_states, torch.cat([attention_mask, attention_mask.new_ones(batch, 1)], dim=1))
        for layer in self.text_layers:
            hidden_states = layer(hidden_states, mask, rotation)
        return self.text_norm(hidden_states[:, -1])

    def _causal_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask `(B, 1, L, L)` by which each of `hidden_states` `(B, L, D)` sees those up to itself, of which
        `attention_mask` `(B, L)`, if any, says which are real."""
        length = hidden_states.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=hidden_states.device).tril()
        return seen if attention_mask is None else seen & attention_mask.bool()[:, None, None]
