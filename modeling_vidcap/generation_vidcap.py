"""`generate` beyond that of transformers: ranking by likeness to the clip, guidance, phrases, probabilities.

Guarantees: guidance works with greedy search, beams, sampling and several captions per clip; probabilities are the
model's own, whatever guidance, banned words or temperature did to the search. Limitations: the guidance pass without
video has no cache and reads the caption anew for each word (captions are short, and beams would have to reorder it); a
phrase is a sequence of tokens, so that with word pieces it may be the beginning of a longer word.
"""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from .configuration_vidcap import CACHE, VideoCaptionConfig
from .decoding_vidcap import is_unmodified, write_greedily
from .encoder_vidcap import VideoEncoderOutput
from .losses_vidcap import several_ranks
from .scoring_vidcap import rank_captions, score_tokens
from .settings_vidcap import Forms, check_guidance, check_phrases, check_similarity, contains_phrase, phrase_length

if TYPE_CHECKING:
    from .modeling_vidcap import VideoCaptionForConditionalGeneration

# Private methods of transformers that the exported code overrides, each with the reason why no public hook serves.
PRIVATE_OVERRIDES = {
    "GenerationMixin._get_logits_processor": "guidance has to come before all other processors (after banned words it "
    "would subtract infinities), and those that `generate` is given are appended after them",
    "PreTrainedModel._init_weights": "the hook of transformers by which a model initialises its own parameters",
    "Pipeline._sanitize_parameters": "abstract; every pipeline has to define it",
    "Pipeline._forward": "abstract; every pipeline has to define it",
}
CLIP_INPUTS = ("pixel_values_videos", "video_mask", "video_times", "video_features")
BEAM_SEARCHES = ("beam_search", "beam_sample")


class VideoCaptionGenerationMixin(GenerationMixin):
    """`generate` with `guidance_scale` and `similarity_weight`, and probabilities of the captions it wrote.

    `similarity_weight` w ranks finished beams by log p(caption) / length^`length_penalty` + w s cos(clip, caption),
    with scale s and embeddings of the contrastive loss: the decoder prefers frequent captions even where the
    embeddings know better. 0 ranks them by probability alone.

    transformers recognises models that generate by the name of this class, which has to contain that of its base.
    """

    config: Any
    generation_config: Any

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        similarity_weight: float | None = None,
        **options,
    ) -> Any:
        """As in transformers, with greedy search by a faster loop and beams ranked by `similarity_weight`.

        Raises:
            ValueError: Also for a guidance, ranking or cache that this model cannot have.
        """
        # transformers repeats the clips in place, but the caller's are for the next call too.
        if (encoded := options.get("encoder_outputs")) is not None:
            options["encoder_outputs"] = type(encoded)(**encoded)
        settings = self._settings_of_call(generation_config, options)
        weight = getattr(settings, "similarity_weight", None) if similarity_weight is None else similarity_weight
        check_similarity(self.config, weight)
        if similarity_weight and (settings.num_beams or 1) == 1:
            raise ValueError(f"`similarity_weight` {similarity_weight} ranks beams: set `num_beams` above 1")
        if self.config.fusion == "joint" and settings.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"`cache_implementation` {settings.cache_implementation!r}: with `fusion` 'joint' the cache also "
                "holds the clip's tokens and has to grow; leave it out"
            )
        mode = settings.get_generation_mode(options.get("assistant_model"))
        if weight and mode in BEAM_SEARCHES:
            return self._generate_ranked(inputs, generation_config, options, settings, weight)
        if mode == "greedy_search" and self._can_write_greedily(settings, options):
            options["custom_generate"] = _greedy_loop
        return super().generate(inputs, generation_config, **options)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, but with the cache named `cache` under each of its versions."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        if CACHE in inputs:
            inputs["cache"] = inputs.pop(CACHE)
        return inputs

    def _settings_of_call(self, generation_config: GenerationConfig | None, options: dict[str, Any]) -> Any:
        """The generation config of a call: its options, then its config, then the model's own config."""
        settings = copy.copy(self.generation_config)
        given = {} if generation_config is None else vars(generation_config)
        vars(settings).update({name: value for name, value in given.items() if value is not None})
        vars(settings).update({name: value for name, value in options.items() if name in vars(settings)})
        return settings

    def _can_write_greedily(self, settings: Any, options: dict[str, Any]) -> bool:
        """Whether a greedy search needs nothing but the likeliest word at each step."""
        synced = options.get("synced_gpus")
        return not (
            self.training  # type: ignore[attr-defined]
            or self.config.fusion != "cross_attention"
            or self.config.decoder_config is not None
            or settings.return_dict_in_generate
            or settings.cache_implementation is not None
            or settings.use_cache is False
            or (several_ranks() if synced is None else synced)
            # `past_key_values` is the former name of `cache`, which transformers still takes.
            or any(options.get(name) is not None for name in ("cache", "past_key_values", "custom_generate"))
            or any(options.get(name) is not None for name in ("streamer", "decoder_attention_mask"))
            or not is_unmodified(self.get_decoder())  # type: ignore[attr-defined]
        )

    def _generate_ranked(
        self,
        inputs: torch.Tensor | None,
        generation_config: GenerationConfig | None,
        options: dict[str, Any],
        settings: Any,
        weight: float,
    ) -> Any:
        """Beam search, and its captions ranked also by their likeness to the clip."""
        clips = options.get("encoder_outputs")
        if clips is None:
            clip_inputs = {name: options.pop(name) for name in CLIP_INPUTS if name in options}
            if inputs is not None:
                clip_inputs["pixel_values_videos"], inputs = inputs, None
            recorded = {name: getattr(settings, name) for name in ("output_attentions", "output_hidden_states")}
            clips = self.get_encoder()(**clip_inputs, **recorded)  # type: ignore[attr-defined]
        options["encoder_outputs"] = type(clips)(**clips)
        count = settings.num_return_sequences or 1
        # All beams are ranked. More captions than beams are refused by transformers.
        returned = max(settings.num_beams, count)
        if generation_config is None or "num_return_sequences" in options:
            options["num_return_sequences"] = returned
        else:
            generation_config = copy.copy(generation_config)
            generation_config.num_return_sequences = returned
        searched: Any = super().generate(inputs, generation_config, **options)
        sequences = searched.sequences if settings.return_dict_in_generate else searched
        # By the probabilities of the search, guidance included.
        scored = self.get_token_log_probabilities(sequences, clips, guidance_scale=settings.guidance_scale)
        model: Any = self
        length_penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
        ranked = rank_captions(model, sequences, *scored, clips, weight, length_penalty)
        rows, longest = ranked.best(count)
        if not settings.return_dict_in_generate:
            return sequences[rows, : 1 + longest]
        searched.sequences = sequences[rows, : 1 + longest]
        searched.beam_indices = searched.beam_indices[rows, :longest]
        if searched.sequences_scores is not None:
            searched.sequences_scores = ranked.scores.flatten()[rows]
        return searched

    def _get_logits_processor(
        self, generation_config: GenerationConfig, *args, model_kwargs: dict[str, Any] | None = None, **kwargs
    ) -> LogitsProcessorList:
        guidance_scale = generation_config.guidance_scale
        check_guidance(self.config, guidance_scale)
        # For this scale transformers would add a processor that calls the model as a decoder-only one.
        generation_config = copy.copy(generation_config)
        generation_config.guidance_scale = None
        kwargs["model_kwargs"] = model_kwargs
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)  # type: ignore[misc]
        if guidance_scale not in (None, 1):
            clips = (model_kwargs or {})["encoder_outputs"]
            processors.insert(0, VideoGuidance(self, clips, guidance_scale))  # type: ignore[arg-type]
        return processors

    def get_token_log_probabilities(
        self,
        sequences: torch.Tensor,
        encoder_outputs: VideoEncoderOutput,
        *,
        suppress_tokens: Sequence[int] = (),
        guidance_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(token | clip, previous tokens) of given captions over the whole vocabulary, with gradient.

        Args:
            sequences: `(B * K, 1 + L)`, as `generate` returns them: the start token, then the caption; the K captions
                of a clip are consecutive.
            encoder_outputs: The B encoded clips.
            suppress_tokens: As for `generate`: tokens that could not be drawn and are no part of the distribution.
            guidance_scale: As for [`VideoGuidance`]; default: the model's own probabilities.

        Returns:
            The logarithms `(B * K, L)`, 0 after a caption's end, and `(B * K, L)` of bool: the caption's tokens, EOS
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


def _greedy_loop(
    model: "VideoCaptionForConditionalGeneration",
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs,
) -> torch.Tensor:
    """`custom_generate` of greedy search, see [`write_greedily`]."""
    return write_greedily(
        model,
        input_ids,
        model_kwargs["encoder_outputs"],
        logits_processor,
        lambda ids: stopping_criteria(ids, None),
        stopping_criteria.max_length,  # type: ignore[arg-type]
        generation_config.pad_token_id,
    )


def guided_by_video(logits: torch.Tensor, blind: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    r"""Classifier-free guidance: log-probabilities `(..., V)` away from those without video.

    $\log p_s = \log p(\text{no video}) + s (\log p(\text{video}) - \log p(\text{no video}))$, normalised so that beams
    may sum it (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598; for text Sanchez et al. 2023,
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
        encoder_outputs: The encoded clips, repeated for beams or samples as `generate` does.
        guidance_scale: See [`guided_by_video`].
    """

    def __init__(
        self,
        model: "VideoCaptionForConditionalGeneration",
        encoder_outputs: VideoEncoderOutput,
        guidance_scale: float,
    ):
        self.model = model
        self.no_video = without_video(encoder_outputs)
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        outputs: Any = self.model(encoder_outputs=self.no_video, decoder_input_ids=input_ids, use_cache=False)
        return guided_by_video(scores, outputs.logits[:, -1].float(), self.guidance_scale)  # (B, V)


@torch.no_grad()
def generate_including(
    model: "VideoCaptionForConditionalGeneration",
    inputs: Mapping[str, Any],
    phrases_ids: Sequence[Forms],
    **generate_kwargs,
) -> torch.Tensor:
    """Write captions that contain given phrases.

    Each clip is captioned as by `generate` first. Then, phrase by phrase, for each position t of the caption the words
    before t and the phrase are continued greedily, all positions in one batch. Of the continuations that contain this
    and all earlier phrases, complete captions before truncated ones, the one with the highest mean log-probability per
    token is kept. A phrase that the caption already contains changes nothing.

    A phrase that the clip does not show is equally improbable everywhere. With a model that can write without video
    (`video_dropout`), the phrase's own tokens therefore count by the mean of their probabilities with and without
    video: the phrase goes where the clip shows it or where language expects it.

    Args:
        inputs: Those of `generate`: a batch of B clips, or their `encoder_outputs`.
        phrases_ids: The forms of each phrase: ids at the start of a caption and, where they differ, elsewhere.
        generate_kwargs: For `generate`. Beams serve the first caption only.

    Returns:
        `(B, 1 + L)`, as `generate` returns captions.

    Raises:
        ValueError: If several captions per clip or samples are requested, [`check_phrases`] refuses the phrases, or
            banned words leave no place for one beside the others.
    """
    settings = {**model.generation_config.to_dict(), **generate_kwargs}
    if settings.get("do_sample") or (settings.get("num_return_sequences") or 1) > 1:
        raise ValueError(
            "phrases need a search for one caption per clip: set `do_sample` to False and `num_return_sequences` to 1"
        )
    banned, limit = settings.get("bad_words_ids") or [], settings.get("max_new_tokens")
    check_phrases(phrases_ids, banned, limit)
    encoder_outputs = inputs["encoder_outputs"] if "encoder_outputs" in inputs else model.get_encoder()(**inputs)
    sequences = model.generate(encoder_outputs=encoder_outputs, **generate_kwargs)  # (B, 1 + L)
    greedy = {**generate_kwargs, "num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
    captions = []
    for index, sequence in enumerate(sequences):
        clip = _map_clips(encoder_outputs, itemgetter(slice(index, index + 1)))
        for count in range(1, len(phrases_ids) + 1):
            # A phrase must end early enough to leave room for those that follow.
            room = None if limit is None else limit - phrase_length(phrases_ids[count:])
            words, _ = _words(sequence, model.config)
            if not _contains(words[:room], phrases_ids[count - 1]):
                sequence = _insert(model, clip, words, phrases_ids[:count], banned, room, greedy)
        captions.append(sequence)
    return nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=model.config.pad_token_id)


def without_video(encoder_outputs: VideoEncoderOutput) -> VideoEncoderOutput:
    """Encoded clips whose tokens are zeros at the same times, as `video_dropout` leaves them in training."""
    hidden_states = torch.zeros_like(encoder_outputs.last_hidden_state)
    return type(encoder_outputs)(**{**encoder_outputs, "last_hidden_state": hidden_states})


def repeat_clips(encoder_outputs: VideoEncoderOutput, times: int) -> VideoEncoderOutput:
    """A copy with each clip `times` times in a row."""
    return _map_clips(encoder_outputs, lambda tensor: tensor.repeat_interleave(times, dim=0))


def _map_clips(
    encoder_outputs: VideoEncoderOutput, change: Callable[[torch.Tensor], torch.Tensor]
) -> VideoEncoderOutput:
    """A copy with each tensor changed, without recorded hidden states and attentions, which no decoder reads."""
    changed: Any = {name: change(value) for name, value in encoder_outputs.items() if isinstance(value, torch.Tensor)}
    return type(encoder_outputs)(**changed)


def _insert(
    model: "VideoCaptionForConditionalGeneration",
    clip: VideoEncoderOutput,
    words: list[int],
    phrases: Sequence[Forms],
    banned: Sequence[Sequence[int]],
    room: int | None,
    generate_kwargs: dict[str, Any],
) -> torch.Tensor:
    """The best caption `(1 + L,)` that begins with some of `words` and the last phrase.

    It contains all of `phrases` in its first `room` tokens.
    """
    prefixes = [[*words[:t], *phrases[-1][-1 if t else 0]] for t in range(len(words) + 1)]
    anything = torch.arange(model.config.vocab_size)

    def allowed(row: int, ids: torch.Tensor) -> Any:
        step = len(ids) - 1  # after the start token
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
    candidates = []
    for sequence, mean in zip(sequences, means, strict=True):
        candidate, complete = _words(sequence, model.config)
        # A prefix and its phrase may form a banned sequence together.
        if all(_contains(candidate[:room], forms) for forms in phrases) and not any(
            contains_phrase(candidate, word) for word in banned
        ):
            candidates.append((complete, mean, sequence))
    if not candidates:
        raise ValueError(
            f"no caption contains the phrase of ids {list(phrases[-1][-1])} beside the other phrases and without "
            "banned words: leave some of them out"
        )
    return max(candidates, key=itemgetter(0, 1))[2]


def _words(sequence: torch.Tensor, config: VideoCaptionConfig) -> tuple[list[int], bool]:
    """The tokens between the start token and EOS, and whether there is an EOS."""
    ends = torch.tensor(config.eos_token_id).flatten().tolist()
    tokens = sequence[1:].tolist()
    words = list(itertools.takewhile(lambda token: token not in ends, tokens))
    return words, len(words) < len(tokens)


def _contains(words: Sequence[int], forms: Forms) -> bool:
    return list(words[: len(forms[0])]) == list(forms[0]) or contains_phrase(words, forms[-1])
