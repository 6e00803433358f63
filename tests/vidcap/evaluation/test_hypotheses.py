"""`vidcap evaluate --hypotheses`: captions of any origin, scored over all clips or refused in one line."""

import json
import re
from pathlib import Path

import pytest

from tests.media import texture, write_animation
from vidcap.cli import main
from vidcap.evaluation import score_captions, scoring_facts
from vidcap.evaluation.predictions import References, read_references

CAPTIONS = {"a.gif": ["a dog runs", "the dog is running"], "b.gif": ["a cat sleeps"], "c.gif": ["two birds fly up"]}
GOOD = {"a.gif": "a dog runs", "b.gif": "a cat sits", "c.gif": "two birds fly down"}


def lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def hypotheses(path: Path, captions=GOOD) -> str:
    return lines(path, [{"file_name": name, "hypothesis": text} for name, text in captions.items()])


@pytest.fixture
def references(tmp_path: Path) -> str:
    rows = [{"file_name": name, "captions": captions} for name, captions in CAPTIONS.items()]
    return lines(tmp_path / "references.jsonl", rows)


def evaluate(tmp_path: Path, file: str, *options: str) -> dict:
    output = tmp_path / "report.json"
    assert main(["evaluate", "--hypotheses", file, "--output", str(output), *options]) == 0
    return json.loads(output.read_text())


def refused(capsys, tmp_path: Path, file: str, *options: str, status: int = 1) -> str:
    output = tmp_path / "report.json"
    argv = ["evaluate", "--hypotheses", file, "--output", str(output), *options]
    if status == 2:
        with pytest.raises(SystemExit) as raised:
            main(argv)
        assert raised.value.code == 2
    else:
        assert main(argv) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error and not output.exists(), error
    return error


EXPECTED = score_captions(list(GOOD.values()), list(CAPTIONS.values()))
COVERED = {"asked": 3, "found": 3, "scored": 3, "empty_hypotheses": 0, "unknown_hypotheses": 0}


def test_lines_against_lines(tmp_path, references, capsys) -> None:
    shuffled = dict(sorted(GOOD.items(), reverse=True))
    predictions = tmp_path / "predictions.jsonl"
    report = evaluate(
        tmp_path,
        hypotheses(tmp_path / "h.jsonl", shuffled),
        "--references",
        references,
        "--predictions",
        str(predictions),
    )
    assert report["scores"] == EXPECTED and report["coverage"] == COVERED
    assert report["scoring"] == scoring_facts(list(CAPTIONS.values()))
    assert report["scoring"]["references_per_clip"] == {"min": 1, "median": 1, "max": 2}
    assert report["per_clip"]["file_name"] == list(CAPTIONS)
    written = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["exact"] for line in written] == [True, False, False]
    assert sum(line["cider"] for line in written) / 3 == pytest.approx(EXPECTED["cider"], abs=1e-3)
    assert report["errors"]["confusions"]["directions"]["pairs"] == [{"truth": "up", "caption": "down", "count": 1}]
    assert (tmp_path / "report.html").is_file()
    capsys.readouterr()
    # What was written is read again, as hypotheses and as references.
    again = evaluate(tmp_path, str(predictions), "--references", str(predictions))
    assert again["scores"] == EXPECTED


def test_coco_results_against_coco_annotations(tmp_path) -> None:
    results, annotations = tmp_path / "results.json", tmp_path / "captions_val.json"
    ids = {name: number for number, name in enumerate(CAPTIONS, start=7)}
    results.write_text(json.dumps([{"image_id": ids[name], "caption": text} for name, text in GOOD.items()]))
    content = {
        "images": [{"id": number, "file_name": name} for name, number in ids.items()],
        "annotations": [
            {"image_id": ids[name], "id": 0, "caption": text} for name, texts in CAPTIONS.items() for text in texts
        ],
    }
    annotations.write_text(json.dumps(content))
    assert evaluate(tmp_path, str(results), "--references", str(annotations))["scores"] == EXPECTED
    by_file = hypotheses(tmp_path / "h.jsonl")  # the same clips by their file names
    assert evaluate(tmp_path, by_file, "--references", str(annotations))["scores"] == EXPECTED


def test_msrvtt_takes_the_clips_of_one_split(tmp_path, capsys) -> None:
    names = {name: f"video{number}" for number, name in enumerate(CAPTIONS)}
    content = {
        "videos": [
            {"video_id": name, "split": "test", "start time": 0, "end time": 9, "url": "x"} for name in names.values()
        ]
        + [{"video_id": "video9", "split": "train", "start time": 0, "end time": 9, "url": "x"}],
        "sentences": [
            {"video_id": names[name], "sen_id": 0, "caption": text}
            for name, texts in CAPTIONS.items()
            for text in texts
        ]
        + [{"video_id": "video9", "sen_id": 0, "caption": "elsewhere"}],
    }
    annotations = tmp_path / "videodatainfo.json"
    annotations.write_text(json.dumps(content))
    file = lines(tmp_path / "h.jsonl", [{"video_id": names[name], "caption": text} for name, text in GOOD.items()])
    report = evaluate(tmp_path, file, "--references", str(annotations))
    assert report["scores"] == EXPECTED and report["coverage"] == COVERED
    (tmp_path / "report.json").unlink()
    capsys.readouterr()
    error = refused(capsys, tmp_path, file, "--references", str(annotations), "--split", "validation")
    assert "has no split validation" in error and "test (3 clips), train (1 clips)" in error


def test_a_data_set_gives_references_columns_and_pictures(tmp_path, capsys, caplog) -> None:
    for split, captions in {"test": CAPTIONS, "train": {"t.gif": ["a cat sits"]}}.items():
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        for index, name in enumerate(captions):
            write_animation(folder / name, texture(12, 24, 32)[index:][:6], 100)
        lines(
            folder / "metadata.jsonl",
            [
                {"file_name": n, "captions": c, "place": "air" if "bird" in c[0] else "ground"}
                for n, c in captions.items()
            ],
        )
    stems = {Path(name).stem: text for name, text in GOOD.items()}
    file, data = hypotheses(tmp_path / "h.jsonl", stems), str(tmp_path / "data")
    report = evaluate(tmp_path, file, "--dataset", data, "--by", "place")
    assert report["scores"] == EXPECTED and "most_frequent" in report["controls"]
    assert {name: group["clips"] for name, group in report["errors"]["groups"]["place"].items()} == {
        "air": 1,
        "ground": 2,
    }
    assert (tmp_path / "report.html").read_text().count("<figure") == 3
    (tmp_path / "data" / "test" / "b.gif").unlink()  # captions can be scored without the clip
    assert evaluate(tmp_path, file, "--dataset", data)["scores"] == EXPECTED
    assert "b.gif: the report shows no picture" in caplog.text
    assert (tmp_path / "report.html").read_text().count("<figure") == 2
    assert evaluate(tmp_path, file, "--dataset", data, "--limit", "2")["coverage"]["asked"] == 2
    (tmp_path / "report.json").unlink()
    capsys.readouterr()
    assert "a value of 'colour'" in refused(capsys, tmp_path, file, "--dataset", data, "--by", "colour")


def test_missing_and_unknown_clips_are_scored_with_leave_only(tmp_path, references, capsys) -> None:
    file = hypotheses(tmp_path / "h.jsonl", {"a.gif": "a dog runs", "c.gif": "", "x.gif": "a cow"})
    error = refused(capsys, tmp_path, file, "--references", references)
    assert "h.jsonl, line 3: unknown clips: 'x.gif'; " in error and "--allow_missing" in error
    file = hypotheses(tmp_path / "h.jsonl", {"a.gif": "a dog runs", "c.gif": ""})
    error = refused(capsys, tmp_path, file, "--references", references)
    assert "no hypothesis for 1 of 3 clips" in error and "(b.gif)" in error and "--allow_missing" in error
    file = hypotheses(tmp_path / "h.jsonl", {"a.gif": "a dog runs", "c.gif": "", "x.gif": "a cow"})
    report = evaluate(tmp_path, file, "--references", references, "--allow_missing")
    assert report["coverage"] == {
        "asked": 3, "found": 2, "scored": 2, "empty_hypotheses": 1, "unknown_hypotheses": 1,
    }  # fmt: skip
    assert report["scores"] == score_captions(["a dog runs", ""], [CAPTIONS["a.gif"], CAPTIONS["c.gif"]])
    output = capsys.readouterr()
    assert "scored 2 of 3 clips" in output.out
    assert (
        "warning: 1 of 3 clips are not scored; 1 hypotheses are of unknown clips; 1 hypotheses are empty" in output.err
    )
    none = hypotheses(tmp_path / "none.jsonl", {"x.gif": "a cow"})
    (tmp_path / "report.json").unlink()
    assert "no hypothesis for any clip" in refused(
        capsys, tmp_path, none, "--references", references, "--allow_missing"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"file_name": "a.gif", "hypothesis": "x"}\n{"file_name": "a", "hypothesis": "y"}',
            "line 2: a second hypothesis for a, after line 1",
        ),
        ('[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "x"}]', "entry 1: a second hypothesis for 1"),
        ('{"file_name": "a.gif", "hypothesis": null}', 'line 1: "hypothesis" is \'None\''),
        ('{"file_name": "a.gif"}', "line 1: has none of the keys hypothesis, caption"),
        ('{"hypothesis": "a"}', "line 1: has none of the keys file_name, image_id, video_id"),
        ('{"file_name": "a.gif", "hypothesis": "\\ud83d"}', "line 1: half of a surrogate pair"),
        ('"a"\n', "line 1: has none of the keys file_name"),
        ("{broken", "line 1: not JSON"),
        ("[1, 2", "not JSON"),
        ("[]", "no captions"),
        ("", "no captions"),
        ("\xff", "not UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_in_hypotheses_are_named_by_their_place(tmp_path, references, capsys, content, message) -> None:
    file = tmp_path / "h.json"
    file.write_bytes(content.encode("latin-1"))
    assert message in refused(capsys, tmp_path, str(file), "--references", references)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", '{"file_name": "a.gif", "captions": []}', "the list of captions is empty"),
        ("r.jsonl", '{"file_name": "a.gif", "caption": " "}', "is empty or not text"),
        ("r.jsonl", '{"file_name": "a.gif", "caption": "x"}\n' * 2, "line 2: a.gif "),
        ("r.json", '{"images": [{"id": 1}], "annotations": []}', "image 1 has no caption"),
        (
            "r.json",
            '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}',
            "image_id 1 is not among the images",
        ),
        ("r.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": ""}]}', "empty reference"),
        ("r.json", "[1]", "neither COCO"),
    ],
)
def test_mistakes_in_references_are_named_by_their_place(tmp_path, capsys, name, content, message) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert message in refused(capsys, tmp_path, hypotheses(tmp_path / "h.jsonl"), "--references", str(file))


def test_any_text_is_scored(tmp_path, capsys) -> None:
    texts = {
        "a": "犬が走る",
        "b": "🐕 runs 🎉",
        "c": " ".join(f"word{i}" for i in range(10_000)),
        "d": "собака бежит",
        "e": "",
    }
    references = lines(
        tmp_path / "r.jsonl",
        [{"file_name": n, "caption": t if 0 < len(t) < 99 else "a dog"} for n, t in texts.items()],
    )
    report = evaluate(tmp_path, hypotheses(tmp_path / "h.jsonl", texts), "--references", references)
    assert report["scores"]["exact"] == 0.6 and report["coverage"]["empty_hypotheses"] == 1
    assert "1 hypotheses are empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_beams", "3"], "--num_beams needs a --model"),
        (["--skip_broken_clips"], "--skip_broken_clips needs a --model"),
        (["--backend", "openvino"], "--backend needs a --model"),
        (["--by", "kind"], "--by names a column of a --dataset"),
        (["--model", "x"], "not allowed with"),
        (["--dataset", "x"], "not allowed with"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, references, capsys, options, message) -> None:
    file = hypotheses(tmp_path / "h.jsonl")
    assert message in refused(capsys, tmp_path, file, "--references", references, *options, status=2)
    assert "no such file" in refused(capsys, tmp_path, file, "--references", "nothing.json", status=2)
    own = refused(capsys, tmp_path, file, "--references", references, "--predictions", file, status=2)
    assert "would replace the file of --hypotheses" in own


@pytest.mark.parametrize(
    ("output", "predictions", "message"),
    [
        ("captions.json", None, "--output .* would replace the file of --hypotheses"),
        ("coco.json", None, "--output .* would replace the file of --references"),
        ("report.json", "report.json", "--predictions .* would replace the file of --output"),
        ("report.json", "report.html", "--predictions .* would replace the file of the page of --output"),
        ("sub/../captions.json", None, "--output .* would replace the file of --hypotheses"),
    ],
)
def test_no_file_is_replaced_that_is_read_or_written(tmp_path, capsys, output, predictions, message) -> None:
    (tmp_path / "sub").mkdir()
    results, annotations = tmp_path / "captions.json", tmp_path / "coco.json"
    results.write_text('[{"image_id": 1, "caption": "a dog"}]')
    annotations.write_text('{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a dog"}]}')
    argv = ["--hypotheses", str(results), "--references", str(annotations), "--output", str(tmp_path / output)]
    argv += ["--predictions", str(tmp_path / predictions)] if predictions else []
    with pytest.raises(SystemExit) as raised:
        main(["evaluate", *argv])
    assert raised.value.code == 2 and re.search(message, capsys.readouterr().err)
    assert "a dog" in results.read_text() and "images" in annotations.read_text()


def test_clips_without_a_split_among_others_are_refused(tmp_path, capsys) -> None:
    rows = [{"file_name": "a", "caption": "a dog", "split": "test"}, {"file_name": "b", "caption": "a cat"}]
    file = hypotheses(tmp_path / "h.jsonl", {"a": "a dog"})
    error = refused(capsys, tmp_path, file, "--references", lines(tmp_path / "r.jsonl", rows))
    assert "b: has no split" in error


def test_names_without_ending_or_folder_and_names_that_two_clips_share(tmp_path, capsys) -> None:
    known = References("r", {"x/a.mp4": ["1"], "y/b.mp4": ["2"], "z/b.mp4": ["3"]}).names()
    assert known["x/a"] == known["a"] == "x/a.mp4" and known["y/b"] == "y/b.mp4" and "b" not in known
    images = [{"id": 1, "file_name": "c_1.jpg"}, {"id": 2, "file_name": "d.jpg"}, {"id": 3, "file_name": "d.jpg"}]
    annotations = [{"image_id": index, "caption": "a dog"} for index in (1, 2, 3)]
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations}))
    names = read_references(coco).names()
    assert names["c_1"] == names["c_1.jpg"] == "1" and "d.jpg" not in names and "d" not in names
