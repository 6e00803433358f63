"""Is the score owed to the video? The same captions scored again, each time with something taken away.

A caption depends on the clip alone, so that "captioned from another clip's frames" needs no further run of the model:
it is the other clip's caption, scored by this clip's references. Everything here works on strings; what captions
clips with something taken away is in `perturbations.py`.
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

PERTURBED = ("black", "noise", "one_frame", "shuffled", "reversed", "first_half", "no_video")  # need the model again


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
    perturbed: Mapping[str, Mapping[int, str]] | None = None,
    train_captions: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
    controls: Collection[str] = tuple(CONTROLS),
) -> dict[str, Any]:
    """Scores captions, and the controls beside them.

    Args:
        hypotheses: The model's caption of each clip.
        references: The true captions of each clip.
        backwards: The model's caption of each clip played backwards, for the control `reversed`.
        captions_reversed: What is true of each clip played backwards, `None` where that is not known or no different.
        perturbed: For other controls of [`PERTURBED`] the captions of some clips, by the number of the clip.
        train_captions: All captions of the training clips, for the control `most_frequent` and for `copies`.
        kinds: Each clip's kind. The clips of each kind are then scored on their own, document frequencies included.
        controls: Which of [`CONTROLS`] are wanted.

    Returns:
        `scores`; `controls`, by name in the order of [`CONTROLS`], each with the keys of `scores`, `meaning`, a
        sentence, `clips`, how many were captioned for it, and `gap`, `{"cider": [gap, low, high]}`: by how much the
        true captions of these clips score higher, with its 95 % interval ([`paired_bootstrap`]; left out of fewer
        than two clips). `reversed` also has `clips_with_reversed`, the number of clips whose reversed caption differs
        from the true ones, if there are any, and `exact_reversed`, the share of these that got exactly that when
        played backwards. `copies`, see [`copy_shares`], where `train_captions` are given; `verdict`, see [`judge`];
        where there are kinds, `by_kind`: for each the number of `clips`, the keys of `scores` and its `controls`
        other than `perturbed` ones. A control that cannot be run is left out: those whose captions are not given, and
        `other_clip` where a clip shares a caption with every other one.

    Raises:
        ValueError: The lengths differ, a control is unknown, or there is nothing to score.
    """
    given = {"backwards": backwards, "captions_reversed": captions_reversed, "kinds": kinds}
    for name, values in given.items():
        if values is not None and len(values) != len(hypotheses):
            raise ValueError(f"{len(hypotheses)} hypotheses but {len(values)} {name}: give one for each clip")
    for name in (*controls, *(perturbed or {})):
        if name not in CONTROLS:
            raise ValueError(f"there is no control {name!r}: there are {', '.join(CONTROLS)}")
    frequent = most_frequent_caption(train_captions) if train_captions else None

    def evaluate_some(indices: Sequence[int]) -> dict[str, Any]:
        truths = [references[index] for index in indices]
        guesses = [hypotheses[index] for index in indices]
        said: dict[str, list[str]] = {}
        if "other_clip" in controls and (partners := _partners(truths)) is not None:
            said["other_clip"] = [guesses[partner] for partner in partners]
        if "reversed" in controls and backwards is not None:
            said["reversed"] = [backwards[index] for index in indices]
        if "most_frequent" in controls and frequent is not None:
            said["most_frequent"] = [frequent] * len(indices)
        found = {name: _score_control(name, captions, guesses, truths) for name, captions in said.items()}
        if "reversed" in found and captions_reversed is not None:
            wanted = [captions_reversed[index] for index in indices]
            pairs = [
                (_tokens(got), _tokens(want))
                for got, want, alternatives in zip(said["reversed"], wanted, truths, strict=True)
                if want is not None and _tokens(want) not in map(_tokens, alternatives)
            ]
            if pairs:
                found["reversed"]["exact_reversed"] = sum(got == want for got, want in pairs) / len(pairs)
                found["reversed"]["clips_with_reversed"] = len(pairs)
        return {"scores": score_captions(guesses, truths), "controls": found}

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
        return None  # the promise of evaluate_captions: a control that cannot be run is left out


def _score_control(
    name: str, captions: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """What `evaluate_captions` returns of one control: `captions` in the place of `hypotheses`."""
    scored: dict[str, Any] = {
        **score_captions(captions, references),
        "meaning": CONTROLS[name].meaning,
        "clips": len(captions),
    }
    if len(captions) > 1:
        with_less, true = (scores_per_clip(each, references)["cider"] for each in (captions, hypotheses))
        scored["gap"] = {"cider": list(paired_bootstrap(with_less, true))}
    return scored


def _tokens(caption: str) -> Tokens:
    return tuple(ptb_tokenize(caption))
