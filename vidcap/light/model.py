"""The captioner in plain torch: [`VideoCaptionForConditionalGeneration`] under the same names."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from modeling_vidcap.blocks_vidcap import time_rotation
from modeling_vidcap.decoding_vidcap import CaptionDecoding, write_greedily
from modeling_vidcap.encoding_vidcap import ClipEncoding, padding_mask
from modeling_vidcap.scoring_vidcap import CaptionScoring, add_remembered, rank_captions, score_tokens

from .beams import search_beams
from .settings import EncodedClips, SearchSettings

if TYPE_CHECKING:
    from modeling_vidcap.configuration_vidcap import VideoCaptionConfig


class LightEncoder(ClipEncoding):
    """[`VideoCaptionEncoder`]."""

    def __init__(self, config: "VideoCaptionConfig", network: nn.Module | None):
        super().__init__()
        self.config = config
        self.add_layers(config, network)

    def forward(
        self, video_features: torch.Tensor, video_mask: torch.Tensor, video_times: torch.Tensor
    ) -> EncodedClips:
        return EncodedClips(*self.encode(video_features, video_mask, video_times))


class LightDecoder(CaptionDecoding):
    """[`VideoCaptionDecoder`] for whole captions; `GreedyWriter` reads them word by word."""

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        self.config = config
        self.add_layers(config)

    def forward(self, input_ids: torch.Tensor, clips: EncodedClips) -> torch.Tensor:
        """Caption `(B, L)` with their clips -> `(B, L, D)`."""
        hidden_states = self.embed(input_ids)
        positions = torch.arange(input_ids.shape[1]).expand(len(input_ids), -1)
        rotation = self.text_rotation(positions, hidden_states.dtype)
        mask = self._causal_mask(hidden_states, None)
        for layer in self.text_layers:
            hidden_states = layer(hidden_states, mask, rotation)
        video = clips.last_hidden_state
        video_mask = padding_mask(clips.attention_mask)
        video_rotation = time_rotation(self.config, clips.token_times, video.dtype)
        for layer in self.multimodal_layers:
            hidden_states = layer(hidden_states, mask, rotation, video, video_mask, video_rotation)
        return self.norm(hidden_states)


class LightCaptioner(CaptionScoring):
    """The captioner, with the interface of [`VideoCaptionForConditionalGeneration`].

    Args:
        config: Its config.
        settings: Its generation config.
        network: The backbone's network; `None` for the one that the config names.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, config: "VideoCaptionConfig", settings: SearchSettings, network: nn.Module | None):
        super().__init__()
        self.config = config
        self.generation_config = settings
        self.model = nn.Module()
        self.model.encoder = LightEncoder(config, network)
        self.model.decoder = LightDecoder(config)
        self.add_heads(config)

    def get_encoder(self) -> nn.Module:
        return self.model.encoder

    @torch.inference_mode()
    def generate(self, encoder_outputs: EncodedClips, **changes) -> torch.Tensor:
        """Caption `(B * num_return_sequences, 1 + L)` of B clips, best first.

        Args:
            encoder_outputs: The encoded clips.
            changes: Fields of [`SearchSettings`] that replace the model's own.
        """
        settings = replace(self.generation_config, **changes)
        ranking = settings.ranking
        if settings.num_beams == 1:
            sequences = self._write_greedily(encoder_outputs, settings)
            if not ranking.memory_weight:
                return sequences
        else:
            beams = search_beams(self, encoder_outputs, settings)
            count = settings.num_return_sequences
            if not (ranking.memory_weight or ranking.similarity_weight):
                return beams.sequences[:, :count, : 1 + int(beams.lengths[:, :count].max())].flatten(0, 1)
            sequences = beams.sequences[:, :, : 1 + int(beams.lengths.max())].flatten(0, 1)
        if ranking.memory_weight:
            sequences = add_remembered(
                self, sequences, encoder_outputs, max_length=settings.max_new_tokens, banned=settings.banned
            )
        scored = self.get_token_log_probabilities(sequences, encoder_outputs)
        rows, longest = rank_captions(self, sequences, *scored, encoder_outputs, ranking).best(
            settings.num_return_sequences
        )
        return sequences[rows, : 1 + longest]

    def _write_greedily(self, clips: EncodedClips, settings: SearchSettings) -> torch.Tensor:
        start = torch.full((len(clips.last_hidden_state), 1), settings.decoder_start_token_id)
        limit, padding = settings.max_length, settings.pad_token_id
        return write_greedily(self, start, clips, [settings.suppress], settings.ended, limit, padding)

    def get_token_log_probabilities(
        self, sequences: torch.Tensor, encoder_outputs: EncodedClips
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(token | clip, previous tokens) of K captions per clip `(B * K, 1 + L)`, see [`score_tokens`]."""
        clips = encoder_outputs.repeat(len(sequences) // len(encoder_outputs.last_hidden_state))
        logits = self.lm_logits(self.model.decoder(sequences[:, :-1], clips))
        return score_tokens(logits, sequences[:, 1:], self.config.eos_token_id)
