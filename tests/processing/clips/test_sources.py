"""Tables, Parquet and WebDataset shards as data sets: the same rows whichever form the clips come in."""

import csv
import io
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest

import train_hf
from processing.clips.rows import has_split, load_clips
from processing.clips.sources import Columns, DatasetError
from tests.tiny import tiny_processor
from vidcap.demo.demo_data import generate_demo_data

SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 4 --max_caption_length 16 --max_steps 2 "
    "--decoding_workers 1 --disable_tqdm True --test_split none --use_cpu True"
).split()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder form: MP4 and GIF files."""
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=9, validation=3, test=0, size=32)
    return path


def records(plain: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (plain / split / "metadata.jsonl").read_text().splitlines()]


def as_table(plain: Path, folder: Path, suffix: str) -> None:
    for split in ("train", "validation"):
        rows = [
            {"path": str(plain / split / row["file_name"]), "sentence": row["caption"]}
            for row in records(plain, split)
        ]
        with (folder / f"{split}{suffix}").open("w", newline="") as file:
            if suffix == ".jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
                continue
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def as_parquet(plain: Path, folder: Path) -> None:
    for split in ("train", "validation"):
        rows = [
            {
                "video": {"bytes": (plain / split / row["file_name"]).read_bytes(), "path": row["file_name"]},
                "caption": row["caption"],
            }
            for row in records(plain, split)
        ]
        (folder / "data").mkdir(exist_ok=True)
        for number, part in enumerate((rows[::2], rows[1::2])):
            datasets.Dataset.from_list(part).to_parquet(folder / "data" / f"{split}-{number:05d}-of-00002.parquet")


def as_tars(plain: Path, folder: Path) -> None:
    for split in ("train", "validation"):
        for number in range(2):
            with tarfile.open(folder / f"{split}-{number:06d}.tar", "w") as tar:
                for row in records(plain, split)[number::2]:
                    clip = plain / split / row["file_name"]
                    if clip.suffix != ".mp4":  # WebDataset has one type of clip a shard
                        continue
                    for suffix, content in (
                        (".mp4", clip.read_bytes()),
                        (".json", json.dumps({"captions": [row["caption"], "look"]}).encode()),
                    ):
                        info = tarfile.TarInfo(clip.stem + suffix)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))


FORMS = {
    "csv": lambda plain, folder: as_table(plain, folder, ".csv"),
    "tsv": lambda plain, folder: as_table(plain, folder, ".tsv"),
    "jsonl": lambda plain, folder: as_table(plain, folder, ".jsonl"),
    "parquet": as_parquet,
    "webdataset": as_tars,
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(plain, tmp_path, form, streaming):
    FORMS[form](plain, tmp_path)
    assert has_split(tmp_path, "train") and not has_split(tmp_path, "test")
    rows = list(load_clips(tmp_path, "train", streaming=streaming))
    expected = {
        row["caption"] for row in records(plain, "train") if form != "webdataset" or row["file_name"].endswith(".mp4")
    }
    assert {row["captions"][0] for row in rows} == expected
    assert all(row["file_name"] and len(row["captions"]) == (2 if form == "webdataset" else 1) for row in rows)
    decoded = tiny_processor()(videos=[row["video"] for row in rows])
    assert len(decoded["pixel_values_videos"]) == len(rows)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_folder_whose_name_looks_like_a_pattern_is_read_and_not_its_neighbour(plain, tmp_path, form, streaming):
    odd, neighbour = tmp_path / "clips [a]*", tmp_path / "clips aa"
    for folder in (odd, neighbour):
        folder.mkdir()
    FORMS[form](plain, odd)
    if form in ("csv", "jsonl"):
        (neighbour / f"train.{form}").write_text((odd / f"train.{form}").read_text().replace("a ", "no "))
    rows = list(load_clips(odd, "train", streaming=streaming))
    FORMS[form](plain, neighbour)
    assert [row["captions"] for row in rows] == [row["captions"] for row in load_clips(neighbour, "train")]
    assert not has_split(odd, "trai[n]")


def as_folder(plain: Path, folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to(plain)


@pytest.mark.parametrize("form", [*FORMS, "folder"])
def test_captions_alone_come_in_the_order_of_the_clips(plain, tmp_path, form):
    data = tmp_path / "data"
    data.mkdir()
    (FORMS | {"folder": as_folder})[form](plain, data)
    clips, captions = load_clips(data, "train", streaming=True), load_clips(data, "train", captions_only=True)
    assert captions.column_names in (["captions"], None) and captions.num_shards == clips.num_shards
    for seed in (1, 2):
        both = [each.shuffle(seed=seed, buffer_size=3, max_buffer_input_shards=1) for each in (clips, captions)]
        found = [[row["captions"] for row in each] for each in both]
        assert found[0] == found[1] and all(set(row) == {"captions"} for row in both[1])


def test_captions_of_parquet_are_read_without_the_clips(plain, tmp_path):
    as_parquet(plain, tmp_path)
    expected = [row["captions"] for row in load_clips(tmp_path, "train", streaming=True)]
    for path in tmp_path.glob("data/train-*.parquet"):  # what stands where the clips were is no Parquet any more
        group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
        columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
        clips = columns["video.bytes"]
        start = min(offset for offset in (clips.data_page_offset, clips.dictionary_page_offset) if offset)
        content = bytearray(path.read_bytes())
        content[start : start + clips.total_compressed_size] = b"\xff" * clips.total_compressed_size
        path.write_bytes(content)
    with pytest.raises(OSError):
        list(load_clips(tmp_path, "train", streaming=True))
    assert [row["captions"] for row in load_clips(tmp_path, "train", captions_only=True)] == expected


def test_captions_alone_are_those_of_the_column_that_is_given(plain, tmp_path):
    rows = [{"video": {"bytes": b"x", "path": None}, "text": "a dog", "says": f"a cat {i}"} for i in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    for column, expected in ((None, [["a dog"]] * 3), ("says", [[f"a cat {i}"] for i in range(3)])):
        found = load_clips(tmp_path, "train", captions_only=True, columns=Columns(None, column))
        assert [row["captions"] for row in found] == expected
    with pytest.raises(DatasetError, match="caption_column=x is not .* video, text, says"):
        load_clips(tmp_path, "train", captions_only=True, columns=Columns(None, "x"))


def test_shards_of_a_stream_stay_shards(plain, tmp_path):
    as_parquet(plain, tmp_path)
    assert load_clips(tmp_path, "train", streaming=True).num_shards == 2


@pytest.mark.parametrize("streaming", ["False", "True"])
@pytest.mark.parametrize("form", ["parquet", "webdataset", "csv"])
def test_training_takes_them(plain, tmp_path, form, streaming):
    FORMS[form](plain, tmp_path)
    command = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "m"), "--feature_cache", str(tmp_path / "c")]
    assert train_hf.main([*command, *SMALL, "--streaming", streaming]) == 0
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_columns_can_be_given_and_what_is_missing_is_named(plain, tmp_path, capsys):
    clip = str(plain / "train" / records(plain, "train")[0]["file_name"])
    (tmp_path / "train.csv").write_text(f"film,says,text\n{clip},a cat,no\n{clip},a dog,no\n{clip},a cow,no\n")
    with pytest.raises(
        DatasetError, match="no column of clips recognised; pass video_column=NAME, one of film, says, text"
    ):
        load_clips(tmp_path, "train")
    with pytest.raises(DatasetError, match="caption_column=x is not .* film, says, text"):
        load_clips(tmp_path, "train", columns=Columns("film", "x"))
    rows = load_clips(tmp_path, "train", columns=Columns("film", "says"))
    assert rows["captions"][:] == [["a cat"], ["a dog"], ["a cow"]] and rows[0]["video"]["path"] == clip
    command = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "m"), *SMALL]
    assert train_hf.main([*command, "--feature_cache", str(tmp_path / "c"), "--video_column", "film"]) == 0


def test_mistakes_are_named(plain, tmp_path):
    (tmp_path / "train.csv").write_text("path,caption\nx.mp4,a cat\ny.mp4,\n")
    with pytest.raises(DatasetError, match="train.csv, line 3: caption '' is empty"):
        load_clips(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DatasetError, match="train exists as .csv and as .parquet"):
        load_clips(tmp_path, "train")
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DatasetError, match="train.parquet: "):
        load_clips(tmp_path, "train")
    with pytest.raises(DatasetError, match="no test/metadata.jsonl .*test.csv, test.jsonl"):
        load_clips(tmp_path, "test")
