"""What a test set shares with training."""

from pathlib import Path

from vidcap.evaluation.leakage import caption_leakage, shared_clips

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
