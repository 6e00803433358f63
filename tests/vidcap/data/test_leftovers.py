"""What lies in a data set's folder and is not used is named, and what makes a data set useless."""

import json
import logging
from pathlib import Path

import pytest

import train_hf
from processing.clips.rows import load_clips
from tests.processing.clips.test_sources import SMALL
from tests.processing.clips.test_tars import write_tar
from vidcap.cli import main
from vidcap.data.leftovers import describe_unused, unused_files
from vidcap.demo.demo_data import generate_demo_data


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def unused(folder: Path, *splits: str) -> list[str]:
    return unused_files(folder, {split: load_clips(folder, split) for split in splits})


def test_files_of_the_folder_form(tmp_path):
    touch(tmp_path, "train/a.mp4", "train/sub/b.mp4", "train/frames/0.png", "train/frames/1.png")
    names = ("a.mp4", "sub/b.mp4", "frames")
    lines = "".join(json.dumps({"file_name": name, "caption": "a cat"}) + "\n" for name in names)
    (tmp_path / "train" / "metadata.jsonl").write_text(lines)
    touch(tmp_path, "README.md", "LICENSE", "manifest.json", "fetched/0", ".git/x", "train/.DS_Store")
    assert unused(tmp_path, "train") == []
    touch(tmp_path, "train/c.mp4", "train/sub/d.mp4", "train/sub/e.MP4", "val/x/1.mp4", "val/2.mp4", "notes.txt")
    touch(tmp_path, "more/x/y/1.mp4", *(f"{number}.gif" for number in range(3)))
    items = ["more/ (1 file)", "val/ (2 files)", "notes.txt", "3 .gif", "1 .mp4 in train/", "2 .mp4 in train/sub/"]
    assert sorted(unused(tmp_path, "train")) == sorted(items)
    assert describe_unused(tmp_path, [*items, "x", "y"]) == f"not used: {', '.join(items)} and 2 more"


def test_files_of_flat_forms_and_streams(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "test/c.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,a cat\n")
    assert unused(tmp_path, "train") == ["test/ (1 file)", "b.mp4"]
    stream = load_clips(tmp_path, "train", streaming=True)
    assert unused_files(tmp_path, {"train": stream}) == []  # its clips are not known
    (tmp_path / "metadata.csv").unlink()
    touch(tmp_path, "a.txt")
    assert unused(tmp_path, "train") == ["test/ (1 file)", "b.mp4"]
    (tmp_path / "train").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "train" / "a.txt")
    (tmp_path / "a.mp4").rename(tmp_path / "train" / "a.mp4")
    assert unused_files(tmp_path, {"train": None}) == ["test/ (1 file)", "b.mp4"]


def test_files_beside_shards_and_beside_a_single_file(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", [("0.mp4", b"x"), ("0.txt", b"a cat")])
    touch(tmp_path, "train/0_stats.json")
    assert unused(tmp_path, "train") == ["1 .json in train/"]
    touch(tmp_path, "val.csv", "test.csv", "other.csv", "test.json")
    (tmp_path / "train.csv").write_text("path,caption\nx.mp4,a cat\n")
    items = unused(tmp_path / "train.csv", "train")
    assert items == ["test.csv", "val.csv"]
    assert (
        describe_unused(tmp_path / "train.csv", items) == "not used: test.csv, val.csv; name their folder to use them"
    )
    assert unused_files("user/name", {}) == []


def test_inspection_and_training_say_it(tmp_path, capsys, caplog):
    data = tmp_path / "clips"
    generate_demo_data(data, train=6, validation=2, test=1, size=32)
    assert main(["data", "inspect", str(data), "--splits", "train"]) == 0
    assert "not used" not in capsys.readouterr().out
    touch(data, "val2/0.mp4", "val2/1.mp4")
    assert main(["data", "inspect", str(data), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [str(data), "not used: val2/ (2 files)"]
    assert json.loads((tmp_path / "out" / "inspection.json").read_text())["not_used"] == ["val2/ (2 files)"]
    command = ["--dataset", str(data), "--output_dir", str(tmp_path / "m"), "--feature_cache", str(tmp_path / "c")]
    with caplog.at_level(logging.WARNING):
        assert train_hf.main([*command, *SMALL]) == 0
    assert f"{data}: not used: test/ (2 files), val2/ (2 files)" in caplog.messages


@pytest.mark.parametrize("name", ["val", "dev"])
def test_training_validates_on_a_split_of_another_name(tmp_path, caplog, name):
    data = tmp_path / "clips"
    generate_demo_data(data, train=6, validation=2, test=0, size=32)
    (data / "validation").rename(data / name)
    command = ["--dataset", str(data), "--output_dir", str(tmp_path / "m"), "--feature_cache", str(tmp_path / "c")]
    with caplog.at_level(logging.INFO):
        assert train_hf.main([*command, *SMALL]) == 0
    assert not any("not used" in line or "set aside" in line for line in caplog.messages)


def test_very_small_data_sets_train_and_one_caption_for_all_is_said(tmp_path, caplog):
    for name, captions in (("three", ["a cat", "a dog", "a cow"]), ("same", ["a cat"] * 3)):
        data = tmp_path / name
        generate_demo_data(data, train=3, validation=0, test=0, size=32)
        rows = [json.loads(line) for line in (data / "train" / "metadata.jsonl").read_text().splitlines()]
        lines = [
            json.dumps({"file_name": row["file_name"], "caption": text})
            for row, text in zip(rows, captions, strict=True)
        ]
        (data / "train" / "metadata.jsonl").write_text("\n".join(lines))
        command = ["--dataset", str(data), "--output_dir", str(data / "m"), "--feature_cache", str(tmp_path / "c")]
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert train_hf.main([*command, *SMALL]) == 0
        assert "no validation split: validating on 1 clip set aside from training" in caplog.messages
        said = [line for line in caplog.messages if line.startswith("all training clips have the caption 'a cat'")]
        assert len(said) == (name == "same")
