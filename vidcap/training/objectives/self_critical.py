"""Self-critical training: captions drawn from the model are rewarded by a caption score.

Cross-entropy predicts each word from true words; here whole captions count, by the score that they will be judged by
(SCST, Rennie et al. 2017, https://arxiv.org/abs/1612.00563). The baseline of a caption is the mean reward of the
others drawn for the same clip (Luo 2020, https://arxiv.org/abs/2003.09971).

Limitations: the model must have been trained by cross-entropy before.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import GenerationConfig

from modeling_vidcap import VideoCaptionForConditionalGeneration
from processing import VideoCaptionProcessor

from ...evaluation.scores.metrics import cider_d, count_document_frequencies
from ...evaluation.scores.ptb_tokenizer import ptb_tokenize

# Generation settings that also apply to drawn captions; temperature, penalties and the like would draw them from
# another distribution than the one that is trained.
KEPT_IN_SAMPLING = (
    *("max_new_tokens", "max_length", "suppress_tokens"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
)
Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


class SelfCriticalLoss:
    """Policy gradient on sampled captions, without dropout.

    Args:
        processor: Decodes captions.
        reward: `(captions, references) -> rewards`, such as [`CiderReward`].
        samples: Captions to draw per clip, at least 2.

    Attributes:
        last_reward: Mean reward of the captions drawn last.
    """

    def __init__(self, processor: VideoCaptionProcessor, reward: Reward, *, samples: int):
        if samples < 2:
            raise ValueError(f"samples {samples} must be at least 2 captions per clip to compare")
        self.processor = processor
        self.reward = reward
        self.samples = samples
        self.last_reward = 0.0

    def __call__(
        self,
        model: VideoCaptionForConditionalGeneration,
        inputs: dict[str, torch.Tensor],
        references: Sequence[Sequence[str]],
    ) -> torch.Tensor:
        """Loss of a batch of clips; the model's mode is left as it was."""
        training = model.training
        model.eval()
        video = {name: value for name, value in inputs.items() if name.startswith(("video_", "pixel_values"))}
        with torch.no_grad():
            sequences = self._draw(model, video)
        captions = self.processor.batch_decode(sequences, skip_special_tokens=True)
        repeated = [truths for truths in references for _ in range(self.samples)]
        rewards = torch.tensor(self.reward(captions, repeated), device=sequences.device, dtype=torch.float32)
        self.last_reward = rewards.mean().item()
        advantage = leave_one_out_advantage(rewards.unflatten(0, (-1, self.samples))).flatten()  # (B * K,)
        log_probabilities, mask = model.get_token_log_probabilities(
            sequences, model.model.encoder(**video), suppress_tokens=model.generation_config.suppress_tokens or ()
        )
        model.train(training)
        return -(advantage[:, None] * log_probabilities * mask).sum() / mask.sum()

    def _draw(self, model: VideoCaptionForConditionalGeneration, video: dict[str, torch.Tensor]) -> torch.Tensor:
        """Captions from the distribution that is trained, whatever the model's generation config."""
        config = model.generation_config
        kept = {name: getattr(config, name) for name in KEPT_IN_SAMPLING}
        try:
            # Replaced, not passed: `generate` completes a config that is passed from the model's own.
            model.generation_config = GenerationConfig(num_beams=1, top_k=0, **kept)
            inputs: dict[str, Any] = dict(video)
            return model.generate(**inputs, do_sample=True, num_return_sequences=self.samples)
        finally:
            model.generation_config = config


def leave_one_out_advantage(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards `(B, K)` minus the mean of the clip's K - 1 others."""
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


class CiderReward:
    """CIDEr-D per caption, 0 to 10, by training document frequencies.

    Args:
        references: All captions of each training clip.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        self._tokenize = lru_cache(maxsize=200_000)(lambda caption: tuple(ptb_tokenize(caption)))
        self._frequencies = count_document_frequencies(self._tokenized(references))

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        guesses = [self._tokenize(caption) for caption in captions]
        return cider_d(guesses, self._tokenized(references), document_frequencies=self._frequencies)[1].tolist()

    def _tokenized(self, references: Sequence[Sequence[str]]) -> list[list[tuple[str, ...]]]:
        return [[self._tokenize(caption) for caption in alternatives] for alternatives in references]
