"""The report: complete, escaped, self-contained, honest about what is missing."""

import base64
import hashlib
import io
import json
import re
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from vidcap.evaluation.report.clip_pictures import ReportExample
from vidcap.evaluation.report.curves import plot_history
from vidcap.evaluation.report.report import SCHEMA_VERSION, write_report

SCORES = {"cider": 512.3, "bleu1": 91.1, "bleu2": 82.2, "bleu3": 73.3, "bleu4": 64.4, "rougeL": 85.5}
REPORT = {
    "scores": {**SCORES, "exact": 0.954, "distinct": 0.876},
    "controls": {
        "other_clip": {**SCORES, "cider": 31.7, "exact": 0.013, "distinct": 0.871},
        "reversed": {**SCORES, "cider": 77.9, "exact": 0.052, "distinct": 0.869, "exact_reversed": 0.918},
        "most_frequent": {**SCORES, "cider": 20.6, "exact": 0.021, "distinct": 0.002},
    },
    "by_kind": {"action <b>": {"cider": 498.7, "exact": 0.903, "clips": 89}},
    "train_seconds": 231.4,
    "total_seconds": 42.5,
    "peak_rss_mb": 1893.2,
    "parameters": 4412345,
    "versions": {"torch": "2.14.1"},
    "skipped_clips": [{"file_name": "broken.gif", "reason": "no <frames> at all"}],
    "dataset": "clips & more",
}
HISTORY = [
    {"loss": 2.5, "learning_rate": 1e-3, "step": 10, "epoch": 0.5},
    {"eval_cider": 120.0, "eval_exact": 0.1, "eval_loss": 2.0, "eval_distinct": 0.4, "step": 10},
    {"loss": 1.5, "step": 20},
    {"train_runtime": 3.0, "step": 20},
]


def example(i: int = 0, *, exact: bool = True, num_frames: int = 12, **texts) -> ReportExample:
    frames = np.full((num_frames, 20, 30, 3), 10 * i % 256, dtype=np.uint8)
    truth = "a dog runs and then jumps"
    hypothesis = truth if exact else "a cat runs and then jumps"
    return ReportExample(f"clip{i}.mp4", frames, texts.pop("hypothesis", hypothesis), [truth], exact, **texts)


def write(tmp_path, report=REPORT, *, examples=(), history=()) -> str:
    write_report(tmp_path, report, examples=list(examples), history=history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|script)>.*?</\1>", "", page))).split())


def test_every_number_is_on_the_page_and_the_json_is_the_report(tmp_path):
    page = text_of(write(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text()) == {"schema_version": SCHEMA_VERSION, **REPORT}
    for row in (
        "captions from CIDEr BLEU-1 BLEU-2 BLEU-3 BLEU-4 ROUGE-L exact distinct exact, backwards",
        "this model 512.3 91.1 82.2 73.3 64.4 85.5 95.4 % 87.6 % –",
        "another clip's frames 31.7 91.1 82.2 73.3 64.4 85.5 1.3 % 87.1 % –",
        "the clip played backwards 77.9 91.1 82.2 73.3 64.4 85.5 5.2 % 86.9 % 91.8 %",
        "most frequent training caption 20.6 91.1 82.2 73.3 64.4 85.5 2.1 % 0.2 % –",
        "action <b> 498.7 90.3 % 89",
        "training 3 min 51 s",
        "whole run 42.5 s",
        "peak memory 1,893 MB",
        "parameters 4,412,345",
        "torch 2.14.1",
        "dataset clips & more",
        "broken.gif no <frames> at all",
    ):
        assert row in page, row


def test_page_loads_nothing_but_its_own_script_and_is_well_formed(tmp_path):
    page = write(tmp_path, examples=[example(), example(1, exact=False)], history=HISTORY)
    open_tags, loaded, policies = [], [], []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in {"link", "iframe", "object"} and (tag != "script" or not attributes)
            assert not any(name.startswith("on") for name, _ in attributes)
            assert tag != "img" or dict(attributes).get("alt")
            sources = {"src", "srcset", "href", "data", "poster", "data-animation"}
            loaded.extend(value for name, value in attributes if name in sources)
            if dict(attributes).get("http-equiv") == "Content-Security-Policy":
                policies.append(dict(attributes)["content"])
            if tag not in {"meta", "img", "source", "input"}:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert not open_tags
    assert len(loaded) == 6  # two strips, two animations, the curves for light and dark
    for address in loaded:
        kind, content = re.fullmatch(r"data:image/(png|jpeg|webp);base64,(\S+)", address).groups()
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.format.lower() == kind
            image.load()
    assert not re.search(r"https?://|url\(|@import", page)
    (script,) = re.findall(r"(?s)<script>(.*?)</script>", page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policies[0]


def test_texts_are_escaped(tmp_path):
    evil = "<script>alert('x')</script> \" & <img src=x onerror=y>"
    shown = ReportExample(evil, example().frames, evil, [evil, "b"], False, controls={"reversed": evil, evil: evil})
    pairs = [{"truth": evil, "caption": evil, "count": 1}]
    page = write(
        tmp_path,
        {
            "scores": {"cider": 1.0, evil: 2.0},
            "controls": {evil: {"cider": 0.5, "meaning": evil}},
            "baselines": {evil: {"cider": 0.5}},
            "verdict": [{"question": evil, "answer": evil, "gap": 1, "low": 0, "high": 2, "sentence": evil}],
            "grounding": {"words": {evil: {"count": 1, "probability": 0.5, "without_video": 0.25, "fall": 0.25}}},
            "errors": {
                "confusions": {evil: {"mistakes": 1, "right": 1, "pairs": pairs}},
                "groups": {evil: {evil: {"clips": 1, evil: 1.0}}},
            },
            "by_kind": {evil: {evil: 1.0}},
            "coverage": {evil: 1},
            "versions": {evil: evil},
            "skipped_clips": [{"file_name": evil, "reason": evil}],
            evil: evil,
        },
        examples=[shown],
    )
    assert page.count("<script") == 1 and "onerror=y>" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)") > 20


def test_what_the_report_holds_is_told(tmp_path):
    shuffled = {"cider": 400.0, "meaning": "The frames in another order.", "gap": {"cider": [112.3, 99.5, 120]}}
    colours = {"mistakes": 2, "right": 6, "pairs": [{"truth": "red", "caption": "blue", "count": 2}]}
    report = {
        **REPORT,
        "controls": {"shuffled": shuffled},
        "baselines": {"nearest neighbour": {"cider": 100.0, "gap": {"cider": [412.3, 400.0, 420.3]}}},
        "verdict": [
            {"question": "sees objects", "answer": "yes", "sentence": "sees objects: yes (+112.3)"},
            {"question": "memorises", "answer": "yes", "sentence": "memorises: yes (80 %)"},
            {"question": "sees order", "answer": "not measured", "sentence": "sees order: not measured"},
        ],
        "grounding": {"words": {"dog": {"count": 3, "probability": 0.75, "without_video": 0.25, "fall": 0.5}}},
        "copies": {"share": 0.25, "share_of_wrong": 0.5, "novel": 0.75},
        "coverage": {"asked": 10, "scored": 9},
        "scoring": {
            "tokenizer": "ptb",
            "references_per_clip": {"min": 1, "median": 2, "max": 3},
            "document_frequencies": "the references of these 9 clips",
        },
        "errors": {
            "groups": {"duration": {"1 to 2 s": {"clips": 4, "cider": 99.5, "exact": 0.5}}},
            "confusions": {"colours": colours},
        },
    }
    page = text_of(write(tmp_path, report))
    for row in (
        "✓ sees objects: yes (+112.3) ! memorises: yes (80 %) ? sees order: not measured",
        "shuffled frames +112.3 [+99.5, +120.0] 400.0",
        "nearest neighbour +412.3 [+400.0, +420.3] 100.0",
        "shuffled frames The frames in another order.",
        "Clips: 10 asked, 9 scored; tokenizer ptb; 1 to 3 references per clip (median 2); document frequencies",
        "duration CIDEr exact clips 1 to 2 s 99.5 50.0 % 4",
        "colours: 2 of 8 wrong truth caption times red blue 2",
        "dog 3 75.0 % 25.0 % 50.0 %",
        "captions copied from training 25.0 %",
    ):
        assert row in page, row


def test_examples_say_in_words_what_is_wrong_and_where(tmp_path):
    shown = [example(i, exact=i % 3 > 0) for i in range(60)]
    shown[0].controls = {"reversed": "a dog jumps and then runs", "other_clip": "a fish", "shuffled": ""}
    shown[1].score = 123.45
    page = write(tmp_path, {**REPORT, "clips": 60}, examples=shown)
    assert page.count("✗ differs") == page.count("<mark>cat</mark>") == page.count("<mark>") == 14
    assert page.count("✓ exact") == 26
    assert "40 of 60 clips" in page and "clip1.mp4 · CIDEr 123.5" in text_of(page)
    words = "played backwards a dog jumps and then runs another clip's frames a fish shuffled frames (empty)"
    assert words in text_of(page)


def test_captions_of_any_length_leave_the_page_small(tmp_path):
    long = " ".join(f"word{i}" for i in range(10_000))
    frames = example().frames
    shown = [
        ReportExample("a.gif", frames, long, [long], True),
        ReportExample("b.gif", frames, "x" * 100_000, ["犬が走る 🐕"] * 20, False, controls={"reversed": long}),
    ]
    page = write(tmp_path, examples=shown)
    assert len(page) < 60_000 and "犬が走る 🐕" in page
    assert page.count("(of 10,000 words)") == 4 and "and 15 more" in page


def test_strip_and_animation_go_from_the_first_frame_to_the_last(tmp_path):
    frames = torch.zeros(100, 200, 200, 3, dtype=torch.uint8)
    frames[0], frames[-1] = 255, 200
    clips = [ReportExample("a.gif", frames, "a", ["a"], True, seconds=3.2), example(num_frames=1)]
    page = write(tmp_path, examples=clips)
    many, one = [
        Image.open(io.BytesIO(base64.b64decode(content))) for content in re.findall(r"jpeg;base64,([^\"]+)", page)
    ]
    assert many.size == (8 * 96 + 7 * 2, 96) and one.size == (144, 96)
    assert many.getpixel((50, 50))[0] > 250 and abs(many.getpixel((many.width - 50, 50))[0] - 200) < 5
    (content,) = re.findall(r"webp;base64,([^\"]+)", page)  # a single frame does not play
    animation = Image.open(io.BytesIO(base64.b64decode(content)))
    assert animation.size == (160, 160)
    durations, values = [], []
    for index in range(animation.n_frames):
        animation.seek(index)
        animation.load()
        durations.append(animation.info["duration"])
        values.append(animation.convert("RGB").getpixel((80, 80))[0])
    assert sum(durations) == pytest.approx(3200, abs=20)
    assert values[0] > 245 and abs(values[-1] - 200) < 10


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_is_refused_and_no_bad_picture_takes_the_scores_away(tmp_path, number):
    with pytest.raises(ValueError, match="cannot hold NaN"):
        write_report(tmp_path / "out", {"scores": {"cider": number}}, examples=[])
    assert not (tmp_path / "out").exists()
    bad = ReportExample("bad.mp4", np.zeros((4, 3, 8, 8), np.uint8), "a", ["a"], True)
    with pytest.raises(ValueError, match=r"bad.mp4: frames of type uint8 and shape \(4, 3, 8, 8\)"):
        write_report(tmp_path / "out", REPORT, examples=[bad])
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["report.json"]


@pytest.mark.parametrize("shape", [(4, 640), (1, 2000), (2000, 1)])
def test_clips_of_any_proportions_have_their_picture(tmp_path, shape):
    frames = np.full((9, *shape, 3), 255, np.uint8)
    write_report(tmp_path, REPORT, examples=[ReportExample("odd.gif", frames, "a", ["a"], True)])
    page = (tmp_path / "report.html").read_text()
    (strip,) = (Image.open(io.BytesIO(base64.b64decode(each))) for each in re.findall(r"jpeg;base64,([^\"]+)", page))
    assert strip.height == 96 and strip.width <= 8 * 4 * 96 + 7 * 2


def test_missing_parts_are_called_missing(tmp_path):
    page = text_of(write(tmp_path, {"scores": {"cider": 100.0}}))
    assert "no training history" in page and "no pictures of clips" in page
    empty = example(hypothesis="", exact=False)
    page = text_of(write(tmp_path, {"scores": {}}, examples=[empty], history=[{"train_runtime": 1.0, "step": 1}]))
    assert "no training history" in page and "caption (empty)" in page


def test_curves(tmp_path, monkeypatch):
    plot_history(HISTORY, tmp_path / "all.png")
    plot_history(HISTORY[2:], tmp_path / "loss.png")
    with Image.open(tmp_path / "all.png") as four, Image.open(tmp_path / "loss.png") as one:
        assert four.width == 2 * one.width and four.height == 2 * one.height  # a diagram for each quantity, no more
    with pytest.raises(ValueError, match="log at least once"):
        plot_history([{"loss": 1.0}], tmp_path / "none.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'vidcap\[train\]'"):
        plot_history(HISTORY, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
