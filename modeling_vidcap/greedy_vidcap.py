"""Greedy captions one word after the other, with little to do beside the decoder's own arithmetic.

For a model of a few million parameters, what surrounds a step in `generate` (inputs, masks, caches, outputs, each
made anew) takes longer than the step. Here the clip's keys and values, the rotations of all positions and the space
for what is cached are made once, and a step is a row of matrix products.

Promises: the words that `generate` writes, from the same scores. Gives up: sampling, beams, training, joint fusion and
whatever asks for more than the tokens; `generate` does these as ever.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks_vidcap import DecoderLayer, rotate, time_rotation

if TYPE_CHECKING:
    from .encoding_vidcap import ClipTokens


class LayerStep:
    """A decoder layer for one word `(B, 1, D)`; what it has seen is kept by the caller."""

    def __init__(self, layer: DecoderLayer):
        self.layer = layer
        own = layer.self_attn
        parts = (own.q_proj, own.k_proj, own.v_proj)
        self.weight = torch.cat([each.weight for each in parts])  # three products in one
        self.bias = torch.cat([each.bias for each in parts])

    def project(self, hidden_states: torch.Tensor, rotation: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The word's query, key and value, each `(B, heads, 1, head_dim)`."""
        projected = F.linear(self.layer.self_attn_norm(hidden_states), self.weight, self.bias)
        query, key, value = (self.layer.self_attn.heads(each) for each in projected.chunk(3, dim=-1))
        return rotate(query, rotation), rotate(key, rotation), value

    def attend(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        seen: tuple[torch.Tensor, torch.Tensor],
        video: tuple[torch.Tensor, torch.Tensor] | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The layer's output: its attention to the keys and values of all words, then to those of the video."""
        layer, own = self.layer, self.layer.self_attn
        attended = F.scaled_dot_product_attention(query, *seen, scale=own.scaling)
        hidden_states = hidden_states + own.out_proj(attended.transpose(1, 2).flatten(2))
        if video is not None:
            cross = layer.cross_attn
            query = cross.heads(cross.q_proj(layer.cross_attn_norm(hidden_states)))
            attended = F.scaled_dot_product_attention(query, *video, attn_mask=mask, scale=cross.scaling)
            hidden_states = hidden_states + cross.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden_states + layer.mlp(layer.mlp_norm(hidden_states))


class GreedyWriter:
    """The decoder of `fusion` `cross_attention`, for words that come one at a time.

    Args:
        decoder: [`VideoCaptionDecoder`], in evaluation mode.
        encoder_outputs: Of B clips.
        max_length: Most tokens of a caption, the start token included.
    """

    def __init__(self, decoder: Any, encoder_outputs: "ClipTokens", max_length: int):
        self.decoder = decoder
        video = encoder_outputs.last_hidden_state.to(decoder.embed_tokens.weight.dtype)  # (B, S, D)
        masked = encoder_outputs.attention_mask == 0
        # Where nothing is masked, attention is faster without a mask.
        self.mask = attention_bias(masked, video.dtype) if bool(masked.any()) else None
        positions = torch.arange(max_length, device=video.device)[None]
        self.cos, self.sin = decoder.text_rotation(positions, video.dtype)  # (1, 1, max_length, head_dim)
        self.layers = [LayerStep(each) for each in (*decoder.text_layers, *decoder.multimodal_layers)]
        self.video = video_states(decoder, video, encoder_outputs.token_times)
        attention = self.layers[0].layer.self_attn
        heads = attention.q_proj.out_features // attention.head_dim
        shape = (2, len(video), heads, max_length, attention.head_dim)
        self.seen = [video.new_zeros(shape) for _ in self.layers]  # keys and values of the words
        self.length = 0

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's output `(B, 1, D)` behind the next word `(B, 1)`."""
        at = slice(self.length, self.length + 1)
        rotation = (self.cos[:, :, at], self.sin[:, :, at])
        hidden_states = self.decoder.embed(ids)
        for layer, seen, video in zip(self.layers, self.seen, self.video, strict=True):
            query, seen[0, :, :, at], seen[1, :, :, at] = layer.project(hidden_states, rotation)
            words = (seen[0, :, :, : self.length + 1], seen[1, :, :, : self.length + 1])
            hidden_states = layer.attend(hidden_states, query, words, video, self.mask)
        self.length += 1
        return self.decoder.norm(hidden_states)

    def reorder(self, rows: torch.Tensor) -> None:
        """Goes on from the captions of these rows `(B,)`, in which one may come several times."""
        at = slice(0, self.length)
        for seen in self.seen:
            seen[:, :, :, at] = seen[:, rows, :, at]


def video_states(
    decoder: Any, video: torch.Tensor, token_times: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Of each layer the keys and values `(B, heads, S, head_dim)` of the video's tokens `(B, S, D)`; `None` for those
    that read text alone."""
    rotation = time_rotation(decoder.config, token_times, video.dtype)
    states: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    for layer in (*decoder.text_layers, *decoder.multimodal_layers):
        if not layer.cross_attention:
            states.append(None)
            continue
        cross = layer.cross_attn
        states.append((rotate(cross.heads(cross.k_proj(video)), rotation), cross.heads(cross.v_proj(video))))
    return states


def attention_bias(masked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores, `(B, 1, 1, S)`, so that the tokens `masked` `(B, S)` are not seen."""
    bias = torch.zeros_like(masked, dtype=dtype).masked_fill(masked, torch.finfo(dtype).min)
    return bias[:, None, None]


@torch.no_grad()
def write_greedily(
    model: Any,
    input_ids: torch.Tensor,
    encoder_outputs: "ClipTokens",
    logits_processor: Iterable[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
    ended: Callable[[torch.Tensor], torch.Tensor],
    max_length: int,
    pad_token_id: int,
) -> torch.Tensor:
    """Writes captions, each word the likeliest one.

    Args:
        model: The captioner.
        input_ids: `(B, L)`, begun captions.
        encoder_outputs: Of the B clips.
        logits_processor: What is done in turn to the scores `(B, V)` of the next word behind captions `(B, L)`.
        ended: Tells which of captions `(B, L)` go no further, `(B,)` of bool.
        max_length: Most tokens of a caption, the start token included.
        pad_token_id: Stands behind a caption's end.

    Returns:
        `(B, L')`.
    """
    writer = GreedyWriter(model.model.decoder, encoder_outputs, max_length)
    for ids in input_ids.split(1, dim=1):
        hidden_states = writer.read(ids)
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while True:
        logits = model.lm_logits(hidden_states)[:, -1].float()
        for process in logits_processor:  # the list's own call reads the signature of each, at every word
            logits = process(input_ids, logits)
        words = logits.argmax(dim=-1)
        words = torch.where(unfinished, words, pad_token_id)
        input_ids = torch.cat([input_ids, words[:, None]], dim=1)
        unfinished = unfinished & ~ended(input_ids)
        if not bool(unfinished.any()):
            return input_ids
        hidden_states = writer.read(words[:, None])


def is_plain(decoder: Any) -> bool:
    """Whether a decoder computes what its weights say, and nothing beside it: no adapter (LoRA), quantised layer or
    hook, which a [`LayerStep`] would pass by."""
    from transformers.utils.output_capturing import capture_outputs

    layers = (*decoder.text_layers, *decoder.multimodal_layers)
    projections = [getattr(layer.self_attn, name) for layer in layers for name in ("q_proj", "k_proj", "v_proj")]
    # Hooks of transformers record outputs, and change nothing.
    added = [
        each
        for module in decoder.modules()
        for each in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if getattr(each, "__module__", None) != capture_outputs.__module__
    ]
    replaced = any("forward" in vars(module) for module in decoder.modules())  # as accelerate hooks into a module
    return not (added or replaced) and all(type(each) is nn.Linear for each in projections)


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
        or not is_plain(model.model.decoder)
    )
