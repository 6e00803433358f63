"""What can be asked of a search, told from a config alone, before a model is loaded and a clip is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

Forms = Sequence[Sequence[int]]  # a phrase's ids at the start of a caption, and elsewhere where these differ


def check_guidance(config: "VideoCaptionConfig", guidance_scale: float | None) -> None:
    """Refuses a guidance that cannot work with a model of this config.

    Raises:
        ValueError: If the scale is below 1, or the model was not trained to write captions without video.
    """
    if guidance_scale is None or guidance_scale == 1:
        return
    if not guidance_scale > 1:
        raise ValueError(f"`guidance_scale` is {guidance_scale}: 1 is no guidance, pass a number above it")
    if config.video_dropout == 0:
        raise ValueError(
            f"`guidance_scale` {guidance_scale} compares with captions written without video, which this model never "
            "learnt (its `video_dropout` is 0): train with --video_dropout 0.1, or leave guidance out"
        )


def check_similarity(config: "VideoCaptionConfig", similarity_weight: float | None) -> None:
    """Refuses a ranking by embeddings that were never trained.

    Raises:
        ValueError: If the weight is negative, or above 0 for a model without contrastive loss.
    """
    if not similarity_weight:
        return
    if similarity_weight < 0:
        raise ValueError(f"`similarity_weight` is {similarity_weight}: 0 ranks by probability alone, pass 0 or more")
    if config.contrastive_weight == 0:
        raise ValueError(
            f"`similarity_weight` {similarity_weight} compares clips with captions, which this model never learnt "
            "(its `contrastive_weight` is 0): train with --contrastive_weight 0.5, or leave it out"
        )


def check_phrases(
    phrases_ids: Sequence[Forms], bad_words_ids: Sequence[Sequence[int]], max_new_tokens: int | None
) -> None:
    """Refuses phrases that no caption can hold.

    Raises:
        ValueError: If one holds a banned word, or all are too long together.
    """
    if any(holds_phrase(form, word) for forms in phrases_ids for form in forms for word in bad_words_ids):
        raise ValueError("a phrase holds a banned word: allow the word, or leave the phrase out")
    length = phrase_length(phrases_ids) + 1
    if max_new_tokens is not None and length > max_new_tokens:
        raise ValueError(
            f"phrases and EOS are {length} tokens, `max_new_tokens` is {max_new_tokens}: raise it, or leave one out"
        )


def phrase_length(phrases_ids: Sequence[Forms]) -> int:
    """Tokens that phrases take in a caption, each in its longer form."""
    return sum(max(map(len, forms)) for forms in phrases_ids)


def holds_phrase(words: Sequence[int], phrase: Sequence[int]) -> bool:
    """Whether `phrase` stands somewhere among `words`."""
    return any(list(words[t : t + len(phrase)]) == list(phrase) for t in range(len(words) - len(phrase) + 1))
