"""Local clips -> a data set: found, told apart, cut, and written in each form."""

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from processing import decode_video
from processing.clips.rows import load_clips
from tests import media
from tests.clip_server import gif, refused_clips
from vidcap.data import checking
from vidcap.data.checking import ClipFolder, SegmentError, cut_segment
from vidcap.data.preparing import PrepareError, PrepareOptions, prepare


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_local_clips_are_found_checked_and_told_apart(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "more").mkdir(parents=True)
    (clips / "a.gif").write_bytes(gif(1))
    (clips / "more" / "b.gif").write_bytes(gif(2))
    (clips / "same as b.gif").write_bytes(gif(2))
    media.write_video(clips / "video7.mp4", media.shades(8))
    media.write_video(clips / "still.mp4", [media.corners()] * 40)
    media.cut(clips / "video7.mp4", 0.6).rename(clips / "broken.mp4")
    for number in range(3):
        (clips / f"removed{number}.gif").write_bytes(gif(3))
    names = ["a.gif", "more/b.gif", "same as b.gif", "video7", "still.mp4", "broken", "nowhere.mp4"]
    rows = [{"file_name": name, "captions": [f"about {name}", "A clip"]} for name in names]
    rows += [{"file_name": f"removed{number}.gif", "caption": f"caption {number}"} for number in range(3)]
    rows.append({"file_name": "a.gif", "caption": "...", "start": 0, "end": 0.1})
    annotations = write_jsonl(tmp_path / "captions.jsonl", rows)
    options = PrepareOptions("jsonl", clips=clips, split="train", shards="folder", fetch=None)

    manifest = prepare(annotations, tmp_path / "data", options)
    reasons = [(each["source"], each["reason"]) for each in refused_clips(tmp_path / "data")]
    assert reasons == [
        ("same as b.gif", "duplicate"),
        ("still.mp4", "still"),
        ("broken", "unreadable"),
        ("nowhere.mp4", "missing"),
        *((f"removed{number}.gif", "placeholder") for number in range(3)),
        ("a.gif", "no_caption"),
    ]
    assert (manifest["annotated"], manifest["found"], manifest["kept"]) == (11, 9, 3)
    counts = manifest["captions"]
    assert counts == {
        "annotated": 18,
        "cleaned": 17,
        "kept": 7,
        "of_refused_clips": 9,
        "repeated_by_merging": 1,
    }
    loaded = list(load_clips(tmp_path / "data", "train"))
    assert [row["captions"] for row in loaded] == [
        ["about a.gif", "A clip"],
        ["about more/b.gif", "A clip", "about same as b.gif"],
        ["about video7", "A clip"],
    ]
    assert [Path(row["video"]["path"]).suffix for row in loaded] == [".gif", ".gif", ".mp4"]
    assert media.numbers(decode_video(loaded[2]["video"], num_frames=8).frames) == list(range(8))

    # A clip of the finished folder that got lost is written again, and a change of form leaves no old shards behind.
    Path(loaded[0]["video"]["path"]).unlink()
    assert prepare(annotations, tmp_path / "data", options) == manifest
    assert Path(loaded[0]["video"]["path"]).read_bytes() == gif(1)
    prepare(annotations, tmp_path / "data", dataclasses.replace(options, shards="parquet"))
    names = [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith("train")]
    assert names == ["train-00000-of-00001.parquet"]
    with pytest.raises(ValueError, match=".gif, .mp4; use --shards parquet"):
        prepare(annotations, tmp_path / "data", dataclasses.replace(options, shards="webdataset"))


def test_clips_are_found_by_other_endings_and_never_guessed(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "1").mkdir(parents=True)
    (clips / "1" / "a.gif").write_bytes(gif(1))
    folder = ClipFolder(clips)
    assert folder.find("a") == folder.find("a.avi") == folder.find("a.gif") == folder.find("1/a.gif")
    assert folder.find("b") is None and folder.find("../clips/1/a.gif") is None
    (clips / "a.mp4").write_bytes(b"")
    assert ClipFolder(clips).find("a.gif") == clips / "1" / "a.gif"
    with pytest.raises(ValueError, match="'a' matches both .*1/a.gif and .*a.mp4"):
        ClipFolder(clips).find("a")
    rows = [{"url": f"http://x.org/{number}/a.gif", "caption": "a"} for number in range(2)]
    options = PrepareOptions("jsonl", clips=clips, fetch=None)
    with pytest.raises(PrepareError, match="a.gif matches both http://x.org/0/a.gif and http://x.org/1/a.gif"):
        prepare(write_jsonl(tmp_path / "x.jsonl", rows), tmp_path / "data", options)


def test_a_clip_is_checked_again_if_it_changed_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.gif").write_bytes(gif(1, frames=1).ljust(len(gif(1)), b"\0"))  # as large as the sound one
    (clips / "b.gif").write_bytes(gif(2))
    annotations = write_jsonl(tmp_path / "x.jsonl", [{"file_name": f"{n}.gif", "caption": n} for n in "ab"])
    options = PrepareOptions("jsonl", clips=clips, fetch=None)
    assert prepare(annotations, tmp_path / "data", options)["refused"]["still"] == 1
    (clips / "a.gif").write_bytes(gif(1))
    manifest = prepare(annotations, tmp_path / "data", options)
    assert manifest["kept"] == 2
    monkeypatch.setattr(checking, "decode_video", None)
    assert prepare(annotations, tmp_path / "data", options) == manifest


def test_parquet_loads_as_a_video_column_and_tars_as_pairs(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(30):
        (clips / f"{number}.v1.gif").write_bytes(gif(number))
    rows = [{"file_name": f"{number}.v1.gif", "captions": [f"caption {number}", "é"]} for number in range(30)]
    annotations = write_jsonl(tmp_path / "captions.jsonl", rows)
    options = PrepareOptions("jsonl", clips=clips, split="train", shard_bytes=10 * len(gif(0)), fetch=None)

    manifest = prepare(annotations, tmp_path / "parquet", options)
    shards = [each["file"] for each in manifest["shards"]]
    total = len(shards)
    assert total >= 3 and shards == [f"train-{number:05d}-of-{total:05d}.parquet" for number in range(total)]
    files = [str(tmp_path / "parquet" / name) for name in shards]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["video"], datasets.Video)
    trained_on = list(load_clips(tmp_path / "parquet", "train", streaming=True))
    assert [row["captions"] for row in trained_on] == [row["captions"] for row in rows]
    assert trained_on[3]["file_name"] == manifest["clips"][3]["file_name"]
    assert trained_on[3]["file_name"].startswith("3-v1-") and trained_on[3]["file_name"].endswith(".gif")
    assert trained_on[3]["video"]["bytes"] == gif(3) and decode_video(trained_on[3]["video"]).mask.sum() == 3

    manifest = prepare(annotations, tmp_path / "tar", dataclasses.replace(options, shards="webdataset"))
    seen = []
    for shard in manifest["shards"]:
        with tarfile.open(tmp_path / "tar" / shard["file"]) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = [name.partition(".")[0] for name in members]
        assert keys[::2] == keys[1::2] and len(set(keys)) == shard["clips"]
        seen += [json.loads(content)["captions"] for name, content in members.items() if name.endswith(".json")]
        assert set(members.values()) & {gif(number) for number in range(30)}
    assert seen == [row["captions"] for row in rows]
    trained_on = list(load_clips(tmp_path / "tar", "train", streaming=True))
    assert [row["captions"] for row in trained_on] == seen and trained_on[3]["video"]["bytes"] == gif(3)


def test_parts_of_a_video_are_cut(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    media.write_video(clips / "v_long.mp4", media.shades(50), rate=10)  # five seconds
    entry = {"timestamps": [[1.0, 2.0], [3.0, 5.4], [4.0, 9.0], [7, 8]], "sentences": ["one", "two", "three", "four"]}
    annotations = tmp_path / "activitynet.json"
    annotations.write_text(json.dumps({"v_long": entry}))
    options = PrepareOptions("activitynet", clips=clips, split="test", shards="folder", fetch=None)

    manifest = prepare(annotations, tmp_path / "data", options)
    first, second = load_clips(tmp_path / "data", "test")
    clip = decode_video(first["video"], num_frames=None)
    assert media.numbers(clip.frames) == list(range(10, 20)) and clip.duration == pytest.approx(1.0, abs=0.01)
    assert media.numbers(decode_video(second["video"], num_frames=None).frames) == list(range(30, 50))
    details = [each["detail"] for each in refused_clips(tmp_path / "data")]
    assert details == [f"from {span} s, but the video lasts 5.0 s" for span in ("4 to 9", "7 to 8")]
    assert [each["start"] for each in manifest["clips"]] == [1.0, 3.0]
    assert prepare(annotations, tmp_path / "data", options) == manifest


def test_a_cut_keeps_rotation_times_and_odd_sizes(tmp_path: Path) -> None:
    times = [0, 100, 200, 900, 1000, 1050, 2000]
    frames = [np.where(media.corners(49, 65) == 255, 255 - 20 * n, 0).astype(np.uint8) for n in range(7)]
    path = media.write_video(
        tmp_path / "a.mp4", [f[:48, :64] for f in frames], times_ms=times, rotation=90, b_frames=0
    )
    whole = decode_video(path, num_frames=None)
    part = decode_video(cut_segment(path, 0.2, 1.05, tmp_path / "cut"), num_frames=None)
    assert part.times.tolist() == pytest.approx([0, 0.7, 0.8], abs=0.001)
    assert media.corner_names(part.frames[0]) == media.corner_names(whole.frames[2])
    assert part.frames.shape[2:] == whole.frames.shape[2:]
    media.write_animation(tmp_path / "odd.gif", frames, 100)
    assert decode_video(cut_segment(tmp_path / "odd.gif", 0, 0.3, tmp_path / "cut")).frames.shape[2:] == (48, 64)
    with pytest.raises(SegmentError, match="no frame from 0.3 to 0.8 s"):
        cut_segment(path, 0.3, 0.8, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*.part"))


def test_images_need_not_move_where_they_are_the_data(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    Image.fromarray(media.corners()).save(clips / "1.jpg")
    (tmp_path / "flickr.token").write_text("1.jpg#0\tFour colours .\n1.jpg#1\tfour colours .\n")
    manifest = prepare(
        tmp_path / "flickr.token", tmp_path / "data", PrepareOptions("flickr30k", clips=clips, split="train")
    )
    assert manifest["kept"] == 1 and manifest["clips"][0]["captions"] == 1
    (tmp_path / "same.jsonl").write_text('{"file_name": "1.jpg", "caption": "Four colours"}')
    with pytest.raises(PrepareError, match=r"none of the 1 clips can be used \(1 still\); .*refused.jsonl lists them"):
        prepare(tmp_path / "same.jsonl", tmp_path / "other", PrepareOptions("jsonl", clips=clips))
