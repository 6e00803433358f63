"""The verdict: whether a captioner sees objects, motion and order, or recites training captions.

A question is answered by the fall of CIDEr under controls that remove what it asks for, with a paired bootstrap
interval over clips, as a share of the ordinary captions' CIDEr on the clips of that control (on other clips document
frequencies, and with them the scale, differ):

- yes: the interval is above 0, and the fall reaches a fair share of that score (`SHARES`);
- no: the whole interval is below that share, or it contains 0 and its upper end is below twice that share;
- unclear: anything else. More clips would decide.

Where several controls remove the same thing, CIDEr must fall under all of them: both a still and a shuffled clip lack
motion, both a shuffled and a reversed clip lack order. The worst answer counts, and of equal answers the one with the
smallest share. A captioner that ignores the clip sees neither.

Guarantees: no answer where a control was not run, or ran on a handful of clips.

Limitations: a captioner that cannot see something and one that need not see it look alike. "No" to order also fits
captions that need none; the sentence says so unless the data themselves show the need.
"""

from collections.abc import Mapping
from typing import Any

from hub_card.labels import control_label

SHARES = {"sees objects": 0.25, "sees motion": 0.05, "sees order": 0.05}  # of the score that the fall must reach
NEGLIGIBLE = 10.0  # CIDEr; shares of smaller scores cannot be told from chance
CONTROLS_OF = {
    "sees objects": ("other_clip",),
    "sees motion": ("one_frame", "shuffled"),
    "sees order": ("shuffled", "reversed"),
}
MOSTLY = 0.5  # share of copies among clips whose true captions are not in training, above which they are recited
MIN_CLIPS = 20  # intervals of fewer clips promise too much
_WORST_FIRST = ("no", "unclear", "yes")
TOLD_BACKWARDS = 0.25  # share of clips with another true caption backwards, at which captions need the order
RIGHT = 0.9  # share of exact captions under a control, at which captions do not need what it removes


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Judge a captioner.

    Args:
        report: `controls` and, if known, `copies`, see [`evaluate_captions`].

    Returns:
        For each question `question`, `answer` (`yes`, `no`, `unclear` or `not measured`), `gap`, `low`, `high` (in
        CIDEr, for `memorises` a share; `None` where not measured) and `sentence`.
    """
    controls = report["controls"]
    objects = _ask("sees objects", controls)
    others = [_ask(question, controls) for question in ("sees motion", "sees order")]
    for result in others:
        if objects["answer"] == "no" and result["answer"] in ("unclear", "yes"):
            result["answer"], result["why"] = "no", "; the captioner ignores the clip"
        elif result["answer"] == "no" and objects["answer"] != "no":
            result["why"] = _why_not(result, report)
    return [_with_sentence(result) for result in (objects, *others)] + [_judge_copies(report.get("copies"))]


def verdict_text(verdict: list[dict[str, Any]]) -> str:
    """The sentences of a verdict, one per line."""
    return "".join(f"{result['sentence']}\n" for result in verdict)


def answer(gap: float, low: float, high: float, *, enough: float, negligible: float = 0.0) -> str:
    """`yes`, `no` or `unclear`, by the rule above.

    Args:
        gap, low, high: The fall of the score and its interval.
        enough: The fall needed for `yes`.
        negligible: A fall that is insignificant where the interval contains 0.
    """
    if low > 0 and gap >= enough:
        return "yes"
    if high < enough or (low <= 0 and high < max(2 * enough, negligible)):
        return "no"
    return "unclear"


def _ask(question: str, controls: Mapping[str, Any]) -> dict[str, Any]:
    """The worst answer of the question's controls; of equal answers, the one of the smallest share."""
    gaps = {name: controls[name]["gap"]["cider"] for name in CONTROLS_OF[question] if "gap" in controls.get(name, {})}
    scores = {name: controls[name]["cider"] + gap for name, (gap, _, _) in gaps.items()}  # of the ordinary captions
    if missing := [name for name in CONTROLS_OF[question] if name not in gaps]:
        return {"question": question, "answer": "not measured", "missing": missing}
    if few := [name for name in gaps if controls[name].get("clips", MIN_CLIPS) < MIN_CLIPS]:
        return {"question": question, "answer": "not measured", "few": controls[few[0]]["clips"], "missing": few}
    negligible = NEGLIGIBLE if question == "sees objects" else 0.0
    answers = {
        name: answer(*gaps[name], enough=SHARES[question] * scores[name], negligible=negligible) for name in gaps
    }

    def worst_first(name: str) -> tuple[int, float]:
        share = gaps[name][0] / scores[name] if scores[name] else 0.0
        return _WORST_FIRST.index(answers[name]), share

    control = min(gaps, key=worst_first)
    gap, low, high = gaps[control]
    return {"question": question, "answer": answers[control], "control": control, "gap": gap, "low": low, "high": high}


def _why_not(result: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Explain a "no" of a captioner that depends on the clips."""
    controls = report["controls"]
    if controls[result["control"]].get("exact", 0.0) >= RIGHT:
        return "; these captions do not need it: they remain exactly right"
    backwards = controls.get("reversed", {})
    changed = backwards.get("clips_with_reversed", 0)
    if result["question"] == "sees order" and changed and changed >= TOLD_BACKWARDS * backwards["clips"]:
        return "; these captions need it: clips played backwards have other true captions"
    return "; either these captions do not need it, or the captioner does not use it"


def _with_sentence(result: dict[str, Any]) -> dict[str, Any]:
    question, said = result["question"], result["answer"]
    if said == "not measured":
        why = f"no result for the control {' or '.join(result['missing'])}"
        if "few" in result:
            why = f"the control {result['missing'][0]} has {result['few']} clips, at least {MIN_CLIPS} are needed"
        sentence = f"{question}: not measured ({why})"
        return {"question": question, "answer": said, "gap": None, "low": None, "high": None, "sentence": sentence}
    gap, low, high = result["gap"], result["low"], result["high"]
    sentence = (
        f"{question}: {said} ({gap:+.1f} CIDEr over {control_label(result['control'])}, 95 % interval {low:+.1f} to "
        f"{high:+.1f}{result.get('why', '')})"
    )
    return {"question": question, "answer": said, "gap": gap, "low": low, "high": high, "sentence": sentence}


def _judge_copies(copies: Mapping[str, Any] | None) -> dict[str, Any]:
    question = "memorises"
    unknown = {"question": question, "answer": "not measured", "gap": None, "low": None, "high": None}
    if copies is None:
        return {**unknown, "sentence": f"{question}: not measured (the training captions are unknown)"}
    clips = copies["unseen_clips"]
    if clips < MIN_CLIPS:
        why = f"{clips} clips have true captions that do not occur in training, at least {MIN_CLIPS} are needed"
        return {**unknown, "sentence": f"{question}: not measured ({why})"}
    share, low, high = copies["share_of_unseen"]
    said = "yes" if low >= MOSTLY else "no" if high <= MOSTLY else "unclear"
    sentence = (
        f"{question}: {said} (of {clips} clips whose true captions do not occur in training, {share:.0%} get a "
        f"training caption word for word, 95 % interval {low:.0%} to {high:.0%})"
    )
    return {"question": question, "answer": said, "gap": share, "low": low, "high": high, "sentence": sentence}
