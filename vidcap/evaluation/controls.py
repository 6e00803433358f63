"""Is the score owed to the video? The same captions scored again, each time with something taken away.

A caption depends on the clip alone, so that "captioned from another clip's frames" needs no further run of the model:
it is the other clip's caption, scored by this clip's references. Everything here works on strings.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .metrics import score_captions
from .ptb_tokenizer import ptb_tokenize

Tokens = tuple[str, ...]


class NoOtherClipError(ValueError):
    """A clip shares a caption with every other clip."""


def most_frequent_caption(captions: Sequence[str]) -> str:
    """The commonest of `captions`, compared after tokenisation; of equally common ones, the first.

    Raises:
        ValueError: There are no captions.
    """
    if not captions:
        raise ValueError("there are no captions to take the most frequent one of")
    tokenized = [_tokens(caption) for caption in captions]
    # Counter keeps the order of first sight and `most_common` is stable.
    return captions[tokenized.index(Counter(tokenized).most_common(1)[0][0])]


def other_clip_indices(references: Sequence[Sequence[str]], *, seed: int = 0) -> list[int]:
    """For each clip, another clip none of whose captions is true of it.

    Clips are matched one to one, so that each caption is judged once. Where captions repeat so often that this cannot
    be, some clips serve twice.

    Args:
        references: The true captions of each clip.
        seed: Draws the partners.

    Returns:
        Clip `i` gets the frames of clip `result[i]`; the captions of the two share no sentence after tokenisation.

    Raises:
        NoOtherClipError: A clip shares a caption with every other clip.
    """
    sentences = [{_tokens(reference) for reference in alternatives} for alternatives in references]
    generator = random.Random(seed)
    partners = generator.sample(range(len(references)), len(references))

    def differ(first: int, second: int) -> bool:
        return sentences[first].isdisjoint(sentences[second])

    for clip in range(len(references)):
        if differ(clip, partners[clip]):
            continue
        # Exchange partners with a clip that this leaves, or makes, right; the next best is a partner of its own.
        candidates = generator.sample(range(len(references)), len(references))
        swap = next((o for o in candidates if differ(clip, partners[o]) and differ(o, partners[clip])), None)
        if swap is not None:
            partners[clip], partners[swap] = partners[swap], partners[clip]
            continue
        partner = next((other for other in candidates if differ(clip, other)), None)
        if partner is None:
            raise NoOtherClipError(
                f"every other clip shares a caption with clip {clip} ({references[clip][0]!r}): the control with "
                "another clip's frames needs clips with different captions"
            )
        partners[clip] = partner
    return partners


def evaluate_captions(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    backwards: Sequence[str] | None = None,
    captions_reversed: Sequence[str | None] | None = None,
    train_captions: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Scores captions, and the controls beside them.

    Args:
        hypotheses: The model's caption of each clip.
        references: The true captions of each clip.
        backwards: The model's caption of each clip played backwards, for the control `reversed`.
        captions_reversed: What is true of each clip played backwards, `None` where that is not known or no different.
        train_captions: All captions of the training clips, for the control `most_frequent`.
        kinds: Each clip's kind. The clips of each kind are then scored on their own, document frequencies included.

    Returns:
        `scores`, `controls` (`other_clip`, `reversed`, `most_frequent`, each with the keys of `scores`; `reversed`
        also `exact_reversed`, the share of the clips with a reversed caption that got exactly that when played
        backwards) and, where there are kinds, `by_kind`: for each the number of `clips`, the keys of `scores` and its
        `controls`. A control that cannot be run is left out: `reversed` and `most_frequent` where their captions are
        not given, `other_clip` where a clip shares a caption with every other one.

    Raises:
        ValueError: The lengths differ, or there is nothing to score.
    """
    given = {"backwards": backwards, "captions_reversed": captions_reversed, "kinds": kinds}
    for name, values in given.items():
        if values is not None and len(values) != len(hypotheses):
            raise ValueError(f"{len(hypotheses)} hypotheses but {len(values)} {name}: give one for each clip")
    frequent = most_frequent_caption(train_captions) if train_captions else None
    everything = list(range(len(hypotheses)))
    report = _evaluate_some(everything, hypotheses, references, backwards, captions_reversed, frequent)
    if kinds is not None:
        members: dict[str, list[int]] = {}
        for index, kind in enumerate(kinds):
            if kind is not None:
                members.setdefault(kind, []).append(index)
        if members:
            report["by_kind"] = {}
        for kind, indices in sorted(members.items()):
            part = _evaluate_some(indices, hypotheses, references, backwards, captions_reversed, frequent)
            report["by_kind"][kind] = {"clips": len(indices), **part["scores"], "controls": part["controls"]}
    return report


def _evaluate_some(
    indices: Sequence[int],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    backwards: Sequence[str] | None,
    captions_reversed: Sequence[str | None] | None,
    frequent: str | None,
) -> dict[str, Any]:
    truths = [references[index] for index in indices]
    guesses = [hypotheses[index] for index in indices]
    report: dict[str, Any] = {"scores": score_captions(guesses, truths), "controls": {}}
    controls: dict[str, Mapping[str, float]] = report["controls"]
    try:
        partners = other_clip_indices(truths)
    except NoOtherClipError:
        pass  # the promise of evaluate_captions: a control that cannot be run is left out
    else:
        controls["other_clip"] = score_captions([guesses[partner] for partner in partners], truths)
    if backwards is not None:
        played = [backwards[index] for index in indices]
        controls["reversed"] = score_captions(played, truths)
        if captions_reversed is not None:
            wanted = [captions_reversed[index] for index in indices]
            pairs = [(got, want) for got, want in zip(played, wanted, strict=True) if want is not None]
            hits = [_tokens(got) == _tokens(want) for got, want in pairs]
            if hits:
                controls["reversed"] = {**controls["reversed"], "exact_reversed": sum(hits) / len(hits)}
    if frequent is not None:
        controls["most_frequent"] = score_captions([frequent] * len(indices), truths)
    return report


def _tokens(caption: str) -> Tokens:
    return tuple(ptb_tokenize(caption))
