"""`generate` beyond that of transformers: ranking by likeness and memory, guidance, probabilities.

Guarantees: guidance works with greedy search, beams, sampling and several captions per clip; probabilities are the
model's own, whatever guidance, banned words or temperature did to the search. Limitations: the guidance pass without
video has no cache and reads the caption anew for each word (captions are short, and beams would have to reorder it).
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from .configuration_vidcap import CACHE
from .decoding_vidcap import is_unmodified, write_greedily
from .encoder_vidcap import VideoEncoderOutput
from .losses_vidcap import several_ranks
from .scoring_vidcap import Ranking, add_remembered, rank_captions, score_tokens
from .settings_vidcap import check_guidance, check_memory, check_similarity

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
CLIP_INPUTS = ("pixel_values_videos", "video_mask", "video_times", "video_features", "video_words")
BEAM_SEARCHES = ("beam_search", "beam_sample")
REMEMBERING = ("beam_search", "greedy_search")
# Options that determine words, which remembered captions might not have.
CONTROLLING = (
    *("constraints", "custom_generate", "decoder_input_ids", "force_words_ids", "logits_processor"),
    *("prefix_allowed_tokens_fn", "sequence_bias", "stopping_criteria", "streamer"),
)


class VideoCaptionGenerationMixin(GenerationMixin):
    """`generate` with `guidance_scale` and `similarity_weight`, and probabilities of the captions it wrote.

    `similarity_weight` w ranks finished beams by log p(caption) / length^`length_penalty` + w s cos(clip, caption),
    with scale s and embeddings of the contrastive loss: the decoder prefers frequent captions even where the
    embeddings know better. 0 ranks them by probability alone.

    `memory_weight` adds the captions that the [`CaptionMemory`] recalls to those that the search wrote, and
    `memory_weight` times their expected CIDEr / 10 to the rank of all. It is not used when sampling, nor with options
    that force or forbid words other than `bad_words_ids` and `suppress_tokens`.

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
        memory_weight: float | None = None,
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
        remembering = getattr(settings, "memory_weight", None) if memory_weight is None else memory_weight
        check_memory(self.config, remembering)
        if mode not in REMEMBERING or any(options.get(name) is not None for name in CONTROLLING):
            remembering = 0.0
        ranking = Ranking(
            weight if weight and mode in BEAM_SEARCHES else 0.0,
            remembering or 0.0,
            1.0 if settings.length_penalty is None else settings.length_penalty,
        )
        if ranking.similarity_weight or ranking.memory_weight:
            return self._generate_ranked(inputs, generation_config, options, settings, ranking)
        return self._search(inputs, generation_config, options, settings)

    def _search(
        self,
        inputs: torch.Tensor | None,
        generation_config: GenerationConfig | None,
        options: dict[str, Any],
        settings: Any,
    ) -> Any:
        mode = settings.get_generation_mode(options.get("assistant_model"))
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
        ranking: Ranking,
    ) -> Any:
        """A search, its captions and those that the memory recalls, ranked."""
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
        returned = max(settings.num_beams or 1, count)
        if generation_config is None or "num_return_sequences" in options:
            options["num_return_sequences"] = returned
        else:
            generation_config = copy.copy(generation_config)
            generation_config.num_return_sequences = returned
        searched: Any = self._search(inputs, generation_config, options, settings)
        sequences = searched.sequences if settings.return_dict_in_generate else searched
        model: Any = self
        if ranking.memory_weight:
            banned = [*(settings.bad_words_ids or []), *([token] for token in settings.suppress_tokens or [])]
            limit = settings.max_new_tokens or settings.max_length - 1
            sequences = add_remembered(model, sequences, clips, max_length=limit, banned=banned)
        # By the probabilities of the search, guidance included.
        scored = self.get_token_log_probabilities(sequences, clips, guidance_scale=settings.guidance_scale)
        ranked = rank_captions(model, sequences, *scored, clips, ranking)
        rows, longest = ranked.best(count)
        if not settings.return_dict_in_generate:
            return sequences[rows, : 1 + longest]
        searched.sequences = sequences[rows, : 1 + longest]
        if searched.get("beam_indices") is not None:  # -1 for remembered captions, which no beam wrote
            beams = searched.beam_indices.unflatten(0, (len(clips.last_hidden_state), -1))
            missing = (ranked.scores.shape[1] - beams.shape[1], len(sequences[0]) - beams.shape[2])
            beams = nn.functional.pad(beams, (0, missing[1], 0, missing[0]), value=-1)
            searched.beam_indices = beams.flatten(0, 1)[rows, :longest]
        if searched.get("sequences_scores") is not None:
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


def without_video(encoder_outputs: VideoEncoderOutput) -> VideoEncoderOutput:
    """Encoded clips whose tokens are zeros at the same times, as `video_dropout` leaves them in training.

    A memory recalls nothing of them in particular.
    """
    names = ("last_hidden_state", "video_words")
    zeros = {name: encoder_outputs[name].mul(0) for name in names if encoder_outputs.get(name) is not None}
    return type(encoder_outputs)(**{**encoder_outputs, **zeros})


def repeat_clips(encoder_outputs: VideoEncoderOutput, times: int) -> VideoEncoderOutput:
    """A copy with each clip `times` times in a row."""
    return map_clips(encoder_outputs, lambda tensor: tensor.repeat_interleave(times, dim=0))


def map_clips(
    encoder_outputs: VideoEncoderOutput, change: Callable[[torch.Tensor], torch.Tensor]
) -> VideoEncoderOutput:
    """A copy with each tensor changed, without recorded hidden states and attentions, which no decoder reads."""
    changed: Any = {name: change(value) for name, value in encoder_outputs.items() if isinstance(value, torch.Tensor)}
    return type(encoder_outputs)(**changed)
