"""`vidcap data inspect`: what it counts, what it finds suspicious, leaks between splits, its status and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing.clips.rows import load_clips
from tests.media import cut, texture, write_animation, write_video
from vidcap.cli import main
from vidcap.data.contact_sheets import CLIPS, draw_clips, save_contact_sheet
from vidcap.data.inspecting import InspectedClip, find_leaks, quantiles, summarise, words_of
from vidcap.demo.demo_data import generate_demo_data


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(folder, train=7, validation=2, test=2, size=32)
    return folder


def write_split(folder: Path, clips: dict[str, list[str]]) -> None:
    lines = [json.dumps({"file_name": name, "captions": captions}) for name, captions in clips.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """A training split with one of each fault, and a test split with one of its clips under another name."""
    train, test = tmp_path / "flawed" / "train", tmp_path / "flawed" / "test"
    train.mkdir(parents=True)
    test.mkdir()
    frames = texture(20, 48, 64)
    sound = write_video(train / "sound.mp4", frames, rate=20)
    (train / "twin.mp4").write_bytes(sound.read_bytes())
    (train / "same.mp4").write_bytes(sound.read_bytes())
    (test / "leak.mp4").write_bytes(sound.read_bytes())
    cut(sound, 0.5)
    write_animation(train / "still.gif", [frames[0]], 100)
    write_video(train / "frozen.mp4", frames[:1] * 9, rate=20)
    write_animation(train / "short.gif", frames[:2], 50)
    write_animation(test / "own.gif", frames[5:15], 100)
    captions = {
        "sound.mp4": ["A pattern moves left", "coloured noise"],
        "same.mp4": ["coloured  noise", "a pattern moves LEFT"],
        "twin.mp4": ["a dog runs over the grass"],
        "cut_sound.mp4": ["a broken file"],
        "still.gif": ["a picture of noise"],
        "frozen.mp4": ["noise, again!"],
        "short.gif": ["Noise!", "word " * 61],
    }
    write_split(train, captions)
    write_split(test, {"leak.mp4": ["Coloured noise"], "own.gif": ["another pattern"]})
    return tmp_path / "flawed"


def test_a_sound_data_set_has_status_0_and_its_numbers(demo, tmp_path, capsys):
    assert main(["data", "inspect", str(demo), "--output", str(tmp_path / "new" / "folder")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    inspection = json.loads((tmp_path / "new" / "folder" / "inspection.json").read_text())
    assert {split: each["clips"] for split, each in inspection["splits"].items()} == {
        "train": 7,
        "validation": 2,
        "test": 2,
    }
    train, rows = inspection["splits"]["train"], load_clips(demo, "train")
    lengths = [len(caption.split()) for row in rows for caption in row["captions"]]  # they have no marks
    assert train["captions"]["words"]["min"] == min(lengths) and train["captions"]["words"]["max"] == max(lengths)
    words = [word for row in rows for word in row["captions"][0].split()]
    assert train["captions"]["vocabulary"]["words"] == len(set(words))
    assert train["captions"]["vocabulary"]["seen_once"] == sum(words.count(word) == 1 for word in set(words))
    assert train["width"]["min"] == train["height"]["max"] == 32 and 1.5 < train["seconds"]["median"] < 2.7
    assert 14 < train["frames"]["min"] <= train["frames"]["max"] < 40
    assert train["unreadable"] == [] and inspection["leakage"]["content"] == []
    assert "train: 7 clips, 7 captions" in captured.out and "captions of test that are also in train:" in captured.out


def test_each_fault_is_found_and_named(flawed, tmp_path, capsys):
    assert main(["data", "inspect", str(flawed), "--output", str(tmp_path / "out"), "--workers", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "vidcap: train: 1 of 7 clips cannot be read",
        "vidcap: test: the content of 1 clips is also in train",
    ]
    inspection = json.loads((tmp_path / "out" / "inspection.json").read_text())
    train = inspection["splits"]["train"]
    (unreadable,) = train["unreadable"]
    assert unreadable["file_name"] == "cut_sound.mp4" and unreadable["reason"].startswith("truncated")
    assert sorted((each["file_name"], each["reason"]) for each in train["suspicious"]) == [
        ("frozen.mp4", "still"),
        ("short.gif", "few_words"),
        ("short.gif", "many_words"),
        ("short.gif", "short"),
        ("still.gif", "still"),
        ("twin.mp4", "contradiction"),
    ]
    assert train["repeated_content"] == 2  # `same.mp4` has the same captions, but is there again
    assert train["captions"]["count"] == 10 and train["captions"]["different"] == 8
    assert train["captions"]["most_frequent"][0] == {"caption": "A pattern moves left", "clips": 2, "share": 0.2857}
    (leak,) = inspection["leakage"]["content"]
    assert leak["files"] == {"train": ["sound.mp4", "same.mp4", "twin.mp4"], "test": ["leak.mp4"]}
    assert inspection["leakage"]["captions_in_train"] == {"test": 0.5}
    for text in ("frozen.mp4: its 9 frames are equal", "cut_sound.mp4: truncated", "test: leak.mp4"):
        assert text in captured.out


def test_a_clip_damaged_between_the_frames_that_training_takes_is_unreadable(tmp_path):
    from processing import decode_video
    from tests.media import spoil_packet
    from vidcap.data.inspecting import inspect_clip

    path = spoil_packet(write_video(tmp_path / "a.mp4", texture(30, 48, 64), gop=1, b_frames=0), 3)
    decode_video(path, num_frames=2)
    clip = inspect_clip({"file_name": "a", "captions": ["x"], "video": {"path": str(path), "bytes": None}})
    assert clip.error.startswith("damaged") and clip.sha256


def test_limit_splits_and_clips_that_come_as_bytes(demo, tmp_path, capsys):
    rows = load_clips(demo, "train")
    inside = rows.map(lambda row: {"video": {"path": None, "bytes": Path(row["video"]["path"]).read_bytes()}})
    inside = inside.rename_columns({"video": "film", "captions": "said"})
    inside.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    columns = ["--video_column", "film", "--caption_column", "said"]
    assert main(["data", "inspect", str(tmp_path), "--limit", "3", *columns]) == 0
    assert "train: 3 clips (the first of 7), 3 captions" in capsys.readouterr().out
    assert main(["data", "inspect", str(demo), "--splits", "test"]) == 0
    output = capsys.readouterr().out
    assert "test: 2 clips" in output and "train:" not in output and "two splits" not in output
    assert main(["data", "inspect", str(demo), "--splits", "dev"]) == 1
    assert "no dev/metadata.jsonl" in capsys.readouterr().err
    assert main(["data", "inspect", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_frequent_caption_needs_a_share_and_a_number_of_clips():
    def clips(common: int, total: int) -> list[InspectedClip]:
        captions = ["A dog  runs" if index % 2 else "a dog runs" for index in range(common)]
        captions += [f"number {index}" for index in range(total - common)]
        return [InspectedClip(f"{i}", (each, each), f"{i}", 1.0, 9, 8, 8) for i, each in enumerate(captions)]

    assert summarise(clips(9, 20))["suspicious"] == []
    assert summarise(clips(10, 1000))["suspicious"] == []  # 1 %, and not more
    (found,) = summarise(clips(10, 999))["suspicious"]
    assert found["reason"] == "frequent_caption" and found["detail"] == "a dog runs (10 clips, 1.0%)"


def test_leaks_between_other_splits_are_listed_but_train_alone_matters():
    from vidcap.commands.data_inspect import find_faults

    def clip(name: str, content: str) -> InspectedClip:
        return InspectedClip(name, ("a cat",), content, 1.0, 9, 8, 8)

    splits = {"train": [clip("a", "1")], "validation": [clip("b", "2")], "test": [clip("c", "2"), clip("d", "")]}
    leakage = find_leaks(splits)
    assert leakage["content"] == [{"sha256": "2", "files": {"validation": ["b"], "test": ["c"]}}]
    assert leakage["captions_in_train"] == {"validation": 1.0, "test": 1.0}
    summaries = {split: summarise(clips) for split, clips in splits.items()}
    assert find_faults({"splits": summaries, "leakage": leakage}) == []


def test_words_and_quantiles():
    assert words_of("A man’s T-shirt, is RED ... (１２)") == ["a", "man’s", "t-shirt", "is", "red", "12"]
    assert quantiles([]) is None
    found = quantiles(range(101))
    assert found == {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100, "mean": 50}


def test_contact_sheet_shows_first_middle_and_last_frame_and_the_text(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [np.full((96, 128, 3), colour, np.uint8) for colour in colours for _ in range(3)]
    path = write_animation(tmp_path / "a.gif", frames, 100)
    row = {"video": {"path": str(path), "bytes": None}, "captions": ["a caption"]}
    save_contact_sheet([row] * 4, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    for place, colour in enumerate(colours):
        assert (sheet[12 + 48, 12 + 130 * place + 64] == colour).all()
    below = sheet[12 + 96 : 12 + 96 + 16, 12 : 12 + 130]
    assert (below == 255).mean() > 0.5 and below.min() < 60  # letters on white
    save_contact_sheet([row | {"captions": ["another one"]}] * 4, tmp_path / "other.png")
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "sheet.png").read_bytes()
    with pytest.raises(ValueError, match="at least one clip"):
        save_contact_sheet([], tmp_path / "none.png")


def test_the_clips_of_a_contact_sheet_are_drawn_alike_each_time():
    assert draw_clips(range(5)) == [0, 1, 2, 3, 4]
    drawn = draw_clips(range(1000))
    assert drawn == draw_clips(range(1000)) == sorted(set(drawn)) and len(drawn) == CLIPS and max(drawn) > 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0"], "'0' is not a whole number of at least 1"),
        (["--splits", "train", "test", "train"], "--splits names train twice"),
        (["--output", __file__], "is a file; name a folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "inspect", "no/such/folder", *options])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
