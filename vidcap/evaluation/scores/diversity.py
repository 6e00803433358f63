"""Diversity of captions, and their novelty against the training captions."""

from collections.abc import Sequence

from .pairs import Tokenizer, check_strings, check_tokenizer, split_tokens, tokenize


def caption_diversity(
    captions: Sequence[str], *, train_captions: Sequence[str] | None = None, tokenizer: Tokenizer = "ptb"
) -> dict[str, float]:
    """
    Measure the diversity of captions, without true captions.

    Args:
        captions (`Sequence[str]`): one per clip.
        train_captions (`Sequence[str]`, *optional*): all captions of the training clips.
        tokenizer (`"ptb"` or `"whitespace"`, *optional*, defaults to `"ptb"`): see [`score_captions`].

    Returns:
        `dict[str, float]`: `distinct1` and `distinct2`, the share of different words and pairs of words (Li et al.,
        2016, https://aclanthology.org/N16-1014; both fall with the number of captions, so compare equal numbers of
        clips), and `distinct`, the share of different captions, all from 0 to 1; `vocabulary`, the number of
        different words; `mean_length` in words; with `train_captions` also `novel`, the share of captions that do not
        occur in training.

    Raises:
        `ValueError`: if there are no captions, a caption is not a string, or the tokenizer is unknown.
    """
    check_tokenizer(tokenizer)
    for strings, name in ((captions, "captions"), (train_captions, "train_captions")):
        if isinstance(strings, str):
            raise ValueError(f"{name} is one string: give a list of strings.")
        check_strings(strings or [], f"Item {{}} of {name}")
    if not captions:
        raise ValueError("captions is empty: give at least one caption.")
    sentences = [tuple(split_tokens(tokenize(caption, tokenizer))) for caption in captions]
    words = [word for sentence in sentences for word in sentence]
    pairs = [pair for sentence in sentences for pair in zip(sentence, sentence[1:], strict=False)]
    diversity = {
        "distinct1": len(set(words)) / max(1, len(words)),
        "distinct2": len(set(pairs)) / max(1, len(pairs)),
        "distinct": len(set(sentences)) / len(sentences),
        "vocabulary": float(len(set(words))),
        "mean_length": len(words) / len(sentences),
    }
    if train_captions is not None:
        known = {tuple(split_tokens(tokenize(caption, tokenizer))) for caption in train_captions}
        diversity["novel"] = sum(sentence not in known for sentence in sentences) / len(sentences)
    return diversity
