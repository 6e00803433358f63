"""The verdict: its rules on intervals made by hand, and, as a longer proof, four captioners with known faults."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from processing.clips.augmentation import ClipAugmentation
from train_hf import main as train
from vidcap.demo.demo_data import generate_demo_data
from vidcap.evaluation import copy_shares, evaluate_captions, find_copies, judge, verdict_text
from vidcap.evaluation.controls.verdict import answer

STEPS = 320


def report_of(score: float = 200.0, *, copies: dict[str, Any] | None = None, **gaps: tuple) -> dict[str, Any]:
    """A report with these gaps from the score; a fourth value is the control's share of exact captions."""
    controls = {
        name: {"cider": score - gap[0], "gap": {"cider": list(gap[:3])}, "exact": gap[3] if gap[3:] else 0.0}
        for name, gap in gaps.items()
    }
    return {"scores": {"cider": score}, "controls": controls, **({"copies": copies} if copies else {})}


def answers(report: dict[str, Any]) -> dict[str, str]:
    return {each["question"]: each["answer"] for each in judge(report)}


@pytest.mark.parametrize(
    ("gap", "low", "high", "said"),
    [
        (50, 40, 60, "yes"),
        (10, 0.5, 20, "yes"),  # just enough, and above 0
        (9, 5, 13, "unclear"),  # surely something, perhaps enough
        (5, 2, 8, "no"),  # surely something, surely too little
        (1.3, -0.4, 2.9, "no"),
        (-20, -30, -10, "no"),
        (4, -8, 16, "no"),
        (15, -5, 35, "unclear"),  # perhaps a lot, perhaps nothing
    ],
)
def test_an_answer_needs_both_an_interval_above_0_and_a_fair_share(gap, low, high, said):
    assert answer(gap, low, high, enough=10) == said
    assert answer(15, -5, 35, enough=10, negligible=40) == "no"


def test_motion_and_order_need_every_control_and_the_smallest_fall_is_told():
    looks = {"other_clip": (150, 140, 160)}
    sees = judge(report_of(**looks, one_frame=(90, 80, 100), shuffled=(60, 50, 70), reversed=(80, 70, 90)))
    assert [each["answer"] for each in sees] == ["yes", "yes", "yes", "not measured"]
    assert [each["gap"] for each in sees] == [150, 60, 60, None]
    assert sees[0]["sentence"] == (
        "sees objects: yes (+150.0 CIDEr over another clip's frames, 95 % interval +140.0 to +160.0)"
    )
    # A bag of frames gains by many frames, and loses nothing when they are shuffled.
    bag = report_of(**looks, one_frame=(90, 80, 100), shuffled=(1, -3, 5), reversed=(0, -3, 3))
    assert answers(bag) == {
        "sees objects": "yes",
        "sees motion": "no",
        "sees order": "no",
        "memorises": "not measured",
    }
    # Speed and shape of a movement, but not its direction.
    undirected = report_of(**looks, one_frame=(90, 80, 100), shuffled=(60, 50, 70), reversed=(0, -3, 3))
    assert answers(undirected)["sees motion"] == "yes" and answers(undirected)["sees order"] == "no"
    part = report_of(**looks, shuffled=(60, 50, 70))
    assert answers(part)["sees order"] == answers(part)["sees motion"] == "not measured"
    assert "no result for the control reversed" in judge(part)[2]["sentence"]


def test_the_worst_answer_counts_and_a_handful_of_clips_gives_none():
    looks = {"other_clip": (150, 140, 160)}
    # The smaller fall is certain, the larger one may be chance; the smaller one is too small, the larger one unclear.
    wide = report_of(**looks, one_frame=(30, -25, 85), shuffled=(20, 15, 25), reversed=(40, -10, 90))
    assert answers(wide)["sees motion"] == answers(wide)["sees order"] == "unclear"
    small = report_of(**looks, one_frame=(6, 4, 9), shuffled=(5, -30, 60), reversed=(80, 70, 90))
    assert answers(small)["sees motion"] == "no" and answers(small)["sees order"] == "unclear"
    few = report_of(**looks, one_frame=(90, 80, 100), shuffled=(60, 50, 70), reversed=(80, 70, 90))
    few["controls"]["reversed"]["clips"] = 19
    assert answers(few)["sees motion"] == "yes" and answers(few)["sees order"] == "not measured"
    assert "the control reversed has 19 clips, at least 20 are needed" in judge(few)[2]["sentence"]


def test_a_fall_is_a_share_of_the_score_of_the_clips_that_it_was_measured_on():
    # Document frequencies of the clips of a control may put its CIDEr on twice the scale of that of all clips.
    report = report_of(
        other_clip=(150, 140, 160), one_frame=(90, 80, 100), shuffled=(15, 11, 19), reversed=(14, 11, 17)
    )
    assert answers(report)["sees motion"] == answers(report)["sees order"] == "yes"
    report["controls"]["shuffled"]["cider"] += 200.0
    assert answers(report)["sees motion"] == answers(report)["sees order"] == "no"
    assert (
        "+15.0 CIDEr over shuffled frames" in judge(report)[2]["sentence"]
    )  # the smaller share, not the smaller fall


def test_a_no_says_what_it_can_mean():
    def sentence(**gaps: tuple) -> str:
        report = report_of(other_clip=(150, 140, 160), shuffled=(90, 80, 100), **gaps)
        return judge(report)[2]["sentence"]

    assert "these captions do not need it: they remain exactly right" in sentence(reversed=(0, -1, 1, 0.98))
    assert "either these captions do not need it, or the captioner" in sentence(reversed=(0, -1, 1, 0.5))
    report = report_of(other_clip=(150, 140, 160), shuffled=(1, -1, 3, 0.2), reversed=(4, -1, 7, 0.2))
    report["controls"]["reversed"] |= {"exact_reversed": 0.0, "clips": 40, "clips_with_reversed": 10}
    assert "these captions need it" in judge(report)[2]["sentence"]
    report["controls"]["reversed"]["clips_with_reversed"] = 9  # too few to speak for all
    assert "either these captions do not need it" in judge(report)[2]["sentence"]


def test_a_captioner_that_does_not_look_sees_neither_motion_nor_order():
    # Chance at a low score: each interval holds 0, or is just above it, and no share of next to nothing can be told.
    report = report_of(12, other_clip=(0.5, -6, 7), one_frame=(3, 1, 5), shuffled=(2, 0.5, 4), reversed=(1, -5, 7))
    assert set(answers(report).values()) == {"no", "not measured"}
    assert "ignores the clip" in judge(report)[1]["sentence"]


@pytest.mark.parametrize(
    ("share", "low", "high", "clips", "said"),
    [
        (0.9, 0.8, 0.95, 50, "yes"),
        (0.1, 0.0, 0.2, 50, "no"),
        (0.5, 0.4, 0.6, 50, "unclear"),
        (1.0, 1.0, 1.0, 19, "not measured"),
    ],
)
def test_reciting_is_judged_on_clips_whose_truth_training_lacks(share, low, high, clips, said):
    copies = {"unseen_clips": clips, "share_of_unseen": [share, low, high]}
    assert answers(report_of(other_clip=(0, 0, 0), copies=copies))["memorises"] == said


def test_copies_are_found_after_tokenisation_and_told_from_novel_captions():
    train_captions = ["a dog runs", "a cat sleeps", "a cat sleeps"]
    hypotheses = ["A dog runs.", "a cat sleeps", "a bird sings", "a fish"]
    references = [["a dog runs"], ["a bird sings"], ["a bird sings"], ["a cow"]]
    assert find_copies(hypotheses, train_captions) == [True, True, False, False]
    shares = copy_shares(hypotheses, references, train_captions)
    assert shares["share"] == 0.5 and shares["share_of_wrong"] == 0.5 and shares["novel"] == 0.25
    assert shares["unseen_clips"] == 3 and shares["share_of_unseen"][0] == pytest.approx(1 / 3)
    assert copy_shares(["a dog"], [["a dog"]], ["a cow"])["share_of_wrong"] is None
    # What has no token is like nothing, and a share of 0 has an interval with a width.
    assert find_copies(["🐱", ""], ["🐶", ""]) == [False, False]
    share, low, high = copy_shares(["🐱"] * 10, [["🐶"]] * 10, ["🐶"])["share_of_unseen"]
    assert share == low == 0 and high == pytest.approx(0.2775, abs=1e-4)


def test_captions_of_known_captioners_get_their_verdict_from_strings_alone():
    colours, acts = "red green blue black white pink".split(), "runs jumps sleeps turns grows".split()
    pairs = [(one, two) for one in acts for two in acts if one != two]
    truths = [f"a {colour} dog {one} and then {two}" for colour in colours for one, two in pairs]
    swapped = [f"a {colour} dog {two} and then {one}" for colour in colours for one, two in pairs]
    references = [[truth] for truth in truths]
    anything: dict[str, Any] = {"train_captions": ["a red dog runs and then jumps"]}

    def answers_of(hypotheses: list[str], backwards: list[str], shuffled: list[str]) -> dict[str, str]:
        still = dict(enumerate(["a dog runs"] * len(truths)))
        others = {"one_frame": still, "shuffled": dict(enumerate(shuffled))}
        report = evaluate_captions(hypotheses, references, backwards=backwards, perturbed=others, **anything)
        assert verdict_text(report["verdict"]).count("\n") == 4
        return {each["question"]: each["answer"] for each in report["verdict"]}

    good = answers_of(truths, swapped, random.Random(0).sample(truths, len(truths)))
    assert good == {"sees objects": "yes", "sees motion": "yes", "sees order": "yes", "memorises": "no"}
    bag = [random.Random(index).choice(pair) for index, pair in enumerate(zip(truths, swapped, strict=True))]
    assert answers_of(bag, bag, bag)["sees order"] == "no"
    constant = [truths[0]] * len(truths)
    said = answers_of(constant, constant, constant)
    assert said == {"sees objects": "no", "sees motion": "no", "sees order": "no", "memorises": "yes"}


# ---- the longer proof: each of four captioners, five seeds --------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets beside each other: `good`, `blind` with its training captions dealt out anew, `memorises` with the
    first 20 training clips. `$VIDCAP_CACHE` keeps the features from one run to the next."""
    root = tmp_path_factory.mktemp("verdict")
    generate_demo_data(root / "good", train=2000, validation=64, test=200)
    rows = [json.loads(line) for line in (root / "good/train/metadata.jsonl").read_text().splitlines()]
    captions = random.Random(0).sample([row["caption"] for row in rows], len(rows))
    some = {
        "blind": [{**row, "caption": caption} for row, caption in zip(rows, captions, strict=True)],
        "memorises": rows[:20],  # of 60 it puts parts of sentences together anew: 27 % copies
    }
    for name, chosen in some.items():
        shutil.copytree(root / "good", root / name, copy_function=os.link)
        metadata = root / name / "train/metadata.jsonl"
        metadata.unlink()  # it is a link: the original must stay
        metadata.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["good", "blind", "timeless", "memorises"])
def test_four_captioners_with_known_faults_get_the_right_verdict(kind, seed, demo, tmp_path, monkeypatch):
    data, output = demo / ("good" if kind == "timeless" else kind), tmp_path / "model"
    options: dict[str, Any] = {
        "dataset": data, "output_dir": output, "seed": seed, "image_size": 96, "max_caption_length": 24,
        "feature_cache": os.environ.get("VIDCAP_CACHE", demo / "cache"), "decoding_workers": 1, "frame_pool": 32,
        "hidden_size": 128, "intermediate_size": 512, "encoder_layers": 0, "contrastive_weight": 0, "num_beams": 1,
        "max_steps": STEPS, "eval_strategy": "steps", "eval_steps": STEPS, "word_dropout_warmup": 0,
        "word_dropout": 0.8, "color_dropout": 0.5,
    }  # fmt: skip
    if kind == "memorises":  # nothing that keeps it from learning sentences by heart
        options |= dict.fromkeys(("word_dropout", "color_dropout", "dropout", "label_smoothing"), 0)
        options |= {"weight_decay": 0.01, "frame_pool": 16, "per_device_train_batch_size": 20}
        del options["word_dropout_warmup"]
    if kind == "timeless":
        augment = ClipAugmentation.__call__

        def shuffle(self: ClipAugmentation, clip: dict[str, Any], *args: Any) -> dict[str, Any]:
            drawn = augment(self, clip, *args)
            length = int(drawn["video_mask"].sum())
            order = torch.cat([torch.randperm(length), torch.arange(length, len(drawn["video_mask"]))])
            return {**drawn, "video_features": drawn["video_features"][order]}

        monkeypatch.setattr(ClipAugmentation, "__call__", shuffle)
    assert train([part for name, value in options.items() for part in (f"--{name}", str(value))]) == 0
    report = json.loads((output / "report.json").read_text())
    said = {each["question"]: each["answer"] for each in report["verdict"]}
    print(kind, seed, report["scores"], verdict_text(report["verdict"]), sep="\n")
    if kind == "memorises":
        assert said["memorises"] == "yes", report["verdict"]
        return
    assert said["sees objects"] == ("no" if kind == "blind" else "yes"), report["verdict"]
    for question in ("sees motion", "sees order"):
        assert said[question] == ("yes" if kind == "good" else "no"), report["verdict"]
    if kind != "blind":  # which recites, too, or not, as the language of training has it
        assert said["memorises"] == "no", report["verdict"]
