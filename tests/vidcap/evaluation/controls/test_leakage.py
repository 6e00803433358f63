"""What a test set shares with training."""

import json
from pathlib import Path

import pytest

from tests.media import texture, write_video
from vidcap.cli import main
from vidcap.evaluation.controls.leakage import caption_leakage, shared_clips

TRAIN = ["A dog runs over the green grass.", "a cat sleeps"]


def test_captions_but_for_a_word() -> None:
    same, replaced = "a dog runs over the  green grass", "a dog runs over the brown grass"
    more, fewer = "a big dog runs over the green grass", "a dog runs over the grass"
    moved, short = "a runs dog over the green grass", "a cat sits"
    found = caption_leakage([[same], [replaced, more], [fewer], [moved], [short]], TRAIN)
    assert found == {"references_in_train": 1 / 6, "references_near_train": 3 / 6}


def test_clips_with_the_same_bytes(tmp_path: Path) -> None:
    def rows(**contents: bytes) -> list[dict]:
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [
            {"file_name": name, "captions": ["x"], "video": {"path": str(tmp_path / name), "bytes": None}}
            for name in contents
        ]

    train = rows(a=b"1234", b=b"abcdef")
    test = [*rows(c=b"1234", d=b"4321", e=b"12345"), {**rows(f=b"")[0], "video": {"path": "gone", "bytes": None}}]
    inside = {"file_name": "g", "captions": ["x"], "video": {"path": None, "bytes": b"abcdef"}}
    files = [each["files"] for each in shared_clips([*test, inside], train)]
    assert files == [{"test": ["c"], "train": ["a"]}, {"test": ["g"], "train": ["b"]}]
    assert shared_clips(test[1:], train) == []

    def folder(name: str, *frames: bytes) -> dict:
        (tmp_path / name).mkdir()
        for index, frame in enumerate(frames):
            (tmp_path / name / f"{index}.png").write_bytes(frame)
        return {"file_name": name, "captions": ["x"], "video": {"path": str(tmp_path / name), "bytes": None}}

    train, test = [folder("one", b"12", b"345")], [folder("two", b"12", b"345"), folder("three", b"345", b"12")]
    assert [each["files"] for each in shared_clips(test, train)] == [{"test": ["two"], "train": ["one"]}]


def test_clips_that_were_not_scored_share_nothing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index in range(2):
            write_video(tmp_path / split / f"{index}.mp4", texture(4, 32, 32)[index:])
        rows = [json.dumps({"file_name": f"{index}.mp4", "caption": "a pattern"}) for index in range(2)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(rows))
    (tmp_path / "h.jsonl").write_text(json.dumps({"file_name": "1.mp4", "hypothesis": "a pattern"}))
    report = tmp_path / "report.json"
    argv = ["--hypotheses", str(tmp_path / "h.jsonl"), "--dataset", str(tmp_path), "--output", str(report)]
    assert main(["evaluate", *argv, "--allow_missing"]) == 0
    leakage = json.loads(report.read_text())["leakage"]
    assert [each["files"]["test"] for each in leakage["clips"]] == [["1.mp4"]] and leakage["clips_in_train"] == 1


@pytest.fixture
def encoded_anew(tmp_path: Path) -> Path:
    """Training clips, one of which is also a test clip of half the size by another codec; and what was written."""
    train, test = tmp_path / "data" / "train", tmp_path / "data" / "test"
    train.mkdir(parents=True)
    test.mkdir()
    frames = texture(24, 96, 128)
    write_video(train / "a.mp4", frames)
    write_video(train / "b.mp4", frames[::-1])
    halves = [frame.reshape(48, 2, 64, 2, 3).mean((1, 3)).astype("uint8") for frame in frames]
    write_video(test / "copy.avi", halves, codec="mpeg4", rate=10)
    write_video(test / "other.mp4", [frame[:, ::-1] for frame in frames])
    (test / "broken.mp4").write_bytes(b"no film")
    for folder in (train, test):
        names = sorted(each.name for each in folder.iterdir())
        rows = [json.dumps({"file_name": name, "caption": "a pattern moves"}) for name in names]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    written = [
        json.dumps({"file_name": name, "caption": "a pattern"}) for name in ("broken.mp4", "copy.avi", "other.mp4")
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(written))
    return tmp_path


def test_clips_that_look_the_same(encoded_anew: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, report = str(encoded_anew / "captions.jsonl"), encoded_anew / "report.json"
    argv = ["evaluate", "--hypotheses", written, "--dataset", str(encoded_anew / "data"), "--output", str(report)]
    assert main(argv) == 0
    assert "near_clips" not in json.loads(report.read_text())["leakage"]
    assert main([*argv, "--near_duplicates"]) == 0
    leakage = json.loads(report.read_text())["leakage"]
    (near,) = leakage["near_clips"]
    assert near["files"] == {"test": "copy.avi", "train": "a.mp4"} and 0 < near["difference"] < 3
    assert (leakage["clips_in_train"], leakage["clips_near_train"], leakage["not_compared"]) == (0, 1, 1)
    assert "1 clips look like a clip of train, with other bytes (1 clips" in capsys.readouterr().err
    assert main([*argv, "--near_duplicates", "--train_split", "validation"]) == 1
    captured = capsys.readouterr()
    assert "no split validation to compare with" in captured.err and not captured.out  # ahead of all scores
    assert main(["data", "inspect", str(encoded_anew / "data"), "--splits", "train", "test"]) == 1  # the broken one
    assert "with other bytes: 1\n  train: a.mp4, test: copy.avi" in capsys.readouterr().out
