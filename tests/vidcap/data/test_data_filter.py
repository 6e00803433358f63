"""`vidcap data filter`: the scores, what is kept, and the data set that is written."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from processing.clips.rows import has_split, load_clips
from tests.media import texture, write_video
from tests.tiny import tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.data import filtering
from vidcap.data.filtering import ScoredPair, choose_kept
from vidcap.inference.loading import load_captioner

# The last clip has a caption of words that the model knows, and one that is longer.
CAPTIONS = [
    ["a red circle grows"],
    ["the dog runs", "a small cat"],
    ["a blue star spins"],
    ["cat", "dog sleeps slowly"],
]
PAIRS = sum(map(len, CAPTIONS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose second clip has all that a row may have."""
    path = tmp_path_factory.mktemp("data") / "clips"
    (path / "train").mkdir(parents=True)
    frames = texture(40, 48, 64)
    lines = []
    for index, captions in enumerate(CAPTIONS):
        write_video(path / "train" / f"{index}.mp4", frames[9 * index : 9 * index + 8 + index])
        row = {"file_name": f"{index}.mp4", "captions": captions}
        lines.append(json.dumps(row | ({"caption_reversed": "x", "kind": "dogs"} if index == 1 else {})))
    (path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return path


def command(folder: Path, model: str, output: Path, *options: str) -> list[str]:
    return ["data", "filter", str(folder), "--split", "train", "--model", model, "--output", str(output), *options]


def scores_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_scores_are_the_cosines_of_each_pair_worst_first(folder, model, tmp_path, capsys):
    before = content(folder)
    assert main(command(folder, model, tmp_path / "kept", "--keep_share", "0.5", "--batch_size", "3")) == 0
    output = capsys.readouterr().out
    assert f"kept {PAIRS // 2} of {PAIRS} captions" in output and "median" in output
    scores = scores_of(tmp_path / "kept")
    assert [each["score"] for each in scores] == sorted(each["score"] for each in scores)
    assert [each["kept"] for each in scores] == [False] * 3 + [True] * 3
    captioner, processor = load_captioner(model, device="cpu")
    found = {(each["file_name"], each["caption"]): each["score"] for each in scores}
    assert len(found) == PAIRS
    for index, captions in enumerate(CAPTIONS):
        clip = processor(videos=[str(folder / "train" / f"{index}.mp4")], return_tensors="pt")
        for caption in captions:
            tokens = processor.tokenizer([caption], return_tensors="pt")
            with torch.inference_mode():
                video = captioner.get_video_features(**clip)
                text = captioner.get_text_features(tokens["input_ids"], tokens["attention_mask"])
            expected = torch.nn.functional.cosine_similarity(video, text).item()
            assert found[f"{index}.mp4", caption] == pytest.approx(expected, abs=1e-3)
    assert max(found.values()) - min(found.values()) > 0.05  # else the ranking would say nothing
    assert content(folder) == before


def test_what_is_kept_is_a_data_set_of_the_same_clips(folder, model, tmp_path):
    assert main(command(folder, model, tmp_path / "kept", "--keep_share", "0.7")) == 0
    kept = {(each["file_name"], each["caption"]) for each in scores_of(tmp_path / "kept") if each["kept"]}
    assert len(kept) == 4
    assert not Path(json.loads((tmp_path / "kept" / "train.jsonl").read_text().splitlines()[0])["path"]).is_absolute()
    rows = load_clips(tmp_path / "kept", "train")
    assert {(row["file_name"], caption) for row in rows for caption in row["captions"]} == kept
    for row in rows:
        assert Path(row["video"]["path"]).samefile(folder / "train" / row["file_name"])
    everything = tmp_path / "everything"
    assert main(command(folder, model, everything, "--min_score", "-1")) == 0
    again, given = load_clips(everything, "train"), load_clips(folder, "train")
    for name in ("file_name", "captions", "caption_reversed", "kind"):
        assert again[name] == given[name]


def test_clips_that_come_as_bytes_become_shards(folder, model, tmp_path, monkeypatch):
    rows = load_clips(folder, "train")
    inside = rows.map(lambda row: {"video": {"path": None, "bytes": Path(row["video"]["path"]).read_bytes()}})
    (tmp_path / "shards").mkdir()
    inside.to_parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    monkeypatch.setattr(filtering, "SHARD_BYTES", 1)  # each clip is larger, and gets a shard of its own
    monkeypatch.setattr(filtering, "PART", 3)
    assert main(command(tmp_path / "shards", model, tmp_path / "kept", "--min_score", "-1")) == 0
    assert len(list((tmp_path / "kept").glob("train-*.parquet"))) == len(CAPTIONS)
    again = load_clips(tmp_path / "kept", "train")
    for name in ("file_name", "captions", "caption_reversed", "kind"):
        assert again[name] == rows[name]
    assert [row["video"]["bytes"] for row in again] == [row["video"]["bytes"] for row in inside]
    assert main(command(folder, model, tmp_path / "paths", "--min_score", "-1")) == 0
    assert scores_of(tmp_path / "paths") == scores_of(tmp_path / "kept")


def test_unreadable_clips_are_left_out_and_listed(folder, model, tmp_path, capsys):
    broken = tmp_path / "broken" / "train"
    broken.mkdir(parents=True)
    (broken / "bad.mp4").write_bytes(b"nothing")
    names = ["bad.mp4", *(str(folder / "train" / f"{index}.mp4") for index in range(2))]
    lines = [json.dumps({"file_name": name, "caption": f"a {word}"}) for name, word in zip(names, "xyz", strict=True)]
    (broken / "metadata.jsonl").write_text("\n".join(lines))
    assert main(command(broken.parent, model, tmp_path / "kept", "--keep_share", "1")) == 1
    assert "1 of 3 clips cannot be read" in capsys.readouterr().err
    (listed,) = (tmp_path / "kept" / "unreadable.jsonl").read_text().splitlines()
    assert json.loads(listed)["file_name"] == "bad.mp4"
    rows = load_clips(tmp_path / "kept", "train")
    assert [(row["file_name"], row["captions"]) for row in rows] == [(names[1], ["a y"]), (names[2], ["a z"])]
    (broken / "metadata.jsonl").write_text(lines[0])
    assert main(command(broken.parent, model, tmp_path / "none")) == 1
    assert "none of the 1 clips can be read" in capsys.readouterr().err


def test_a_share_counts_captions_and_a_score_is_a_bound():
    pairs = [ScoredPair(row, f"{row}", "a", score) for row, score in enumerate([0.3, 0.1, 0.5, 0.1])]
    assert choose_kept(pairs, keep_share=0.75) == [True, True, True, False]  # of equal ones the first
    assert choose_kept(pairs, keep_share=1) == [True] * 4
    assert choose_kept(pairs, min_score=0.3) == [True, False, True, False]
    with pytest.raises(ValueError, match="min_score=0.6 keeps none of the 4 captions, which score 0.100 to"):
        choose_kept(pairs, min_score=0.6)
    with pytest.raises(ValueError, match="keep_share=0.1 keeps none"):
        choose_kept(pairs, keep_share=0.1)
    with pytest.raises(ValueError, match="give exactly one of them"):
        choose_kept(pairs, keep_share=0.1, min_score=0.1)


def test_nothing_kept_is_an_error_that_leaves_nothing_behind(folder, model, tmp_path, capsys):
    assert main(command(folder, model, tmp_path / "kept", "--min_score", "1")) == 1
    assert "lower it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and not has_split(tmp_path / "kept", "train")


def test_a_model_without_a_contrastive_loss_is_refused(folder, tmp_path, capsys):
    tiny_model(contrastive_weight=0.0).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    assert main(command(folder, str(tmp_path / "model"), tmp_path / "kept")) == 1
    assert "was trained with --contrastive_weight 0" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_a_model_that_gives_no_numbers_is_refused(folder, tmp_path, capsys):
    model = tiny_model()
    model.text_projection.weight.data.fill_(torch.nan)
    model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    assert main(command(folder, str(tmp_path / "model"), tmp_path / "kept")) == 1
    assert "diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep_share", "0.5", "--min_score", "0.1"], "not allowed with argument"),
        (["--keep_share", "0"], "'0' is not a share above 0, up to 1"),
        (["--min_score", "2"], "'2' is not a number from -1 to 1"),
        (["--output", "{folder}/new"], "lies within the data set"),
        (["--output", "{folder}"], "exists already; name a new folder"),
        (["--output", "{folder}/no/such"], "no such folder: "),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(folder, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(command(folder, "no/such/model", tmp_path / "o", *(each.format(folder=folder) for each in options)))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
