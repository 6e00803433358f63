"""Config, search settings and encoder output of the light captioner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch

from modeling_vidcap.scoring_vidcap import Ranking
from modeling_vidcap.settings_vidcap import DerivedSizes

if TYPE_CHECKING:
    from modeling_vidcap.configuration_vidcap import VideoCaptionConfig


class LightConfig(DerivedSizes, SimpleNamespace):
    """The fields of a config.json as attributes, with the derived sizes of [`VideoCaptionConfig`].

    Backbones here see each frame alone.
    """

    encodes_clips = False
    frame_stride = 1
    min_frames = 1

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "VideoCaptionConfig":
        """Build the config from the content of a config.json; to its readers it is a [`VideoCaptionConfig`]."""
        backbone = fields["backbone_config"]
        changes = {
            "backbone_config": None if backbone is None else SimpleNamespace(**backbone),
            "stochastic_depth": 0.0,  # for training only, and would import torchvision
        }
        return cast("VideoCaptionConfig", cls(**{"memory_shape": None, "memory_share": 0.0, **fields, **changes}))


@dataclass
class SearchSettings:
    """Settings of the search, with the names of transformers' `GenerationConfig`.

    Attributes:
        eos_token_ids: Tokens that end a caption.
        max_new_tokens: Maximum length of a caption in tokens, EOS included.
        similarity_weight, memory_weight: See [`VideoCaptionGenerationMixin`].
    """

    pad_token_id: int
    decoder_start_token_id: int
    eos_token_ids: list[int]
    max_new_tokens: int
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    similarity_weight: float | None = None
    memory_weight: float | None = None
    suppress_tokens: list[int] = field(default_factory=list)
    do_sample: bool = False

    @property
    def ranking(self) -> Ranking:
        """Weights of what captions are ranked by."""
        return Ranking(self.similarity_weight or 0.0, self.memory_weight or 0.0, self.length_penalty)

    @property
    def banned(self) -> list[list[int]]:
        """Sequences of tokens that no caption may contain."""
        return [[token] for token in self.suppress_tokens]

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a caption, the start token included."""
        return 1 + self.max_new_tokens

    def suppress(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `(N, V)` of the next word without the suppressed tokens."""
        return scores.index_fill(-1, torch.tensor(self.suppress_tokens, dtype=torch.long), -torch.inf)

    def ended(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Whether captions `(..., L)`, start token included, are complete: `(...)` of bool."""
        ends = torch.isin(input_ids[..., -1], torch.tensor(self.eos_token_ids))
        return ends | (input_ids.shape[-1] >= self.max_length)


@dataclass
class EncodedClips:
    """The encoder's output, as [`VideoEncoderOutput`]."""

    last_hidden_state: torch.Tensor
    attention_mask: torch.Tensor
    token_times: torch.Tensor
    video_words: torch.Tensor | None = None

    def repeat(self, times: int) -> "EncodedClips":
        """Each clip `times` times in a row."""
        tensors = (None if each is None else each.repeat_interleave(times, dim=0) for each in vars(self).values())
        return EncodedClips(*tensors)  # type: ignore[arg-type]
