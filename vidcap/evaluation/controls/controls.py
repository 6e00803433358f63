"""Controls that show whether a score depends on the video.

A caption depends on the clip alone, so "captioned from another clip's frames" needs no further run of the model: it is
the other clip's caption, scored by this clip's references. Everything here works on strings; `perturbations.py`
captions clips with something removed.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hub_card.labels import CONTROLS

from ..scores.bootstrap import paired_bootstrap, scores_per_clip
from ..scores.metrics import score_captions
from ..scores.ptb_tokenizer import ptb_tokenize
from .copies import copy_shares
from .verdict import judge

Tokens = tuple[str, ...]

PERTURBED = ("black", "noise", "one_frame", "shuffled", "reversed", "first_half", "no_video")  # run the model again


class NoOtherClipError(ValueError):
    """A clip shares a caption with every other clip."""


def most_frequent_caption(captions: Sequence[str]) -> str:
    """The most frequent caption after tokenisation; of equally frequent ones, the first.

    Raises:
        ValueError: There are no captions.
    """
    if not captions:
        raise ValueError("captions is empty: give at least one caption to find the most frequent one")
    tokenized = [_tokens(caption) for caption in captions]
    # Counter keeps the order of first appearance and `most_common` is stable.
    return captions[tokenized.index(Counter(tokenized).most_common(1)[0][0])]


def other_clip_indices(references: Sequence[Sequence[str]], *, seed: int = 0) -> list[int]:
    """Choose for each clip another one that shares no caption with it.

    Clips are matched one to one, so that each caption is judged once; where captions repeat too often for that, some
    clips are used twice.

    Args:
        references: The true captions of each clip.
        seed: Random seed.

    Returns:
        The index of each clip's partner; the captions of the two share no sentence after tokenisation.

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
        # Swap partners with a clip so that both pairs differ; otherwise use any clip that differs.
        candidates = generator.sample(range(len(references)), len(references))
        swap = next((i for i in candidates if differ(clip, partners[i]) and differ(i, partners[clip])), None)
        if swap is not None:
            partners[clip], partners[swap] = partners[swap], partners[clip]
            continue
        partner = next((other for other in candidates if differ(clip, other)), None)
        if partner is None:
            raise NoOtherClipError(
                f"every other clip shares a caption with clip {clip} ({references[clip][0]!r}): the control "
                "other_clip needs clips with different captions"
            )
        partners[clip] = partner
    return partners


def evaluate_captions(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    backwards: Sequence[str] | None = None,
    captions_reversed: Sequence[str | None] | None = None,
    perturbed: Mapping[str, Mapping[int, str]] | None = None,
    train_captions: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
    controls: Collection[str] = tuple(CONTROLS),
) -> dict[str, Any]:
    """Score captions, with controls and a verdict.

    Args:
        hypotheses: The model's caption of each clip.
        references: The true captions of each clip.
        backwards: The model's caption of each clip played backwards, for the control `reversed`.
        captions_reversed: The true caption of each clip played backwards, `None` where it is unknown or the same.
        perturbed: For other controls of [`PERTURBED`] the captions of some clips, by index of the clip.
        train_captions: All captions of the training clips, for the control `most_frequent` and for `copies`.
        kinds: The kind of each clip. Each kind is then also scored alone, with its own document frequencies.
        controls: Names from [`CONTROLS`].

    Returns:
        `scores`; `controls`, by name in the order of [`CONTROLS`], each with the keys of `scores`, `meaning`, a
        sentence, `clips`, the number captioned for it, and `gap`, `{"cider": [gap, low, high]}`: the difference to the
        score of the ordinary captions of these clips, with its 95 % interval ([`paired_bootstrap`]; omitted for fewer
        than two clips). `reversed` also has `clips_with_reversed`, the number of clips whose reversed caption differs
        from the true ones, if there are any, and `exact_reversed`, the share of these that got exactly this caption
        when played backwards. `copies`, see [`copy_shares`], with `train_captions`; `verdict`, see [`judge`]; with
        kinds `by_kind`: for each the number of `clips`, the keys of `scores` and its `controls` except `perturbed`
        ones. A control that cannot be run is omitted: without its captions, and `other_clip` where a clip shares a
        caption with every other clip.

    Raises:
        ValueError: The lengths differ, a control is unknown, or there are no clips.
    """
    columns = {"backwards": backwards, "captions_reversed": captions_reversed, "kinds": kinds}
    for name, values in columns.items():
        if values is not None and len(values) != len(hypotheses):
            raise ValueError(f"{len(hypotheses)} hypotheses but {len(values)} {name}: give one per clip")
    for name in (*controls, *(perturbed or {})):
        if name not in CONTROLS:
            raise ValueError(f"unknown control {name!r}: choose from {', '.join(CONTROLS)}")
    frequent = most_frequent_caption(train_captions) if train_captions else None

    def evaluate_some(indices: Sequence[int]) -> dict[str, Any]:
        truths = [references[index] for index in indices]
        guesses = [hypotheses[index] for index in indices]
        captions: dict[str, list[str]] = {}
        if "other_clip" in controls and (partners := _partners(truths)) is not None:
            captions["other_clip"] = [guesses[partner] for partner in partners]
        if "reversed" in controls and backwards is not None:
            captions["reversed"] = [backwards[index] for index in indices]
        if "most_frequent" in controls and frequent is not None:
            captions["most_frequent"] = [frequent] * len(indices)
        scored = {name: _score_control(name, captions[name], guesses, truths) for name in captions}
        if "reversed" in scored and captions_reversed is not None:
            reversed_truths = [captions_reversed[index] for index in indices]
            pairs = [
                (_tokens(guess), _tokens(truth))
                for guess, truth, alternatives in zip(captions["reversed"], reversed_truths, truths, strict=True)
                if truth is not None and _tokens(truth) not in map(_tokens, alternatives)
            ]
            if pairs:
                scored["reversed"]["exact_reversed"] = sum(guess == truth for guess, truth in pairs) / len(pairs)
                scored["reversed"]["clips_with_reversed"] = len(pairs)
        return {"scores": score_captions(guesses, truths), "controls": scored}

    report = evaluate_some(range(len(hypotheses)))
    for name, by_clip in (perturbed or {}).items():
        if name in controls and by_clip:
            guesses, truths = [hypotheses[clip] for clip in by_clip], [references[clip] for clip in by_clip]
            report["controls"][name] = _score_control(name, list(by_clip.values()), guesses, truths)
    report["controls"] = {name: report["controls"][name] for name in CONTROLS if name in report["controls"]}
    if train_captions:
        report["copies"] = copy_shares(hypotheses, references, train_captions)
    report["verdict"] = judge(report)
    members: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds or ()):
        if kind is not None:
            members.setdefault(kind, []).append(index)
    if members:
        report["by_kind"] = {}
    for kind, indices in sorted(members.items()):
        part = evaluate_some(indices)
        report["by_kind"][kind] = {"clips": len(indices), **part["scores"], "controls": part["controls"]}
    return report


def _partners(references: Sequence[Sequence[str]]) -> list[int] | None:
    try:
        return other_clip_indices(references)
    except NoOtherClipError:
        return None  # evaluate_captions omits a control that cannot be run


def _score_control(
    name: str, captions: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The result of one control: `captions` scored in place of `hypotheses`."""
    result: dict[str, Any] = {
        **score_captions(captions, references),
        "meaning": CONTROLS[name].meaning,
        "clips": len(captions),
    }
    if len(captions) > 1:
        control, ordinary = (scores_per_clip(texts, references)["cider"] for texts in (captions, hypotheses))
        result["gap"] = {"cider": list(paired_bootstrap(control, ordinary))}
    return result


def _tokens(caption: str) -> Tokens:
    return tuple(ptb_tokenize(caption))
