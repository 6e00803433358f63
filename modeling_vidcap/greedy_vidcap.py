"""Greedy captions one word after the other, with little to do beside the decoder's own arithmetic.

For a model of a few million parameters, what surrounds a step in `generate` (inputs, masks, caches, outputs, each
made anew) takes longer than the step. Here the clip's keys and values, the rotations of all positions and the space
for what is cached are made once, and a step is a row of matrix products.

Promises: the words that `generate` writes, from the same scores. Gives up: sampling, beams, training, joint fusion and
whatever asks for more than the tokens; `generate` does these as ever.
"""

from typing import Any

import torch
import torch.nn.functional as F

from .encoder_vidcap import time_rotation
from .layers_vidcap import VideoCaptionAttention, VideoCaptionDecoderLayer, rotate
from .outputs_vidcap import VideoEncoderOutput


class GreedyWriter:
    """The decoder of `fusion` `cross_attention`, for words that come one at a time.

    Args:
        decoder: [`VideoCaptionDecoder`], in evaluation mode.
        encoder_outputs: Of B clips.
        max_length: Most tokens of a caption, the start token included.
    """

    def __init__(self, decoder: Any, encoder_outputs: VideoEncoderOutput, max_length: int):
        self.decoder = decoder
        config = decoder.config
        weight = decoder.embed_tokens.weight
        video = encoder_outputs.last_hidden_state.to(weight.dtype)  # (B, S, D)
        rotation = time_rotation(config, encoder_outputs.token_times, video.dtype)
        hidden = encoder_outputs.attention_mask == 0
        self.mask = None  # (B, 1, 1, S), added to scores
        if bool(hidden.any()):
            lowest = torch.finfo(video.dtype).min
            self.mask = torch.zeros_like(hidden, dtype=video.dtype).masked_fill(hidden, lowest)[:, None, None]
        positions = torch.arange(max_length, device=video.device)[None]
        self.cos, self.sin = decoder.text_rotation(positions, video.dtype)  # (1, 1, max_length, head_dim)
        self.layers = [
            _Layer(each, video, rotation, max_length) for each in (*decoder.text_layers, *decoder.multimodal_layers)
        ]
        self.length = 0

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's output `(B, 1, D)` behind the next word `(B, 1)`."""
        at = slice(self.length, self.length + 1)
        rotation = (self.cos[:, :, at], self.sin[:, :, at])
        hidden_states = self.decoder.embed(ids)
        for layer in self.layers:
            hidden_states = layer.read(hidden_states, rotation, self.length, self.mask)
        self.length += 1
        return self.decoder.norm(hidden_states)


class _Layer:
    """A decoder layer with what it has seen so far."""

    def __init__(self, layer: VideoCaptionDecoderLayer, video: torch.Tensor, rotation: Any, max_length: int):
        self.layer = layer
        own = layer.self_attn
        parts = (own.q_proj, own.k_proj, own.v_proj)
        self.weight = torch.cat([each.weight for each in parts])  # three products in one
        self.bias = torch.cat([each.bias for each in parts])
        heads = own.q_proj.out_features // own.head_dim
        self.seen = video.new_zeros(2, len(video), heads, max_length, own.head_dim)  # keys and values
        if layer.cross_attention:
            cross = layer.cross_attn
            self.video_keys = rotate(_heads(cross, cross.k_proj(video)), rotation)
            self.video_values = _heads(cross, cross.v_proj(video))

    def read(self, hidden_states: torch.Tensor, rotation: Any, position: int, mask: Any) -> torch.Tensor:
        layer, own = self.layer, self.layer.self_attn
        projected = F.linear(layer.self_attn_norm(hidden_states), self.weight, self.bias)
        query, key, value = (_heads(own, each) for each in projected.chunk(3, dim=-1))
        self.seen[0, :, :, position : position + 1] = rotate(key, rotation)
        self.seen[1, :, :, position : position + 1] = value
        keys, values = self.seen[:, :, :, : position + 1]
        attended = F.scaled_dot_product_attention(rotate(query, rotation), keys, values, scale=own.scaling)
        hidden_states = hidden_states + own.out_proj(attended.transpose(1, 2).flatten(2))
        if layer.cross_attention:
            cross = layer.cross_attn
            query = _heads(cross, cross.q_proj(layer.cross_attn_norm(hidden_states)))
            attended = F.scaled_dot_product_attention(
                query, self.video_keys, self.video_values, attn_mask=mask, scale=cross.scaling
            )
            hidden_states = hidden_states + cross.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden_states + layer.mlp(layer.mlp_norm(hidden_states))


def _heads(attention: VideoCaptionAttention, states: torch.Tensor) -> torch.Tensor:
    return states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # (B, heads, L, head_dim)


@torch.no_grad()
def write_greedily(
    model: Any,
    input_ids: torch.Tensor,
    encoder_outputs: VideoEncoderOutput,
    logits_processor: Any,
    stopping_criteria: Any,
    pad_token_id: int,
) -> torch.Tensor:
    """`(B, L)` of begun captions -> `(B, L')`, each word the likeliest by what `logits_processor` leaves of the
    scores; behind the end, padding."""
    writer = GreedyWriter(model.model.decoder, encoder_outputs, stopping_criteria.max_length)
    for ids in input_ids.split(1, dim=1):
        hidden_states = writer.read(ids)
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while True:
        logits = model.score_words(hidden_states)[:, -1].float()
        words = logits_processor(input_ids, logits).argmax(dim=-1)
        words = torch.where(unfinished, words, pad_token_id)
        input_ids = torch.cat([input_ids, words[:, None]], dim=1)
        unfinished = unfinished & ~stopping_criteria(input_ids, None)
        if not bool(unfinished.any()):
            return input_ids
        hidden_states = writer.read(words[:, None])


def can_write_greedily(model: Any, generation_config: Any, model_kwargs: dict[str, Any]) -> bool:
    """Whether a call of `generate` wants the likeliest word at each step, and nothing else but these."""
    cache = model_kwargs.get("cache")
    return not (
        model.training
        or model.config.fusion != "cross_attention"
        or model.config.decoder_config is not None
        or generation_config.do_sample
        or generation_config.return_dict_in_generate
        or generation_config.cache_implementation is not None
        or not model_kwargs.get("use_cache")
        or cache is None
        or cache.get_seq_length() > 0  # it goes on from what somebody else cached
        or model_kwargs.get("decoder_attention_mask") is not None
    )
