"""Where the clips of a split lie in a folder: the forms that people publish, and what is said of others."""

import json
import shutil
import unicodedata
from pathlib import Path

import pyarrow.parquet
import pytest

from processing.clips.rows import has_split, load_clips
from processing.clips.sources import Columns, DatasetError

CAPTIONS = {"a.mp4": "a cat", "b.gif": "a dog", "c.webm": "a cow"}


def clips(folder: Path, names=tuple(CAPTIONS)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"a clip")
    return folder


def lines(captions: dict[str, str], suffix: str, *, inside: str = "", caption: str = "caption") -> str:
    rows = [{"file_name": inside + name, caption: text} for name, text in captions.items()]
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if suffix == ".json":
        return json.dumps(rows, indent=1)
    separator = "\t" if suffix == ".tsv" else ","
    return "\n".join(separator.join(row) for row in [list(rows[0]), *(row.values() for row in rows)])


def read(dataset: Path, split: str = "train", columns: Columns | None = None) -> dict[str, str]:
    """Captions by the path of the clip, for both ways to load."""
    both = [load_clips(dataset, split, streaming=s, columns=columns or Columns()) for s in (False, True)]
    first, second = ({row["video"]["path"]: row["captions"] for row in rows} for rows in both)
    assert first == second and all(Path(path).exists() for path in first)
    return {Path(path).name: " ".join(captions) for path, captions in first.items()}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_metadata_lies_beside_the_clips_of_a_split(tmp_path, suffix):
    (clips(tmp_path / "train") / f"metadata{suffix}").write_text(lines(CAPTIONS, suffix))
    assert read(tmp_path) == CAPTIONS
    assert has_split(tmp_path, "train") and not has_split(tmp_path, "validation")
    (tmp_path / "train" / "metadata.csv").write_text("x")
    (tmp_path / "train" / "metadata.tsv").write_text("x")
    with pytest.raises(DatasetError, match="holds both metadata.*; keep one of them"):
        load_clips(tmp_path, "train")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_metadata_of_a_flat_folder_lists_the_training_split(tmp_path, suffix):
    (clips(tmp_path) / f"metadata{suffix}").write_text(lines(CAPTIONS, suffix))
    assert read(tmp_path) == CAPTIONS
    assert not has_split(tmp_path, "validation") and not has_split(tmp_path, "test")


def test_metadata_at_the_root_tells_splits_by_folder_or_column(tmp_path):
    for split in ("train", "val"):
        clips(tmp_path / split)
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text("".join(lines(CAPTIONS, ".jsonl", inside=f"{split}/") for split in ("train", "val")))
    assert read(tmp_path) == read(tmp_path, "validation") == CAPTIONS
    assert {path.parent.name for path in paths(tmp_path, "validation")} == {"val"}
    assert not has_split(tmp_path, "test")
    rows = ["file_name,caption,split", "train/a.mp4,a cat,dev", "train/b.gif,a dog,test", "val/c.webm,a cow,"]
    metadata.unlink()
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    assert read(tmp_path, "validation") == {"a.mp4": "a cat", "c.webm": "a cow"}
    assert read(tmp_path, "test") == {"b.gif": "a dog"} and not has_split(tmp_path, "train")
    (tmp_path / "metadata.csv").write_text("\n".join([*rows, "train/a.mp4,a cat,fold1"]))
    with pytest.raises(DatasetError, match=r"line 5: unknown split 'fold1'"):
        load_clips(tmp_path, "test")


def paths(dataset: Path, split: str) -> list[Path]:
    return [Path(row["video"]["path"]) for row in load_clips(dataset, split)]


@pytest.mark.parametrize("flat", [False, True])
def test_captions_lie_in_text_files_beside_the_clips(tmp_path, flat):
    folder = clips(tmp_path if flat else tmp_path / "train")
    clips(folder / "d", ["0.png", "1.png"])
    for name, caption in (CAPTIONS | {"d": "frames"}).items():
        (folder / name).with_suffix(".txt").write_bytes(f"\ufeff{caption}\r\n\r\n {caption}s \n".encode())
    (folder / "notes.txt").write_text("not of a clip")
    assert read(tmp_path) == {name: f"{text} {text}s" for name, text in (CAPTIONS | {"d": "frames"}).items()}
    assert not has_split(tmp_path, "validation")
    (folder / "a.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"a\.txt: no caption"):
        load_clips(tmp_path, "train")
    (folder / "a.mkv").write_bytes(b"another")
    with pytest.raises(DatasetError, match=r"a\.txt: lies beside both a\.mkv and a\.mp4"):
        load_clips(tmp_path, "train")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_table_may_be_named_itself(tmp_path, suffix):
    clips(tmp_path)
    for name in ("train", "val", "captions"):
        (tmp_path / f"{name}{suffix}").write_text(lines(CAPTIONS, suffix))
    assert read(tmp_path / f"train{suffix}") == read(tmp_path / f"captions{suffix}") == CAPTIONS
    assert read(tmp_path / f"val{suffix}", "validation") == read(tmp_path, "validation") == CAPTIONS
    with pytest.raises(DatasetError, match=f"val{suffix}: the name of this file makes it the split validation"):
        load_clips(tmp_path / f"val{suffix}", "train")


def test_other_json_and_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "train.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match=r"train\.json: not a list of objects with the file and the caption"):
        load_clips(tmp_path / "train.json", "train")
    (tmp_path / "train.json").write_text('[\n{"file_name": "a.mp4", caption: "a cat"}]')
    with pytest.raises(DatasetError, match=r"train\.json, line 2: not JSON"):
        load_clips(tmp_path, "train")
    (tmp_path / "train.xlsx").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"files of type '\.xlsx' are not read"):
        load_clips(tmp_path / "train.xlsx", "train")
    clips(tmp_path)
    (tmp_path / "train.json").write_text(lines(CAPTIONS, ".jsonl"))  # an object on each line
    assert read(tmp_path) == CAPTIONS
    (tmp_path / "train.csv").write_text(lines({"a.mp4": "of the table"}, ".csv"))
    assert read(tmp_path) == {"a.mp4": "of the table"}


@pytest.mark.parametrize("name", ["val", "valid", "dev"])
def test_other_names_of_the_validation_split(tmp_path, name):
    (clips(tmp_path / name) / "metadata.jsonl").write_text(lines(CAPTIONS, ".jsonl"))
    assert read(tmp_path, "validation") == read(tmp_path, name) == CAPTIONS
    shutil.move(tmp_path / name / "metadata.jsonl", tmp_path / f"{name}.jsonl")
    assert has_split(tmp_path, "validation")
    clips(tmp_path)
    (tmp_path / "validation.csv").write_text(lines(CAPTIONS, ".csv"))
    with pytest.raises(DatasetError, match=f"validation exists as validation and as {name}; keep one of them"):
        has_split(tmp_path, "validation")


def test_a_missing_split_says_what_was_looked_for_and_what_is_there(tmp_path):
    clips(tmp_path / "train")
    (tmp_path / "captions.xlsx").write_bytes(b"x")
    with pytest.raises(DatasetError) as caught:
        load_clips(tmp_path, "train")
    message = str(caught.value)
    assert "no train/metadata.jsonl or .csv, no train.csv" in message and "\n" not in message
    assert "present: captions.xlsx, train/" in message


def test_parquet_without_clips_beside_tars_does_not_count(tmp_path):
    import datasets

    from tests.processing.clips.test_tars import write_tar

    write_tar(tmp_path / "train" / "00000.tar", [("0.mp4", b"a clip"), ("0.txt", b"a cat")])
    datasets.Dataset.from_list([{"key": "0", "caption": "a cat"}]).to_parquet(tmp_path / "train" / "00000.parquet")
    assert [row["captions"] for row in load_clips(tmp_path, "train")] == [["a cat"]]
    datasets.Dataset.from_list([{"video": "0", "caption": "a cat"}]).to_parquet(tmp_path / "train" / "00000.parquet")
    with pytest.raises(DatasetError, match="train exists as .parquet and as .tar"):
        load_clips(tmp_path, "train")


def test_numbered_tars_of_a_flat_folder_are_the_training_split(tmp_path):
    from tests.processing.clips.test_tars import write_tar

    write_tar(tmp_path / "00000.tar", [("0.mp4", b"a clip"), ("0.txt", b"a cat")])
    (tmp_path / "00000.parquet").write_bytes(b"facts")
    assert [row["captions"] for row in load_clips(tmp_path, "train")] == [["a cat"]]
    assert not has_split(tmp_path, "validation")


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_parquet_that_are_not_used_are_not_decoded(tmp_path, streaming):
    import datasets

    names = {"video": datasets.Video(), "pose": datasets.Video(), "sound": datasets.Audio(), "still": datasets.Image()}
    features = datasets.Features({**names, "caption": datasets.Value("string")})
    media = {name: {"bytes": b"nothing to decode", "path": None} for name in names}
    plain = datasets.Features(
        {
            **{name: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")} for name in names},
            "caption": datasets.Value("string"),
        }
    )
    table = datasets.Dataset.from_list([{**media, "caption": "a cat"}], features=plain).data.table
    info = {"info": {"features": features.to_dict()}}
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "train.parquet"
    )
    (row,) = load_clips(tmp_path, "train", streaming=streaming)
    assert row["video"]["bytes"] == b"nothing to decode" and row["captions"] == ["a cat"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_column_of_descriptions_is_taken_and_that_of_paths_never(tmp_path, suffix):
    (clips(tmp_path) / f"train{suffix}").write_text(lines(CAPTIONS, suffix, caption="description"))
    assert read(tmp_path) == CAPTIONS
    (tmp_path / f"train{suffix}").write_text(lines(CAPTIONS, suffix, caption="worte"))
    with pytest.raises(
        DatasetError, match="no column of captions recognised; pass caption_column=NAME, one of worte$"
    ):
        load_clips(tmp_path, "train")
    assert read(tmp_path, columns=Columns(None, "worte")) == CAPTIONS
    (tmp_path / "train.csv").write_text("file_name,path\na.mp4,a.mp4\n")
    (tmp_path / "train.jsonl").unlink(missing_ok=True)
    with pytest.raises(DatasetError, match=r"train\.csv: no column of captions; the columns are file_name, path"):
        load_clips(tmp_path, "train")


def test_columns_of_the_folder_form_can_be_given(tmp_path):
    metadata = clips(tmp_path / "train") / "metadata.csv"
    metadata.write_text("film,says,caption\na.mp4,a cat,no\n")
    assert read(tmp_path, columns=Columns("film", "says")) == {"a.mp4": "a cat"}
    with pytest.raises(DatasetError, match="caption_column=x is not a column; the columns are film, says, caption"):
        load_clips(tmp_path, "train", columns=Columns("film", "x"))


def test_cells_are_text(tmp_path):
    folder = clips(tmp_path, ["0001.mp4"])
    clips(folder / "0002", ["0.png"])
    (folder / "train.csv").write_text('file_name,caption\n0001.mp4,None\n0002,1\n0001.mp4,true\n"0002","a, ""b"""\n')
    rows = load_clips(folder, "train")
    assert rows["captions"][:] == [["None"], ["1"], ["true"], ['a, "b"']]
    assert Path(rows[1]["video"]["path"]) == folder / "0002"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name;caption\na.mp4;a cat, asleep\n", None),
        ("\ufefffile_name\tcaption\r\na.mp4\ta cat, asleep\r\n", None),
        ('file_name;"caption, old, odd";caption\na.mp4;no;a cat, asleep\n', None),
        ("file_name | caption\na.mp4|a cat, asleep\n", None),
        ('file_name, caption\na.mp4,"a cat, asleep"\n', None),
        (
            "file_name,caption\na.mp4,a cat, asleep\n",
            "line 2: more or fewer fields than the columns file_name, caption",
        ),
        ("file_name,caption\na.mp4\n", "line 2: more or fewer fields"),
        ('file_name,caption\na.mp4,"a cat\n', "line 2: not CSV"),
        ("file_name,caption\n,a cat\n", 'line 2: no "file_name"'),
        ("file_name,caption\n", "lists no clips"),
    ],
)
def test_separators_are_recognised_and_mistakes_named_by_line(tmp_path, content, message):
    (clips(tmp_path) / "train.csv").write_text(content, newline="")
    if message is None:
        assert read(tmp_path) == {"a.mp4": "a cat, asleep"}
        return
    with pytest.raises(DatasetError, match=rf"train\.csv.*{message}"):
        load_clips(tmp_path, "train")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_encodings(tmp_path, suffix):
    table = clips(tmp_path) / f"train{suffix}"
    text = lines({"a.mp4": "a café"}, suffix).replace("\\u00e9", "é")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        table.write_text(text, encoding=encoding)
        assert read(tmp_path) == {"a.mp4": "a café"}, encoding
    table.write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=rf"train\{suffix}, line \d: not UTF-8 .*; save the file as UTF-8"):
        load_clips(tmp_path, "train")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_the_other_spelling_of_accents(tmp_path, forms):
    named, stored = (unicodedata.normalize(form, "café.mp4") for form in forms)
    for folder in (tmp_path / unicodedata.normalize(form, "été") for form in ("NFC", "NFD")):
        metadata = clips(folder / "train", [stored]) / "metadata.jsonl"
        metadata.write_text(lines({named: "a cat"}, ".jsonl"))
        assert read(folder) == {stored: "a cat"}
        metadata.unlink()
        (folder / "train" / named).with_suffix(".txt").write_text("a dog")
        assert read(folder) == {stored: "a dog"}
