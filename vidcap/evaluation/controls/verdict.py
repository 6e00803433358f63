"""What the controls say, in plain words: does the captioner see objects, motion and order, or does it recite?

A question is answered by how far CIDEr falls when what it asks for is taken away, with a paired bootstrap interval
over clips, as a share of the true captions' CIDEr on the clips of that control (on other clips document frequencies,
and with them the scale, are others):

- yes: the interval lies above 0, and the fall is a fair share of that score (`SHARES`);
- no: the whole interval lies below that share, or it holds 0 and even its upper end is below twice that share;
- unclear: anything else. More clips would tell.

Where several things take the same away, all of them must hurt: motion is what both a standing and a shuffled clip
lack, order what both a shuffled and a reversed clip lack; the worst answer counts, of equal ones that with the
smallest share. A captioner that does not look at the clip sees neither.

Promises: no answer where nothing, or only a handful of clips, was measured. Gives up: telling a captioner that cannot
see from one that need not. "No" to order also fits captions that need none; the sentence says so unless the data
themselves show the need.
"""

from collections.abc import Mapping
from typing import Any

from hub_card.labels import control_label

SHARES = {"sees objects": 0.25, "sees motion": 0.05, "sees order": 0.05}  # of the score, which the fall must reach
NEGLIGIBLE = 10.0  # CIDEr: where the score itself is next to nothing, no share of it can be told from chance
CONTROLS_OF = {
    "sees objects": ("other_clip",),
    "sees motion": ("one_frame", "shuffled"),
    "sees order": ("shuffled", "reversed"),
}
MOSTLY = 0.5  # of the clips whose truth training lacks: copies beyond it are recitation
MIN_CLIPS = 20  # below which nothing is judged: intervals of fewer clips promise too much
_WORST_FIRST = ("no", "unclear", "yes")
TOLD_BACKWARDS = 0.25  # share of clips with another caption backwards, at which captions need the order
RIGHT = 0.9  # share of exact captions at which what was taken away is plainly not needed


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict on a captioner.

    Args:
        report: `controls` and, if known, `copies`, see [`evaluate_captions`].

    Returns:
        For each question `question`, `answer` (`yes`, `no`, `unclear` or `not measured`), `gap`, `low`, `high` (in
        CIDEr, of `memorises` a share; `None` where not measured) and `sentence`.
    """
    controls = report["controls"]
    looks = _ask("sees objects", controls)
    others = [_ask(question, controls) for question in ("sees motion", "sees order")]
    for each in others:
        if looks["answer"] == "no" and each["answer"] in ("unclear", "yes"):
            each["answer"], each["why"] = "no", "; it does not look at the clip"
        elif each["answer"] == "no" and looks["answer"] != "no":
            each["why"] = _why_not(each, report)
    return [_tell(each) for each in (looks, *others)] + [_judge_copies(report.get("copies"))]


def verdict_text(verdict: list[dict[str, Any]]) -> str:
    """The sentences of a verdict, a line each."""
    return "".join(f"{each['sentence']}\n" for each in verdict)


def answer(gap: float, low: float, high: float, *, enough: float, negligible: float = 0.0) -> str:
    """`yes`, `no` or `unclear`, by the rule above.

    Args:
        gap, low, high: By how much the score falls, and the interval.
        enough: What it must fall by.
        negligible: A fall that counts for nothing where the interval holds 0.
    """
    if low > 0 and gap >= enough:
        return "yes"
    if high < enough or (low <= 0 and high < max(2 * enough, negligible)):
        return "no"
    return "unclear"


def _ask(question: str, controls: Mapping[str, Any]) -> dict[str, Any]:
    """The worst of the answers by each control, of equal ones that by the control that hurts least; it is named."""
    found = {name: controls[name]["gap"]["cider"] for name in CONTROLS_OF[question] if "gap" in controls.get(name, {})}
    scores = {name: controls[name]["cider"] + gap for name, (gap, _, _) in found.items()}  # of the true captions
    if not found or set(found) != set(CONTROLS_OF[question]):
        missing = [name for name in CONTROLS_OF[question] if name not in found]
        return {"question": question, "answer": "not measured", "missing": missing}
    if few := [name for name in found if controls[name].get("clips", MIN_CLIPS) < MIN_CLIPS]:
        return {"question": question, "answer": "not measured", "few": controls[few[0]]["clips"], "missing": few}
    negligible = NEGLIGIBLE if question == "sees objects" else 0.0
    answers = {
        name: answer(*found[name], enough=SHARES[question] * scores[name], negligible=negligible) for name in found
    }

    def worst_first(name: str) -> tuple[int, float]:
        share = found[name][0] / scores[name] if scores[name] else 0.0
        return _WORST_FIRST.index(answers[name]), share

    control = min(found, key=worst_first)
    gap, low, high = found[control]
    return {"question": question, "answer": answers[control], "control": control, "gap": gap, "low": low, "high": high}


def _why_not(asked: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What a "no" of a captioner that looks at the clips can mean."""
    controls = report["controls"]
    if controls[asked["control"]].get("exact", 0.0) >= RIGHT:
        return "; these captions do not need it: they stay exactly right"
    backwards = controls.get("reversed", {})
    told = backwards.get("clips_with_reversed", 0)
    if asked["question"] == "sees order" and told and told >= TOLD_BACKWARDS * backwards["clips"]:
        return "; the captions need it, since clips played backwards have others"
    return "; either these captions do not need it, or the captioner does not use it"


def _tell(asked: dict[str, Any]) -> dict[str, Any]:
    question, said = asked["question"], asked["answer"]
    if said == "not measured":
        why = f"no result of the control {' or '.join(asked['missing'])}"
        if "few" in asked:
            why = f"only {asked['few']} clips had the control {asked['missing'][0]}, {MIN_CLIPS} are needed"
        sentence = f"{question}: not measured ({why})"
        return {"question": question, "answer": said, "gap": None, "low": None, "high": None, "sentence": sentence}
    gap, low, high = asked["gap"], asked["low"], asked["high"]
    less = control_label(asked["control"])
    sentence = f"{question}: {said} ({gap:+.1f} CIDEr over {less}, 95 % interval {low:+.1f} to {high:+.1f}"
    sentence += f"{asked.get('why', '')})"
    return {"question": question, "answer": said, "gap": gap, "low": low, "high": high, "sentence": sentence}


def _judge_copies(copies: Mapping[str, Any] | None) -> dict[str, Any]:
    question = "memorises"
    unknown = {"question": question, "answer": "not measured", "gap": None, "low": None, "high": None}
    if copies is None:
        return {**unknown, "sentence": f"{question}: not measured (the training captions are not known)"}
    clips = copies["unseen_clips"]
    if clips < MIN_CLIPS:
        why = f"only {clips} clips have captions that training lacks, {MIN_CLIPS} are needed"
        return {**unknown, "sentence": f"{question}: not measured ({why})"}
    share, low, high = copies["share_of_unseen"]
    said = "yes" if low >= MOSTLY else "no" if high <= MOSTLY else "unclear"
    sentence = f"{question}: {said} ({share:.0%} of the captions of {clips} clips whose truth training lacks are "
    sentence += f"training captions word for word, 95 % interval {low:.0%} to {high:.0%})"
    return {"question": question, "answer": said, "gap": share, "low": low, "high": high, "sentence": sentence}
