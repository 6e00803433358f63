"""Annotations with URLs -> a data set: every clip is accounted for, and a second run does only what is missing.

The clips come from a server on this machine, with dead links, stills, slow and broken answers among them.
"""

import argparse
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.clip_server import ClipServer, gif, refused_clips
from vidcap.cli import _Parser
from vidcap.commands.data_prepare import add_data_commands
from vidcap.data import fetching
from vidcap.data.fetching import FetchOptions, fetch_all
from vidcap.data.preparing import PrepareError, PrepareOptions, prepare

COUNT = 500
FAST = FetchOptions(connections=8, rate=10_000, timeout=10, retries=1, backoff=0.01)


@pytest.fixture
def server() -> Iterator[ClipServer]:
    with ClipServer() as server:
        yield server


def write_tgif(path: Path, server: ClipServer, numbers: range) -> Path:
    lines = (f"{server.url}/{number}.gif\tA square moves,  the {number}th &amp; last.\n" for number in numbers)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(arguments: list[str]) -> int:
    parser = _Parser(prog="vidcap")
    add_data_commands(parser.add_subparsers(), _Parser)
    parsed: argparse.Namespace = parser.parse_args(["data", "prepare", *arguments])
    return parsed.run(parsed)


def test_500_lines_of_tgif_from_an_unreliable_server(
    server: ClipServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.dead, server.still = set(range(0, COUNT, 10)), set(range(1, COUNT, 20))
    server.slow, server.truncated = set(range(2, COUNT, 20)), set(range(3, 15 * 20, 20))
    server.busy = {7, 27}
    annotations = write_tgif(tmp_path / "tgif.tsv", server, range(COUNT))
    output = tmp_path / "data"
    command = [str(annotations), "--format", "tgif", "--output", str(output), "--rate", "10000", "--retries", "1"]
    command += ["--connections", "8", "--timeout", "10", "--backoff", "0.01"]

    assert run(command) == 0
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    expected = {"gone": 50, "still": 25, "not_fetched": 15}
    assert {reason: count for reason, count in manifest["refused"].items() if count} == expected
    assert (manifest["annotated"], manifest["found"], manifest["kept"]) == (500, 435, 410)
    assert manifest["coverage"] == 0.82 and "kept 410 of 500 clips (82.0%)" in capsys.readouterr().out
    assert sum(server.asked.values()) == 500 + 15 + 2  # one new attempt for what broke off or was busy
    assert manifest["captions"]["annotated"] == 500 and manifest["captions"]["kept"] == 410
    assert manifest["cleaning"]["markup"] == {"before": 500, "after": 500, "changed": 500}
    assert sum(manifest["splits"][split]["kept"] for split in manifest["splits"]) == 410
    assert all(manifest["splits"][split]["kept"] > 5 for split in manifest["splits"])

    reasons = {each["source"]: (each["reason"], each["detail"]) for each in refused_clips(output)}
    assert len(reasons) == 90
    assert reasons[f"{server.url}/0.gif"] == ("gone", "the server answers 404 Not Found")
    assert reasons[f"{server.url}/1.gif"] == ("still", "it has one frame")
    assert reasons[f"{server.url}/3.gif"][1].startswith("the connection broke after")

    rows = []
    for shard in manifest["shards"]:
        data = (output / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        rows += pq.read_table(output / shard["file"]).to_pylist()
    by_name = {row["file_name"]: row for row in rows}
    assert len(by_name) == len(rows) == 410
    for clip in manifest["clips"]:
        row = by_name[clip["file_name"]]
        number = int(clip["source"].rpartition("/")[2].partition(".")[0])
        assert row["video"]["bytes"] == gif(number) and row["captions"] == [f"A square moves, the {number}th & last."]
        assert hashlib.sha256(row["video"]["bytes"]).hexdigest() == clip["sha256"]

    # Again: what is there or gone is not asked for, and where nothing changed nothing changes.
    server.asked.clear()
    written = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert run(command) == 0
    assert sum(server.asked.values()) == 2 * 15 and set(server.asked) == {f"/{n}.gif" for n in server.truncated}
    assert json.loads((output / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")} == written

    # Ten of the broken ones have recovered, and so have five of the dead, for those who ask.
    server.asked.clear()
    server.truncated = {number for number in server.truncated if number >= 200}
    server.dead -= {0, 10, 20, 30, 40}
    assert run(command) == 0
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["kept"], manifest["refused"]["not_fetched"], manifest["refused"]["gone"]) == (420, 5, 50)
    assert sum(server.asked.values()) == 10 + 2 * 5
    server.asked.clear()
    assert run([*command, "--retry_gone"]) == 0
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["kept"], manifest["refused"]["gone"]) == (425, 45)
    assert sum(server.asked.values()) == 50 + 2 * 5


def test_an_interrupted_run_goes_on(server: ClipServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = write_tgif(tmp_path / "tgif.tsv", server, range(60))
    options = PrepareOptions("tgif", fetch=FAST)
    replace, done = fetching.os.replace, []

    def fail_at_20(source: Path, target: Path) -> None:
        if len(done) >= 20:
            raise KeyboardInterrupt
        replace(source, target)
        done.append(target)

    with monkeypatch.context() as patch:
        patch.setattr(fetching.os, "replace", fail_at_20)
        with pytest.raises(KeyboardInterrupt):
            prepare(annotations, tmp_path / "data", options)
    there = [path for path in (tmp_path / "data" / "fetched").iterdir() if len(path.name) == 32]
    assert 20 <= len(there) < 60 and not list((tmp_path / "data").glob("*.parquet"))

    # As if it had been killed while it wrote.
    (tmp_path / "data" / "checks.jsonl").write_text('{"key": "half a li')
    server.asked.clear()
    manifest = prepare(annotations, tmp_path / "data", options)
    assert manifest["kept"] == 60 and sum(server.asked.values()) == 60 - len(there)
    assert manifest == prepare(annotations, tmp_path / "data", options)


def test_shares_by_hash_stay_when_clips_are_added(server: ClipServer, tmp_path: Path) -> None:
    options = PrepareOptions("tgif", validation=0.2, test=0.2, fetch=FAST)
    splits = []
    for count in (40, 60):
        annotations = write_tgif(tmp_path / "tgif.tsv", server, range(count))
        manifest = prepare(annotations, tmp_path / "data", options)
        splits.append({clip["source"]: clip["split"] for clip in manifest["clips"]})
    assert splits[0].items() <= splits[1].items() and len(splits[1]) == 60
    assert set(Counter(splits[1].values())) == {"train", "validation", "test"}


def test_published_lists_say_which_split(server: ClipServer, tmp_path: Path) -> None:
    annotations = write_tgif(tmp_path / "tgif.tsv", server, range(5))
    for name, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        (tmp_path / f"{name}.txt").write_text("".join(f"{server.url}/{number}.gif\n" for number in numbers))
    lists = tuple(tmp_path / f"{name}.txt" for name in ("train", "val", "test"))
    manifest = prepare(annotations, tmp_path / "data", PrepareOptions("tgif", split_lists=lists, fetch=FAST))
    assert [clip["split"] for clip in manifest["clips"]] == ["train", "train", "validation", "test"]
    assert manifest["refused"]["no_split"] == 1 and refused_clips(tmp_path / "data")[0]["source"].endswith("/4.gif")
    assert "/4.gif" not in server.asked

    lists[1].write_text(f"{server.url}/2.gif\n{server.url}/1.gif\n")
    with pytest.raises(ValueError, match=r"val.txt, line 2: .*/1.gif is in the list of train too"):
        prepare(annotations, tmp_path / "data", PrepareOptions("tgif", split_lists=lists, fetch=FAST))


def test_politeness(server: ClipServer, tmp_path: Path) -> None:
    urls = [f"{server.url}/{number}.gif" for number in range(8)]
    fetch_all(urls, tmp_path / "slowly", dataclasses.replace(FAST, rate=40))
    gaps = np.diff(sorted(server.times))
    assert len(gaps) == 7 and sum(gaps) > 7 / 40 - 0.02  # eight connections are no way around the rate

    server.statuses = {19: 500}
    server.times.clear()
    fetch_all([f"{server.url}/19.gif"], tmp_path / "wait", dataclasses.replace(FAST, retries=2, backoff=0.1))
    first, second = np.diff(server.times)
    assert first >= 0.05 and second >= 0.1  # twice as long each time, give or take a half

    server.busy, server.headers = {20}, {"Retry-After": "1"}
    server.times.clear()
    assert fetch_all([f"{server.url}/20.gif"], tmp_path / "wait", FAST)[f"{server.url}/20.gif"].path
    assert np.diff(server.times)[0] >= 0.99

    server.busy, server.headers = {21}, {"Retry-After": "100000"}  # longer than anyone would wait
    result = fetch_all([f"{server.url}/21.gif"], tmp_path / "wait", FAST)[f"{server.url}/21.gif"]
    assert (result.failure, result.gone) == ("the server answers 503 Service Unavailable", False)


def test_what_is_not_fetched(server: ClipServer, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/x.gif"
    urls = [f"{server.url}/1.gif", "ftp://x.org/a.gif", "http:///a.gif", closed]
    small = dataclasses.replace(FAST, max_bytes=100)
    results = fetch_all(urls, tmp_path / "fetched", small)
    failures = [results[url].failure for url in urls]
    assert "100 bytes; raise --max_bytes" in failures[0] and failures[1:3] == ["not an http(s) address"] * 2
    assert "refused" in failures[3] and server.asked["/1.gif"] == 1
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["gone.jsonl"]

    server.statuses, server.slow = {2: 403, 3: 429, 4: 500, 5: 302}, {6}
    server.headers = {"Location": "ftp://127.0.0.1/x.gif"}
    urls = [f"{server.url}/{number}.gif" for number in range(2, 7)]
    results = fetch_all(urls[:4], tmp_path / "fetched", FAST)
    results |= fetch_all(urls[4:], tmp_path / "fetched", dataclasses.replace(FAST, timeout=0.02))
    failures = [results[url].failure.partition(" (")[0] for url in urls]
    assert failures[0] == "the server answers 403 Forbidden"
    assert failures[1:3] == [
        "the server answers 429 Too Many Requests",
        "the server answers 500 Internal Server Error",
    ]
    assert "ftp://127.0.0.1/x.gif, which is not http(s)" in failures[3] and "timed out" in failures[4]
    assert [server.asked[f"/{number}.gif"] for number in range(2, 7)] == [1, 2, 2, 1, 2]  # what may pass, once more
    assert not (tmp_path / "fetched" / "gone.jsonl").read_text()
    with pytest.raises(ValueError, match="rate=0: pass a number above 0"):
        FetchOptions(rate=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--format msvd", "--format msvd names no files to fetch: name the folder of the clips by --clips"),
        ("--format tgif --no_fetch", "--no_fetch: name the folder of the clips by --clips"),
        ("--format tgif --no_fetch --clips . --rate 2", "--rate has no effect, since --no_fetch"),
        ("--format msvd --clips . --retry_gone", "--retry_gone has no effect, since --format msvd"),
        ("--format msrvtt --clips . --test 0.1", "--format msrvtt and --test both"),
        ("--format tgif --split train --validation 0.1", "--split train and --validation both"),
        (
            "--format tgif --split test --split_lists x",
            "--split test and --split_lists both",
        ),
        ("--format tgif --validation 0.5 --test 0.5", "--validation and --test leave nothing to train on"),
        ("--format tgif --shards folder --shard_mb 3", "--shard_mb has no effect, since --shards folder"),
        ("--format tgif --clips nowhere", "--clips nowhere: no such folder"),
        ("--format tgif", "captions.tsv: no such file"),
        ("--format tgif --rate 0", "argument --rate: '0' is not a number above 0"),
        ("--format tgif --connections 1.5", "argument --connections: '1.5' is not a whole number of at least 1"),
        ("--format tgif --test 1", "argument --test: '1' is not a share from 0 to below 1"),
        ("--format coco", "--format coco fetches files one by one only with --fetch: name the folder of the clips by"),
        (
            "--format coco --clips . --rate 2",
            "--rate has no effect, since --format coco without --fetch",
        ),
        ("--format msvd --clips . --fetch", "--fetch has no effect beside --format msvd"),
        ("--format tgif --keep grammar", "argument --keep: invalid choice: 'grammar'"),
    ],
)
def test_wrong_combinations_are_refused_first(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["captions.tsv", "--output", "data", *options.split()])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and f"vidcap data prepare: error: {message}" in error and error.count("\n") == 1


def test_bad_rows_are_counted_and_listed_and_the_others_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "v_a.gif").write_bytes(gif(1))
    annotations = tmp_path / "train.json"
    entry = {"timestamps": [[0, 0.2], [3, 3]], "sentences": ["a square moves", "it rests"]}
    annotations.write_text(json.dumps({"v_a": entry, "v_b": {"timestamps": [[0, 1]], "sentences": ["a man"]}}))
    command = [str(annotations), "--format", "activitynet", "--clips", str(clips), "--split", "train"]
    assert run([*command, "--output", str(tmp_path / "data")]) == 0
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert {reason: count for reason, count in manifest["refused"].items() if count} == {"annotation": 1, "missing": 1}
    assert (manifest["annotated"], manifest["found"], manifest["kept"]) == (3, 1, 1)
    missing, broken = refused_clips(tmp_path / "data")
    assert broken["source"] == "v_a, part 1" and broken["reason"] == "annotation"
    assert broken["detail"] == f"{annotations}, v_a, part 1: the part from 3.0 to 3.0 seconds is empty or invalid"
    detail = f"{clips} holds no v_b, with any common suffix; it holds files such as v_a.gif"
    assert missing["source"] == "v_b" and missing["detail"] == detail
    output = capsys.readouterr().out
    assert "refused: 1 annotation, 1 missing" in output and f"missing, such as: {detail}\n" in output
    (clips / "v_a.gif").unlink()
    with pytest.raises(PrepareError, match=r"2 missing, 1 annotation.*holds no v_a, .*; it holds no clips"):
        run([*command, "--output", str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("val_1.json", [], "5% of the clips to validation and 0% to test; its name says validation: if all are, pass"),
        ("captions.json", [], "if all are of one split, pass --split"),
        ("val_1.json", ["--split", "validation"], None),
    ],
)
def test_a_hash_that_deals_out_clips_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, option: list[str], said: str | None
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "v_a.gif").write_bytes(gif(1))
    (tmp_path / name).write_text(json.dumps({"v_a": {"timestamps": [[0, 0.2]], "sentences": ["a square moves"]}}))
    command = [str(tmp_path / name), "--format", "activitynet", "--clips", str(tmp_path / "clips"), *option]
    command += [] if option else ["--test", "0"]
    assert run([*command, "--output", str(tmp_path / "data")]) == 0
    lines = [line for line in caplog.messages if "hash" in line]
    assert len(lines) == (said is not None) and all(said and said in line for line in lines)


def test_images_of_coco_are_fetched_only_if_that_is_asked_for(server: ClipServer, tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.gif", "coco_url": f"{server.url}/{n}.gif"} for n in range(2)]
    captions = [{"image_id": n, "caption": f"a square, the {n}th"} for n in range(2)]
    annotations = tmp_path / "captions.json"
    annotations.write_text(json.dumps({"images": images, "annotations": captions}))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "0.gif").write_bytes(gif(0))
    command = [str(annotations), "--format", "coco", "--split", "train", "--output", str(tmp_path / "data")]
    assert run([*command, "--clips", str(tmp_path / "clips")]) == 0
    assert not server.asked and [each["reason"] for each in refused_clips(tmp_path / "data")] == ["missing"]
    assert run([*command, "--fetch", "--rate", "1000"]) == 0
    assert server.asked == {"/0.gif": 1, "/1.gif": 1} and not refused_clips(tmp_path / "data")


def test_failures_are_not_progress(server: ClipServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[fetching.Progress] = []

    class Recorded(fetching.Progress):
        def close(self) -> None:
            shown.append(self)
            super().close()

    monkeypatch.setattr(fetching, "Progress", Recorded)
    server.dead = set(range(4))
    fetch_all([f"{server.url}/{number}.gif" for number in range(10)], tmp_path / "fetched", FAST)
    assert (shown[0].count, shown[0].total) == (6, 6) and shown[0].line().endswith("failed 4")


def test_a_folder_of_other_things_is_left_alone(server: ClipServer, tmp_path: Path) -> None:
    annotations = write_tgif(tmp_path / "tgif.tsv", server, range(2))
    with pytest.raises(PrepareError, match="contains files of something else"):
        prepare(annotations, tmp_path, PrepareOptions("tgif", fetch=FAST))
    assert [path.name for path in tmp_path.iterdir()] == ["tgif.tsv"] and not server.asked
