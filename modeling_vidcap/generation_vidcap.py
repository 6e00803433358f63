"""What the captioner's `generate` can do beyond that of transformers: beams ranked by their likeness to the clip too,
guidance by a pass without video, phrases that a caption must hold, and the probability of each token of a caption.

What it promises: guidance works with greedy search, beams, sampling and several captions a clip; probabilities are the
model's own, whatever guidance, banned words or temperature did to the search. What it gives up: the pass without video
keeps no cache and reads the caption anew for each word (captions are short, and beams would have to reorder it); a
phrase is one of tokens, so that in a tokenizer of word pieces it may be the beginning of a longer word.
"""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from .configuration_vidcap import VideoCaptionConfig
from .greedy_vidcap import can_write_greedily, write_greedily
from .outputs_vidcap import VideoEncoderOutput
from .scoring_vidcap import rank_captions, score_tokens
from .settings_vidcap import (
    Forms,
    check_guidance,
    check_phrases,
    check_similarity,
    holds_phrase,
    phrase_length,
)


class VideoCaptionGenerationMixin(GenerationMixin):
    """`generate` with `guidance_scale` and `similarity_weight`, and the probabilities of what it wrote.

    `similarity_weight` w ranks finished beams by log p(caption) / length^`length_penalty` + w s cos(clip, caption), s
    and the embeddings being those of the contrastive loss: the decoder follows what it has often read, also where the
    embeddings know better. 0 ranks them by their probability alone.

    Its name has to hold that of its base class, by which transformers knows models that generate.
    """

    config: Any

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, similarity_weight: float | None = None, **kwargs
    ) -> Any:
        prepared: Any
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        if similarity_weight is not None:
            prepared.similarity_weight = similarity_weight
        check_similarity(self.config, getattr(prepared, "similarity_weight", None))
        if similarity_weight and prepared.num_beams == 1:
            raise ValueError(f"`similarity_weight` {similarity_weight} ranks beams: set `num_beams` above 1")
        if self.config.fusion == "joint" and prepared.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"`cache_implementation` {prepared.cache_implementation!r}: with `fusion` 'joint' the clip's tokens "
                "are in the cache, which grows; leave it out"
            )
        return prepared, model_kwargs

    def _expand_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        # What was given stays as it is, for the next call: transformers would repeat the clips in place.
        if (encoded := kwargs.get("encoder_outputs")) is not None:
            kwargs["encoder_outputs"] = type(encoded)(**encoded)
        parent: Any = super()
        return parent._expand_inputs_for_generation(*args, **kwargs)

    def _get_logits_processor(
        self, generation_config: GenerationConfig, *args, model_kwargs: Any = None, **kwargs
    ) -> LogitsProcessorList:
        guidance_scale = generation_config.guidance_scale
        check_guidance(self.config, guidance_scale)
        # What transformers itself makes of the scale calls the model as a decoder-only one.
        generation_config = copy.copy(generation_config)
        generation_config.guidance_scale = None
        kwargs["model_kwargs"] = model_kwargs
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)  # type: ignore[misc]
        if guidance_scale not in (None, 1):
            # First of all, since behind banned words there would be infinities to subtract.
            processors.insert(0, VideoGuidance(self, model_kwargs["encoder_outputs"], guidance_scale))
        return processors

    def _sample(
        self,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs,
    ) -> Any:
        """The loop of greedy search and of sampling; where greedy search is all that is wanted, a faster one."""
        if synced_gpus or streamer is not None or not can_write_greedily(self, generation_config, model_kwargs):
            return super()._sample(  # type: ignore[misc]
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )
        return write_greedily(
            self,
            input_ids,
            model_kwargs["encoder_outputs"],
            logits_processor,
            lambda ids: stopping_criteria(ids, None),
            stopping_criteria.max_length,
            generation_config.pad_token_id,
        )

    def _beam_search(
        self,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        **model_kwargs,
    ) -> Any:
        """That of transformers, whose beams are then ranked by their likeness to the clip, too, if asked for."""
        settings: Any = copy.copy(generation_config)
        weight, wanted = getattr(settings, "similarity_weight", None), settings.num_return_sequences
        if weight:
            settings.num_return_sequences = settings.num_beams
        found: Any = super()._beam_search(  # type: ignore[misc]
            input_ids, logits_processor, stopping_criteria, settings, synced_gpus=synced_gpus, **model_kwargs
        )
        if not weight:
            return found
        encoded = model_kwargs["encoder_outputs"]
        clips = _map_clips(encoded, lambda each: each[:: settings.num_beams])
        sequences = found.sequences if settings.return_dict_in_generate else found
        # By the probabilities that were searched by, guidance included.
        scored = self.get_token_log_probabilities(sequences, clips, guidance_scale=settings.guidance_scale)
        ranked = rank_captions(self, sequences, *scored, clips, weight, settings.length_penalty)
        rows, longest = ranked.best(wanted)
        if not settings.return_dict_in_generate:
            return sequences[rows, : 1 + longest]
        found.sequences, found.beam_indices = sequences[rows, : 1 + longest], found.beam_indices[rows, :longest]
        if found.sequences_scores is not None:
            found.sequences_scores = ranked.scores.flatten()[rows]
        return found

    def get_token_log_probabilities(
        self,
        sequences: torch.Tensor,
        encoder_outputs: VideoEncoderOutput,
        *,
        suppress_tokens: Sequence[int] = (),
        guidance_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(token | clip, tokens before it) of given captions, over the whole vocabulary; with gradient.

        Args:
            sequences: `(B * K, 1 + L)`, as `generate` returns them: the start token, then the caption; the K captions
                of a clip follow each other.
            encoder_outputs: Of the B clips.
            suppress_tokens: As for `generate`: tokens that could not be drawn, and so are no part of the distribution.
            guidance_scale: Of [`VideoGuidance`]; by default the model's own probabilities.

        Returns:
            The logarithms `(B * K, L)`, 0 behind a caption's end, and `(B * K, L)` of bool: the caption's tokens, EOS
            included.
        """
        labels = sequences[:, 1:]
        repeated = repeat_clips(encoder_outputs, len(sequences) // len(encoder_outputs.last_hidden_state))
        outputs = self(encoder_outputs=repeated, decoder_input_ids=sequences[:, :-1], use_cache=False)  # type: ignore[operator]
        logits = outputs.logits.float()
        if guidance_scale not in (None, 1):
            blind = self(  # type: ignore[operator]
                encoder_outputs=without_video(repeated), decoder_input_ids=sequences[:, :-1], use_cache=False
            )
            logits = guided_by_video(logits, blind.logits.float(), guidance_scale)
        logits[..., list(suppress_tokens)] = -torch.inf
        return score_tokens(logits, labels, self.config.eos_token_id)


def guided_by_video(logits: torch.Tensor, blind: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    r"""Classifier-free guidance: log-probabilities `(..., V)` away from what is said without any video.

    $\log p_s = \log p(\text{no video}) + s (\log p(\text{video}) - \log p(\text{no video}))$, normalised so that beams
    may add it up (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598; for text Sanchez et al. 2023,
    https://arxiv.org/abs/2306.17806).

    Args:
        logits, blind: Scores `(..., V)` with and without the video.
        guidance_scale: s.
    """
    prior = blind.log_softmax(dim=-1)
    return (prior + guidance_scale * (logits.log_softmax(dim=-1) - prior)).log_softmax(dim=-1)


class VideoGuidance(LogitsProcessor):
    """[`guided_by_video`] at each step of `generate`.

    Args:
        model: The captioner.
        encoder_outputs: Of the clips, repeated for beams or samples as `generate` does.
        guidance_scale: As there.
    """

    def __init__(self, model: Any, encoder_outputs: VideoEncoderOutput, guidance_scale: float):
        self.model = model
        self.no_video = without_video(encoder_outputs)
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        outputs = self.model(encoder_outputs=self.no_video, decoder_input_ids=input_ids, use_cache=False)
        return guided_by_video(scores, outputs.logits[:, -1].float(), self.guidance_scale)  # (B, V)


@torch.no_grad()
def generate_including(
    model: Any, inputs: Mapping[str, Any], phrases_ids: Sequence[Forms], **generate_kwargs: Any
) -> torch.Tensor:
    """Captions that hold given phrases.

    Each clip is captioned as by `generate` first. Then, phrase by phrase, for each position t of the caption the words
    before t and the phrase are continued greedily, all positions in one batch; of those that hold this phrase and the
    ones before it, the continuation with the highest mean log-probability per token is kept, and one that ended rather
    than one that was cut off. A phrase that is there already changes nothing.

    A phrase that the clip does not show is equally improbable everywhere. With a model that can write without video
    (`video_dropout`), the phrase's own tokens therefore count by the mean of their probabilities with and without
    video: it goes where the clip shows it or where language expects it.

    Args:
        inputs: Those of `generate`: a batch of B clips, or their `encoder_outputs`.
        phrases_ids: For each phrase its forms: ids at the start of a caption, and elsewhere if these differ.
        generate_kwargs: For `generate`. Beams serve the first caption only.

    Returns:
        `(B, 1 + L)`, as `generate` returns captions.

    Raises:
        ValueError: If several captions a clip or samples are asked for, the phrases cannot be had by
            [`check_phrases`], or banned words leave no place for one beside the others.
    """
    settings = {**model.generation_config.to_dict(), **generate_kwargs}
    if settings.get("do_sample") or (settings.get("num_return_sequences") or 1) > 1:
        raise ValueError("phrases are put into the one likeliest caption: leave out sampling and several captions")
    banned, limit = settings.get("bad_words_ids") or [], settings.get("max_new_tokens")
    check_phrases(phrases_ids, banned, limit)
    encoder_outputs = inputs["encoder_outputs"] if "encoder_outputs" in inputs else model.get_encoder()(**inputs)
    sequences = model.generate(encoder_outputs=repeat_clips(encoder_outputs, 1), **generate_kwargs)  # (B, 1 + L)
    greedy = {**generate_kwargs, "num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
    captions = []
    for index, sequence in enumerate(sequences):
        clip = _map_clips(encoder_outputs, itemgetter(slice(index, index + 1)))
        for count in range(1, len(phrases_ids) + 1):
            # Phrases must not end so late that those to come would find no place behind them.
            room = None if limit is None else limit - phrase_length(phrases_ids[count:])
            words, _ = _words(sequence, model.config)
            if not _holds(words[:room], phrases_ids[count - 1]):
                sequence = _insert(model, clip, words, phrases_ids[:count], banned, room, greedy)
        captions.append(sequence)
    return nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=model.config.pad_token_id)


def without_video(encoder_outputs: VideoEncoderOutput) -> VideoEncoderOutput:
    """What the decoder gets to see of a clip that it does not see: zeros at the same times, as `video_dropout` leaves
    them in training."""
    hidden_states = torch.zeros_like(encoder_outputs.last_hidden_state)
    return type(encoder_outputs)(**{**encoder_outputs, "last_hidden_state": hidden_states})


def repeat_clips(encoder_outputs: VideoEncoderOutput, times: int) -> VideoEncoderOutput:
    """Each clip `times` times in a row, as a copy: `generate` repeats the clips of what it is given in place."""
    return _map_clips(encoder_outputs, lambda each: each.repeat_interleave(times, dim=0))


def _map_clips(encoder_outputs: VideoEncoderOutput, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Each tensor changed; what was recorded of the layers is left out, since no decoder reads it."""
    changed: Any = {name: change(each) for name, each in encoder_outputs.items() if isinstance(each, torch.Tensor)}
    return type(encoder_outputs)(**changed)


def _insert(
    model: Any,
    clip: VideoEncoderOutput,
    words: list[int],
    phrases: Sequence[Forms],
    banned: Sequence[Sequence[int]],
    room: int | None,
    generate_kwargs: dict[str, Any],
) -> torch.Tensor:
    """The best caption `(1 + L,)` of a clip that goes on from a beginning of `words` and the last of `phrases`, and
    holds all of them in its first `room` tokens."""
    prefixes = [[*words[:t], *phrases[-1][-1 if t else 0]] for t in range(len(words) + 1)]
    anything = torch.arange(model.config.vocab_size)

    def allowed(row: int, ids: torch.Tensor) -> Any:
        step = len(ids) - 1  # behind the start token
        return [prefixes[row][step]] if step < len(prefixes[row]) else anything

    repeated = repeat_clips(clip, len(prefixes))
    sequences = model.generate(encoder_outputs=repeated, prefix_allowed_tokens_fn=allowed, **generate_kwargs)
    log_probabilities, mask = model.get_token_log_probabilities(sequences, repeated)
    if model.config.video_dropout > 0:
        prior, _ = model.get_token_log_probabilities(sequences, without_video(repeated))
        mixture = torch.logaddexp(log_probabilities, prior) - math.log(2)
        for t, prefix in enumerate(prefixes):
            log_probabilities[t, t : len(prefix)] = mixture[t, t : len(prefix)]
    means = (log_probabilities.sum(dim=1) / mask.sum(dim=1)).tolist()
    found = []
    for sequence, mean in zip(sequences, means, strict=True):
        candidate, ended = _words(sequence, model.config)
        # A prefix and its phrase may make up a banned sequence together.
        if all(_holds(candidate[:room], forms) for forms in phrases) and not any(
            holds_phrase(candidate, word) for word in banned
        ):
            found.append((ended, mean, sequence))
    if not found:
        raise ValueError(
            f"the phrase of ids {list(phrases[-1][-1])} finds no place in the caption beside the other phrases and "
            "banned words: leave some of them out"
        )
    return max(found, key=lambda each: each[:2])[2]


def _words(sequence: torch.Tensor, config: VideoCaptionConfig) -> tuple[list[int], bool]:
    """The tokens between the start token and EOS, and whether there was an EOS."""
    ends = torch.tensor(config.eos_token_id).flatten().tolist()
    tokens = sequence[1:].tolist()
    words = list(itertools.takewhile(lambda token: token not in ends, tokens))
    return words, len(words) < len(tokens)


def _holds(words: Sequence[int], forms: Forms) -> bool:
    return list(words[: len(forms[0])]) == list(forms[0]) or holds_phrase(words, forms[-1])


__all__ = [
    "VideoCaptionGenerationMixin",
    "VideoGuidance",
    "check_guidance",
    "check_phrases",
    "check_similarity",
    "generate_including",
    "repeat_clips",
    "without_video",
]
