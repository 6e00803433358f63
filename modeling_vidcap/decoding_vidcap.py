"""The decoder of captions, and greedy search one word at a time, in plain torch.

For a model of a few million parameters, the work of `generate` around a step (inputs, masks, caches and outputs, all
made anew) takes longer than the step. [`GreedyWriter`] computes the clip's keys and values and the rotations of all
positions once, allocates its cache once, and makes each step a row of matrix products.

Guarantees: the words that `generate` writes, from the same scores. Limitations: no sampling, beams, training or joint
fusion, and no outputs but the tokens; `generate` does these by transformers' own loops.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks_vidcap import (
    DecoderLayer,
    FreezableModule,
    Rotation,
    positions_behind,
    rotary_rotation,
    rotate,
    stochastic_depth_rates,
    time_rotation,
)

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig
    from .encoding_vidcap import ClipTokens
    from .scoring_vidcap import CaptionScoring

KeysAndValues = tuple[torch.Tensor, torch.Tensor]  # each (B, heads, L, head_dim)

MAX_TEXT_PERIOD = 10_000 * 2 * torch.pi  # tokens; the longest rotary period of RoFormer


class CaptionDecoding(FreezableModule, nn.Module):
    """The decoder's layers and arithmetic; [`VideoCaptionDecoder`] is the version within transformers."""

    layer_class: type[DecoderLayer] = DecoderLayer
    config: Any  # `VideoCaptionConfig`; transformers declares it as `PreTrainedConfig`

    def add_layers(self, config: "VideoCaptionConfig") -> None:
        """Build the modules that the config names."""
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
        """Stop the gradient of the embeddings with `freeze_embeddings`."""
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
        """The mask `(B, 1, L, L)` by which each of `hidden_states` `(B, L, D)` sees the real ones up to itself.

        Args:
            attention_mask: `(B, L)`, 1 for real tokens; `None` if all are real.
        """
        length = hidden_states.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=hidden_states.device).tril()
        return causal if attention_mask is None else causal & attention_mask.bool()[:, None, None]


class LayerStep:
    """A decoder layer for one word `(B, 1, D)`; the caller keeps the cache."""

    def __init__(self, layer: DecoderLayer):
        self.layer = layer
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight = torch.cat([projection.weight for projection in projections])  # three products in one
        self.bias = torch.cat([projection.bias for projection in projections])

    def project(
        self, hidden_states: torch.Tensor, rotation: Rotation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The word's query, key and value, each `(B, heads, 1, head_dim)`."""
        projected = F.linear(self.layer.self_attn_norm(hidden_states), self.weight, self.bias)
        query, key, value = (self.layer.self_attn.heads(states) for states in projected.chunk(3, dim=-1))
        return rotate(query, rotation), rotate(key, rotation), value

    def attend(
        self,
        hidden_states: torch.Tensor,
        query: torch.Tensor,
        words: KeysAndValues,
        video: KeysAndValues | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The layer's output: attention to the keys and values of all words, then to those of the video."""
        layer, attention = self.layer, self.layer.self_attn
        attended = F.scaled_dot_product_attention(query, *words, scale=attention.scaling)
        hidden_states = hidden_states + attention.out_proj(attended.transpose(1, 2).flatten(2))
        if video is not None:
            cross = layer.cross_attn
            query = cross.heads(cross.q_proj(layer.cross_attn_norm(hidden_states)))
            attended = F.scaled_dot_product_attention(query, *video, attn_mask=mask, scale=cross.scaling)
            hidden_states = hidden_states + cross.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden_states + layer.mlp(layer.mlp_norm(hidden_states))


class GreedyWriter:
    """A decoder with `fusion` `cross_attention` that reads one word at a time.

    Args:
        decoder: In evaluation mode.
        encoder_outputs: The B encoded clips.
        max_length: Maximum number of tokens of a caption, the start token included.
    """

    def __init__(self, decoder: CaptionDecoding, encoder_outputs: "ClipTokens", max_length: int):
        self.decoder = decoder
        video = encoder_outputs.last_hidden_state.to(decoder.embed_tokens.weight.dtype)  # (B, S, D)
        masked = encoder_outputs.attention_mask == 0
        # Where nothing is masked, attention is faster without a mask.
        self.mask = attention_bias(masked, video.dtype) if bool(masked.any()) else None
        positions = torch.arange(max_length, device=video.device)[None]
        self.cos, self.sin = decoder.text_rotation(positions, video.dtype)  # (1, 1, max_length, head_dim)
        self.layers = [LayerStep(layer) for layer in decoder_layers(decoder)]
        self.video = video_states(decoder, video, encoder_outputs.token_times)
        attention = self.layers[0].layer.self_attn
        heads = attention.q_proj.out_features // attention.head_dim
        shape = (2, len(video), heads, max_length, attention.head_dim)
        self.words = [video.new_zeros(shape) for _ in self.layers]  # keys and values
        self.length = 0

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's output `(B, 1, D)` behind the next word `(B, 1)`."""
        at = slice(self.length, self.length + 1)
        rotation = (self.cos[:, :, at], self.sin[:, :, at])
        hidden_states = self.decoder.embed(ids)
        for layer, cache, video in zip(self.layers, self.words, self.video, strict=True):
            query, cache[0, :, :, at], cache[1, :, :, at] = layer.project(hidden_states, rotation)
            words = (cache[0, :, :, : self.length + 1], cache[1, :, :, : self.length + 1])
            hidden_states = layer.attend(hidden_states, query, words, video, self.mask)
        self.length += 1
        return self.decoder.norm(hidden_states)

    def reorder(self, rows: torch.Tensor) -> None:
        """Continue from the captions of these rows `(B,)`, which may repeat."""
        at = slice(0, self.length)
        for cache in self.words:
            cache[:, :, :, at] = cache[:, rows, :, at]


def decoder_layers(decoder: CaptionDecoding) -> list[DecoderLayer]:
    """All layers, the text layers first."""
    return [*decoder.text_layers, *decoder.multimodal_layers]


def video_states(
    decoder: CaptionDecoding, video: torch.Tensor, token_times: torch.Tensor
) -> list[KeysAndValues | None]:
    """Keys and values `(B, heads, S, head_dim)` of the video's tokens `(B, S, D)` per layer, if it sees them."""
    rotation = time_rotation(decoder.config, token_times, video.dtype)
    states: list[KeysAndValues | None] = []
    for layer in decoder_layers(decoder):
        if not layer.cross_attention:
            states.append(None)
            continue
        cross = layer.cross_attn
        states.append((rotate(cross.heads(cross.k_proj(video)), rotation), cross.heads(cross.v_proj(video))))
    return states


def attention_bias(masked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The bias `(B, 1, 1, S)` on attention scores that hides the tokens `masked` `(B, S)`."""
    bias = torch.zeros_like(masked, dtype=dtype).masked_fill(masked, torch.finfo(dtype).min)
    return bias[:, None, None]


@torch.no_grad()
def write_greedily(
    model: "CaptionScoring",
    input_ids: torch.Tensor,
    encoder_outputs: "ClipTokens",
    logits_processor: Iterable[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
    ended: Callable[[torch.Tensor], torch.Tensor],
    max_length: int,
    pad_token_id: int,
) -> torch.Tensor:
    """Write captions with the likeliest word at each step.

    Args:
        model: The captioner.
        input_ids: The beginnings of the captions, `(B, L)`.
        encoder_outputs: The B encoded clips.
        logits_processor: Functions of the captions `(B, L)` and the scores `(B, V)` of the next word, applied in turn.
        ended: Whether each of the captions `(B, L)` is complete, `(B,)` of bool.
        max_length: Maximum number of tokens of a caption, the start token included.
        pad_token_id: Follows the end of a caption.

    Returns:
        `(B, L')`.
    """
    writer = GreedyWriter(model.model.decoder, encoder_outputs, max_length)
    for ids in input_ids.split(1, dim=1):
        hidden_states = writer.read(ids)
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while True:
        logits = model.lm_logits(hidden_states)[:, -1].float()
        for process in logits_processor:  # calling the list itself inspects each signature, at every word
            logits = process(input_ids, logits)
        words = logits.argmax(dim=-1)
        words = torch.where(unfinished, words, pad_token_id)
        input_ids = torch.cat([input_ids, words[:, None]], dim=1)
        unfinished = unfinished & ~ended(input_ids)
        if not bool(unfinished.any()):
            return input_ids
        hidden_states = writer.read(words[:, None])


def is_unmodified(decoder: CaptionDecoding) -> bool:
    """Whether a decoder has no adapter (LoRA), quantised layer or hook, which a [`LayerStep`] would ignore."""
    from transformers.utils.output_capturing import capture_outputs

    projections = [
        getattr(layer.self_attn, name) for layer in decoder_layers(decoder) for name in ("q_proj", "k_proj", "v_proj")
    ]
    # Hooks of transformers record outputs, and change nothing.
    hooked = any(
        getattr(hook, "__module__", None) != capture_outputs.__module__
        for module in decoder.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    replaced = any("forward" in vars(module) for module in decoder.modules())  # as accelerate hooks into a module
    return not (hooked or replaced) and all(type(projection) is nn.Linear for projection in projections)
