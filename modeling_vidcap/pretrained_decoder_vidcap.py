"""A pretrained language model as the decoder of a captioner.

With `fusion` `cross_attention` its layers see the clip through added cross-attention, as GPT-2 does in transformers'
encoder-decoder models. With `joint` the clip's projected tokens precede the caption like words (as in LLaVA,
https://arxiv.org/abs/2304.08485), which any causal model takes.

Guarantees: the interface of [`VideoCaptionDecoder`]. Limitations: no words ahead (the masked-word loss), and no text
layers: a caption's summary for the contrastive loss passes through all layers, without the clip.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from .blocks_vidcap import FreezableModule, positions_behind, time_angles, to_sines
from .configuration_vidcap import CACHE, VideoCaptionConfig
from .decoder_vidcap import VideoDecoderOutput
from .encoder_vidcap import VideoCaptionPreTrainedModel, VideoEncoderOutput, check_recording

CROSS_ATTENTION = ("crossattention", "ln_cross_attn")  # in the names of weights that are added to a pretrained model


class PretrainedDecoder(FreezableModule, VideoCaptionPreTrainedModel):
    """The language model of `decoder_config`, without its head."""

    main_input_name = "input_ids"

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.net = AutoModel.from_config(config.decoder_config, trust_remote_code=False)
        self.video_projection = nn.Linear(config.hidden_size, config.decoder_size)
        self.summary_embedding = nn.Parameter(torch.zeros(config.decoder_size))
        self.freeze()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.summary_embedding, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.net.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.net.set_input_embeddings(value)

    def freeze(self) -> None:
        """Stop the gradient of the parts that the config freezes; added cross-attention is always trained."""
        if self.config.freeze_decoder:
            for parameter in pretrained_parameters(self):
                parameter.requires_grad_(False)
        if self.config.freeze_embeddings:
            self.net.get_input_embeddings().requires_grad_(False)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The summary token `(B, D)` of captions `(B, L)`, right after their last real token, without a clip."""
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.pad_token_id).long()
        batch = len(input_ids)
        outputs = self.net(
            inputs_embeds=torch.cat([self._embed(input_ids), self.summary_embedding.expand(batch, 1, -1)], dim=1),
            attention_mask=torch.cat([attention_mask, attention_mask.new_ones(batch, 1)], dim=1),
            position_ids=positions_behind(attention_mask),
            use_cache=False,
        )
        return outputs.last_hidden_state[:, -1]

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_outputs: VideoEncoderOutput,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoDecoderOutput:
        """Read captions `(B, L)` with their clips."""
        check_recording(self.net.config, output_attentions)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.net.config), DynamicCache(config=self.net.config))
        past = 0 if cache is None else cache.get_seq_length()
        words, length = self._embed(input_ids), input_ids.shape[1]
        video_mask = encoder_outputs.attention_mask  # (B, S)
        options: dict[str, Any] = {"use_cache": bool(use_cache), "return_dict": True}
        options |= {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if self.config.fusion == "cross_attention":
            options |= {"inputs_embeds": words, "attention_mask": attention_mask, CACHE: cache}
            options |= {"encoder_hidden_states": self._video(encoder_outputs), "encoder_attention_mask": video_mask}
        else:
            past_words = max(0, past - video_mask.shape[1])  # the cache also holds the clip's tokens
            if attention_mask is None:
                attention_mask = video_mask.new_ones(len(words), past_words + length)
            mask = torch.cat([video_mask, attention_mask], dim=1)
            inputs = words if past else torch.cat([self._video(encoder_outputs), words], dim=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
            joint_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            options |= {"inputs_embeds": inputs, "attention_mask": mask}
            options |= {"position_ids": positions, CACHE: joint_cache}
        outputs = self.net(**options)
        return VideoDecoderOutput(
            last_hidden_state=outputs.last_hidden_state[:, -length:],
            cache=cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.get("cross_attentions"),
        )

    def _embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.net.get_input_embeddings()(input_ids)

    def _video(self, encoder_outputs: VideoEncoderOutput) -> torch.Tensor:
        """The clip's tokens `(B, S, D)` for the language model, with sines of their times, which it cannot see."""
        tokens = encoder_outputs.last_hidden_state.to(self.video_projection.weight.dtype)
        angles = time_angles(self.config, encoder_outputs.token_times, self.config.hidden_size // 2)
        return self.video_projection(tokens + to_sines(angles, tokens.dtype))


def pretrained_parameters(decoder: nn.Module) -> list[nn.Parameter]:
    """The pretrained parameters of a decoder: none for ours, all but added cross-attention otherwise."""
    if not isinstance(decoder, PretrainedDecoder):
        return []
    named = decoder.net.named_parameters()
    return [parameter for name, parameter in named if not any(part in name for part in CROSS_ATTENTION)]
