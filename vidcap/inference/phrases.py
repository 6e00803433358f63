"""Captions that contain given phrases.

Limitations: a phrase is a sequence of tokens, so that with word pieces it may be the beginning of a longer word.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modeling_vidcap.configuration_vidcap import VideoCaptionConfig
from modeling_vidcap.encoder_vidcap import VideoEncoderOutput
from modeling_vidcap.generation_vidcap import map_clips, repeat_clips, without_video
from modeling_vidcap.settings_vidcap import Forms, check_phrases, contains_phrase, phrase_length

if TYPE_CHECKING:
    from modeling_vidcap import VideoCaptionForConditionalGeneration


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
        clip = map_clips(encoder_outputs, itemgetter(slice(index, index + 1)))
        for count in range(1, len(phrases_ids) + 1):
            # A phrase must end early enough to leave room for those that follow.
            room = None if limit is None else limit - phrase_length(phrases_ids[count:])
            words, _ = _words(sequence, model.config)
            if not _contains(words[:room], phrases_ids[count - 1]):
                sequence = _insert(model, clip, words, phrases_ids[:count], banned, room, greedy)
        captions.append(sequence)
    return nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=model.config.pad_token_id)


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
