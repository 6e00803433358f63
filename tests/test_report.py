"""The report: complete, escaped, self-contained, honest about what is missing."""

import base64
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

from vidcap.evaluation.report import ReportExample, contact_sheet, plot_history, write_report

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
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*</style>", "", page))).split())


def test_every_number_is_on_the_page_and_the_json_is_the_report(tmp_path):
    page = text_of(write(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT
    for row in (
        "CIDEr 512.3 31.7 77.9 20.6",
        "BLEU-4 64.4 64.4",
        "exact 95.4 % 1.3 % 5.2 % 2.1 %",
        "distinct 87.6 % 87.1 % 86.9 % 0.2 %",
        "exact, backwards – – 91.8 % –",
        "action <b> 498.7 90.3 % 89",
        "training 3 min 51 s",
        "whole run 42.5 s",
        "peak memory 1,893 MB",
        "parameters 4,412,345",
        "torch 2.14.1",
        "dataset clips & more",
        "broken.gif no <frames> at all",
        "The captions follow the video: CIDEr 512, 95.4 % of the captions exact; CIDEr 32 without",
    ):
        assert row in page, row


def test_page_loads_nothing_and_is_well_formed(tmp_path):
    page = write(tmp_path, examples=[example(), example(1, exact=False)], history=HISTORY)
    open_tags, loaded = [], []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in {"script", "link", "iframe", "object"}
            loaded.extend(v for k, v in attributes if k in {"src", "srcset", "href", "data", "poster"})
            assert tag != "img" or dict(attributes).get("alt")
            if tag not in {"meta", "img", "source"}:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert not open_tags
    assert len(loaded) == 4  # two strips, the curves for light and dark
    for address in loaded:
        kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(\S+)", address).groups()
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.format.lower() == kind
            image.load()
    assert not re.search(r"https?://|url\(|@import", page)


def test_texts_are_escaped(tmp_path):
    evil = "<script>alert('x')</script> \" & <img src=x onerror=y>"
    shown = ReportExample(evil, example().frames, evil, [evil, "b"], False, backwards=evil, other_clip=evil)
    page = write(
        tmp_path,
        {
            "scores": {"cider": 1.0, evil: 2.0},
            "controls": {evil: {"cider": 0.5}},
            "by_kind": {evil: {evil: 1.0}},
            "versions": {evil: evil},
            "skipped_clips": [{"file_name": evil, "reason": evil}],
            evil: evil,
        },
        examples=[shown],
    )
    assert "<script" not in page and "onerror=y>" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)" in page


def test_examples_say_in_words_what_is_wrong_and_where(tmp_path):
    shown = [example(i, exact=i % 3 > 0) for i in range(60)]
    shown[0].backwards, shown[0].other_clip = "a dog jumps and then runs", "a fish"
    page = write(tmp_path, examples=shown)
    assert page.count("✗ differs") == page.count("<mark>cat</mark>") == page.count("<mark>") == 12
    assert page.count("✓ exact") == 24
    assert "12 of 20 shown" in page and "24 of 40 shown" in page
    assert "backwards a dog jumps and then runs other frames a fish" in text_of(page)


def test_strip_shows_at_most_eight_frames_from_first_to_last(tmp_path):
    frames = torch.zeros(100, 20, 20, 3, dtype=torch.uint8)
    frames[0], frames[-1] = 255, 200
    page = write(tmp_path, examples=[ReportExample("a.gif", frames, "a", ["a"], True), example(num_frames=1)])
    many, one = [
        Image.open(io.BytesIO(base64.b64decode(content))) for content in re.findall(r"jpeg;base64,([^\"]+)", page)
    ]
    assert many.size == (8 * 112 + 7 * 2, 112) and one.size == (168, 112)
    assert many.getpixel((50, 50))[0] > 250 and abs(many.getpixel((many.width - 50, 50))[0] - 200) < 5


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_is_refused_and_nothing_written(tmp_path, number):
    with pytest.raises(ValueError, match="cannot hold NaN"):
        write_report(tmp_path / "out", {"scores": {"cider": number}}, examples=[])
    bad = ReportExample("bad.mp4", np.zeros((4, 3, 8, 8), np.uint8), "a", ["a"], True)
    with pytest.raises(ValueError, match=r"bad.mp4: frames are uint8 of shape \(4, 3, 8, 8\)"):
        write_report(tmp_path / "out", REPORT, examples=[bad])
    assert not (tmp_path / "out").exists()


def test_missing_parts_are_called_missing(tmp_path):
    page = text_of(write(tmp_path, {"scores": {"cider": 100.0}}))
    assert (
        "No control was run" in page and "No training history" in page and page.count("None among the examples") == 2
    )
    empty = example(hypothesis="", exact=False)
    page = text_of(write(tmp_path, {"scores": {}}, examples=[empty], history=[{"train_runtime": 1.0, "step": 1}]))
    assert "No score was computed" in page and "No training history" in page and "caption (empty)" in page


@pytest.mark.parametrize("control", ["other_clip", "most_frequent"])
def test_blind_captions_that_score_well_are_a_warning(tmp_path, control):
    controls = {**REPORT["controls"], control: {"cider": 300.0}}
    page = text_of(write(tmp_path, {**REPORT, "controls": controls}))
    assert "! The captions hardly depend on the video" in page and "✓ The captions" not in page


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


def test_contact_sheet(tmp_path):
    contact_sheet([example(), example(1, exact=False), example(2)], tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        sheet.load()
        strip = 8 * (120 + 2) - 2
        assert sheet.width == 2 * strip + 3 * 16
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 2] > 80).any(axis=0)
    assert red.any() and not red[: 16 + strip].any()  # the wrong caption, in the second column, is marked
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet([example()], tmp_path / "no.png", columns=0)
    with pytest.raises(ValueError, match="at least one example"):
        contact_sheet([], tmp_path / "no.png")
