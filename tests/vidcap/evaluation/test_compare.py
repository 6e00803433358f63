"""`vidcap compare`: what changed between two reports, and whether it is beyond noise."""

import json
from pathlib import Path

import numpy as np
import pytest

from vidcap.cli import main
from vidcap.evaluation.compare import compare_reports, read_report
from vidcap.evaluation.controls.controls import evaluate_captions
from vidcap.evaluation.report.report import add_details, write_report
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip

WORDS = "dog cat bird horse cow sheep fish frog".split()
VERBS = "runs sleeps jumps eats".split()
COUNT = 60
TRUTHS = [[f"a {WORDS[i % 8]} {VERBS[i % 4]} near house {i}"] for i in range(COUNT)]


def report_of(hypotheses, references=TRUTHS, *, names=None, controls=None, folder: Path) -> Path:
    report = evaluate_captions(hypotheses, references)
    predictions = [
        {
            "file_name": f"{i}.gif" if names is None else names[i],
            "hypothesis": hypotheses[i],
            "references": references[i],
        }
        for i in range(len(hypotheses))
    ]
    for i, caption in (controls or {}).items():
        predictions[i]["controls"] = {"shuffled": caption}
    if controls:
        report["controls"]["shuffled"] = {"cider": 1.0, "exact": 0.0}
    add_details(report, predictions)
    write_report(folder, report, examples=[])
    return folder / "report.json"


def captions(wrong: int) -> list[str]:
    """The truths, but for the first clips."""
    return ["a man talks" if i < wrong else TRUTHS[i][0] for i in range(COUNT)]


@pytest.fixture
def worse(tmp_path) -> Path:
    return report_of(captions(30), folder=tmp_path / "A")


@pytest.fixture
def better(tmp_path) -> Path:
    return report_of(captions(10), folder=tmp_path / "B")


def refused(capsys, *argv) -> str:
    assert main(["compare", *map(str, argv)]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and "Traceback" not in output.err
    return output.err


def test_a_true_change_and_a_change_that_may_be_chance(worse, better, tmp_path, capsys) -> None:
    assert main(["compare", str(worse), str(better), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == COUNT
    exact, cider = found["scores"]["exact"], found["scores"]["cider"]
    assert (exact["a"], exact["b"]) == (0.5, pytest.approx(5 / 6)) and exact["beyond_noise"] and cider["beyond_noise"]
    expected = paired_bootstrap(
        np.round(scores_per_clip(captions(30), TRUTHS)["cider"], 3),
        np.round(scores_per_clip(captions(10), TRUTHS)["cider"], 3),
    )
    assert (cider["difference"], cider["low"], cider["high"]) == pytest.approx(tuple(expected))
    assert "low" not in found["scores"]["bleu4"]  # no mean over clips
    assert found["scores"]["bleu4"]["difference"] > 0
    assert "difference" in found["controls"]["other_clip"]["cider"]

    nearly = report_of(captions(9), folder=tmp_path / "C")
    assert main(["compare", str(better), str(nearly)]) == 0
    text = capsys.readouterr().out
    assert "60 clips with the same references" in text and "within noise" in text and "beyond noise" not in text
    row = next(line for line in text.splitlines() if line.startswith("exact")).split()
    assert row[:7] == ["exact", "83.3", "%", "85.0", "%", "+1.7", "%"]
    assert main(["compare", str(worse), str(better)]) == 0
    assert "beyond noise" in capsys.readouterr().out


def test_a_control_is_compared_on_the_clips_it_was_run_on(tmp_path) -> None:
    before = report_of(captions(0), controls={i: TRUTHS[i][0] for i in range(40)}, folder=tmp_path / "A")
    after = report_of(captions(0), controls={i: "a man talks" for i in range(20, 60)}, folder=tmp_path / "B")
    comparison = compare_reports(read_report(before), read_report(after))
    found = comparison["controls"]["shuffled"]
    exact = found.pop("exact")
    assert (exact["a"], exact["b"], exact["beyond_noise"]) == (1, 0, True)
    # Words weigh as in the clips of each report, and these differ: CIDEr has another scale in each.
    assert not found and any("the control shuffled has" in note for note in comparison["notes"])
    same = compare_reports(read_report(before), read_report(before))
    assert "cider" in same["controls"]["shuffled"] and same["notes"] == []
    assert "low" in same["scores"]["rougeL"] and "clips" not in same["controls"]["other_clip"]


def test_other_clips_and_other_references_are_refused_in_words(worse, tmp_path, capsys) -> None:
    part = report_of(captions(30)[5:], TRUTHS[5:], names=[f"{i}.gif" for i in range(5, COUNT)], folder=tmp_path / "B")
    error = refused(capsys, worse, part)
    assert (
        "5 clips are only in" in error
        and "(0.gif, 1.gif, 2.gif, ...)" in error
        and "--common_clips compares the 55" in error
    )
    assert main(["compare", str(worse), str(part), "--common_clips"]) == 0
    text = capsys.readouterr().out
    assert (
        "55 clips with the same references" in text and "CIDEr and scores without a value per clip are omitted" in text
    )
    assert not any(line.startswith(("CIDEr", "BLEU")) for line in text.splitlines())
    assert any(line.startswith("exact") for line in text.splitlines())

    other = report_of(captions(30), [["a plane lands"], *TRUTHS[1:]], folder=tmp_path / "C")
    assert "the references of 1 clips differ" in refused(capsys, worse, other)
    strangers = report_of(captions(30), names=[f"x{i}" for i in range(COUNT)], folder=tmp_path / "D")
    assert "only 0 clips are in both" in refused(capsys, worse, strangers, "--common_clips")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(schema_version=99), "has schema version 99"),
        (lambda report: report.pop("schema_version"), "has no schema version"),
        (lambda report: report.pop("scores"), 'it has no "scores"'),
        (lambda report: report.pop("per_clip"), 'no "per_clip"'),
        (lambda report: report["per_clip"]["cider"].pop(), "columns have different lengths"),
        (
            lambda report: report["per_clip"]["file_name"].__setitem__(0, "1.gif"),
            "several clips have the same file_name",
        ),
        (lambda report: report["scoring"].update(tokenizer="whitespace"), "different tokenizers"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(worse, better, capsys, change, message) -> None:
    report = json.loads(better.read_text())
    change(report)
    better.write_text(json.dumps(report))
    assert message in refused(capsys, worse, better)


def test_files_that_are_no_reports(worse, tmp_path, capsys) -> None:
    assert "No such file" in refused(capsys, worse, tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("no")
    assert "not JSON" in refused(capsys, worse, tmp_path / "text.json")
