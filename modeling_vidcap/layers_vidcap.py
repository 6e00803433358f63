"""The blocks of encoder and decoder within transformers: its caches, kinds of attention and gradient checkpoints."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .blocks_vidcap import Attention, DecoderLayer, EncoderLayer, Pooler
from .positions_vidcap import Rotation


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, for `attn_implementation="eager"` and `output_attentions=True`."""
    scores = query @ key.transpose(2, 3) * scaling  # (B, heads, L, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class VideoCaptionAttention(Attention):
    """Attention of the kind that the config names, with an optional cache."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        return attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)

    def cached_keys_and_values(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None,
        rotation: Rotation | None,
        cache: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(cache, EncoderDecoderCache):
            source = hidden_states if key_value_states is None else key_value_states
            return cache.update(*self.keys_and_values(source, rotation), self.layer_idx)
        if key_value_states is None:
            return cache.self_attention_cache.update(*self.keys_and_values(hidden_states, rotation), self.layer_idx)
        store: Any = cache.cross_attention_cache
        if cache.is_updated.get(self.layer_idx, False):
            # The video's keys and values do not change while a caption is written.
            return store.layers[self.layer_idx].keys, store.layers[self.layer_idx].values
        found = store.update(*self.keys_and_values(key_value_states, rotation), self.layer_idx)
        cache.is_updated[self.layer_idx] = True
        return found


class VideoCaptionEncoderLayer(GradientCheckpointingLayer, EncoderLayer):
    attention_class = VideoCaptionAttention


class VideoCaptionDecoderLayer(GradientCheckpointingLayer, DecoderLayer):
    attention_class = VideoCaptionAttention


class VideoCaptionPooler(Pooler):
    attention_class = VideoCaptionAttention
