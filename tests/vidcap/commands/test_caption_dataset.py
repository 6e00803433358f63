"""`vidcap caption --dataset`: each clip once, by any number of processes, in shards that train a model."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import train_hf
from processing.clips.rows import load_clips
from tests.tiny import tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data
from vidcap.inference.captioning import ModelCaptioner

CLIPS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=CLIPS, validation=2, test=0, size=32)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_model(initializer_range=0.1).save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def command(folder: Path, model: Path, output: Path, *options: str) -> list[str]:
    what = ["--dataset", str(folder), "--model", str(model), "--output", str(output), "--shard_size", "2"]
    return ["caption", *what, "--max_new_tokens", "6", *options]


def captions(output: Path) -> dict[str, list[str]]:
    rows = [json.loads(line) for path in output.glob("train-*.jsonl") for line in path.read_text().splitlines()]
    assert Counter(row["file_name"] for row in rows).most_common(1)[0][1] == 1
    return {row["file_name"]: row["captions"] for row in rows}


def test_each_clip_is_captioned_once_and_as_alone(folder, model, tmp_path, capsys):
    assert main(command(folder, model, tmp_path / "all", "--captions", "2", "--num_beams", "2")) == 0
    found = captions(tmp_path / "all")
    assert len(found) == CLIPS and all(len(each) == 2 for each in found.values())
    assert len(list((tmp_path / "all").glob("train-*-of-00006.jsonl"))) == 6
    name = sorted(found)[3]
    one = str(folder / "train" / name)
    capsys.readouterr()
    assert (
        main(["caption", one, "--model", str(model), "--max_new_tokens", "6", "--captions", "2", "--num_beams", "2"])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [f"{one}: {caption}" for caption in found[name]]


def test_two_processes_share_the_work_and_a_third_run_does_what_is_missing(folder, model, tmp_path, capfd):
    arguments = command(folder, model, tmp_path / "two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vidcap"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "process 0: 3 of 3 shards to do" in done.stderr and "process 1: 3 of 3 shards to do" in done.stderr
    found = captions(tmp_path / "two")
    assert len(found) == CLIPS
    for suffix in (".done", ".jsonl"):  # as if it had been killed before this shard was complete
        (tmp_path / "two" / f"train-00004-of-00006{suffix}").unlink()
    kept = tmp_path / "two" / "train-00001-of-00006.jsonl"
    before = kept.stat().st_mtime_ns
    assert main(arguments) == 0
    assert "process 0: 1 of 6 shards to do" in capfd.readouterr().err
    assert captions(tmp_path / "two") == found and kept.stat().st_mtime_ns == before


def test_the_captions_are_a_data_set_to_train_on(folder, model, tmp_path):
    assert main(command(folder, model, tmp_path / "c")) == 0
    rows = load_clips(tmp_path / "c", "train")
    assert len(rows) == CLIPS and Path(rows[0]["video"]["path"]).is_file()
    options = (
        "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --max_steps 1 "
        "--num_attention_heads 2 --encoder_layers 1 --multimodal_layers 1 --disable_tqdm True --test_split none"
    ).split()
    run = [
        "--dataset",
        str(tmp_path / "c"),
        "--output_dir",
        str(tmp_path / "m"),
        "--feature_cache",
        str(tmp_path / "k"),
    ]
    assert train_hf.main([*run, *options]) == 0


def test_clips_that_come_as_bytes_are_stored_with_their_captions(folder, model, tmp_path):
    rows = load_clips(folder, "train")
    paths = [row["video"]["path"] for row in rows]
    inside = rows.map(lambda row: {"video": {"path": None, "bytes": Path(row["video"]["path"]).read_bytes()}})
    (tmp_path / "shards").mkdir()
    inside.to_parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    assert main(command(tmp_path / "shards", model, tmp_path / "c")) == 0
    again = load_clips(tmp_path / "c", "train")
    assert [row["video"]["bytes"] for row in again] == [Path(path).read_bytes() for path in paths]


def test_what_cannot_be_read_is_listed_and_another_run_is_not_mixed_in(folder, model, tmp_path, capsys):
    (tmp_path / "clips" / "train").mkdir(parents=True)
    (tmp_path / "clips" / "train" / "bad.mp4").write_bytes(b"nothing")
    good = str(folder / "train" / "00001.mp4")
    lines = [json.dumps({"file_name": name, "caption": "x"}) for name in (good, "bad.mp4")]
    (tmp_path / "clips" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    assert main(command(tmp_path / "clips", model, tmp_path / "c")) == 1
    assert "1 clips cannot be read" in capsys.readouterr().err
    (listed,) = (tmp_path / "c" / "unreadable").glob("*.jsonl")
    assert json.loads(listed.read_text())["file_name"] == "bad.mp4"
    assert len(load_clips(tmp_path / "c", "train")) == 1
    assert main(command(folder, model, tmp_path / "c")) == 1
    assert "holds captions of another run (clips 2, now 11)" in capsys.readouterr().err


def test_neither_a_data_set_nor_other_files_are_written_over(folder, model, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (tmp_path / "link").symlink_to(folder)
    for output in (folder, folder / "train", folder / "new", tmp_path / "link"):
        with pytest.raises(SystemExit) as refused:
            main(command(folder, model, output))
        assert refused.value.code == 2
        assert "lies within the data set; name a folder elsewhere" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    assert main(command(folder, model, tmp_path / "other")) == 1
    assert "holds thesis.txt" in capsys.readouterr().err
    assert os.listdir(tmp_path / "other") == ["thesis.txt"]


@pytest.fixture(scope="module")
def done(folder, model, tmp_path_factory):
    """Complete captions."""
    path = tmp_path_factory.mktemp("done") / "c"
    assert main(command(folder, model, path, "--num_beams", "2")) == 0
    return path


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (["--captions", "2"], "captions 1, now 2"),
        (["--num_beams", "3"], "num_beams 2, now 3"),
        (["--max_new_tokens", "5"], "max_new_tokens 6, now 5"),
        (["--ban", "cat"], "ban [], now ['cat']"),
        (["--include", "dog"], "include [], now ['dog']"),
        (["--length_penalty", "2"], "length_penalty None, now 2.0"),
        (["--num_frames", "3"], "num_frames None, now 3"),
        (["--max_clip_frames", "9999"], "max_clip_frames None, now 9999"),
        (["--caption_column", "caption"], "caption_column None, now 'caption'"),
        (["--shard_size", "3"], "shard_size 2, now 3"),
    ],
)
def test_captions_made_otherwise_are_not_mixed_in(folder, model, done, capsys, options, differs):
    assert main(command(folder, model, done, "--num_beams", "2", *options)) == 1
    assert f"{done} holds captions of another run ({differs}); name another --output" in capsys.readouterr().err


def test_another_data_set_or_model_of_the_same_size_and_names_is_not_mixed_in(folder, model, done, tmp_path, capsys):
    generate_demo_data(tmp_path / "clips", train=CLIPS, validation=1, test=0, size=32, seed=5)
    assert main(command(tmp_path / "clips", model, done, "--num_beams", "2")) == 1
    assert "holds captions of another run (dataset '" in capsys.readouterr().err
    other = tmp_path / model.name
    tiny_model(seed=3, initializer_range=0.1).save_pretrained(other)
    tiny_processor().save_pretrained(other)
    assert main(command(folder, other, done, "--num_beams", "2")) == 1
    assert "holds captions of another run (weights '" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "moved" / "clips")
    shutil.copytree(model, tmp_path / "moved" / model.name)
    assert main(command(tmp_path / "moved" / "clips", tmp_path / "moved" / model.name, done, "--num_beams", "2")) == 0
    facts = (done / "captions.json").read_text()
    assert str(folder.parent) not in facts and str(model.parent) not in facts


def test_clips_without_a_word_are_not_unreadable(folder, model, tmp_path, capsys, monkeypatch):
    caption_with_scores = ModelCaptioner.caption_with_scores

    def without_some(*args, **options):
        found = caption_with_scores(*args, **options)
        found[0] = [dataclasses.replace(each, text="") for each in found[0]]  # of each shard
        return found

    monkeypatch.setattr(ModelCaptioner, "caption_with_scores", without_some)
    for _ in range(2):  # the second time all is done
        assert main(command(folder, model, tmp_path / "c")) == 0
        error = capsys.readouterr().err
        assert f"6 clips got an empty caption; {tmp_path / 'c' / 'wordless'}" in error
        assert "cannot be read" not in error
    names = [json.loads(path.read_text())["file_name"] for path in (tmp_path / "c" / "wordless").glob("*.jsonl")]
    assert len(names) == 6 and not (tmp_path / "c" / "unreadable").exists()
    assert len(captions(tmp_path / "c")) == CLIPS - 6 and not set(names) & set(captions(tmp_path / "c"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x.mp4", "--dataset", "d", "--output", "o"], "x.mp4 and --dataset d"),
        (["--dataset", "d"], "--dataset needs an --output folder"),
        (["--dataset", "d", "--output", "o", "--format", "srt"], "--format srt needs single clips"),
        (["x.mp4", "--split", "test"], "--split needs a whole data set"),
        ([], "no clips to caption"),
    ],
)
def test_options_that_contradict_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["caption", *options, "--model", "m"])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
