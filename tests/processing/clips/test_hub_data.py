"""Data sets of the Hub: which files they may name, and what is asked for when they are streamed."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest

from processing.clips.hub_files import resolve_name
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from processing.clips.streams import AHEAD
from tests.hub_server import HubServer
from tests.media import shades, write_video

ROOT = Path(__file__).resolve().parents[3]
READ = """
import json, sys
import datasets
from huggingface_hub import HfApi
from processing.clips.rows import load_clips
from processing.clips.hub_files import fetch_clip
from processing.video_io_vidcap import decode_video

datasets.disable_progress_bars()
found = {}
for name in sys.argv[2:]:
    HfApi().create_repo(f"tester/{name}", repo_type="dataset")
    HfApi().upload_folder(repo_id=f"tester/{name}", repo_type="dataset", folder_path=f"{sys.argv[1]}/{name}")
    for streaming in (False, True):
        try:
            clips = [fetch_clip(row["video"]) for row in load_clips(f"tester/{name}", "train", streaming=streaming)]
            found[f"{name} {streaming}"] = [len(decode_video(clip, num_frames=None).frames) for clip in clips]
        except ValueError as error:
            found[f"{name} {streaming}"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

STREAM = """
import itertools, json, sys
from huggingface_hub import HfApi
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.arguments.data_arguments import DataArguments
from processing import VideoDecodeError
from processing.clips.clip_dataset import ClipDataset
from processing.cache.feature_cache import ClipCache
from processing.clips.streams import StreamedClips
from tests.tiny import tiny_processor
from vidcap.training.data import load_training_data

HfApi().create_repo("tester/clips", repo_type="dataset")
HfApi().upload_folder(repo_id="tester/clips", repo_type="dataset", folder_path=sys.argv[1])
args = VideoCaptionTrainingArguments(output_dir=sys.argv[2], max_steps=1, use_cpu=True)
options = {"dataset": ["tester/clips"], "streaming": True, "max_validation_clips": 3}
try:
    load_training_data(DataArguments(**options), args)
except VideoDecodeError as error:
    refused = str(error)
data = load_training_data(DataArguments(**options, skip_broken_clips=True), args)
missing = []
cache = ClipCache(sys.argv[2], tiny_processor().video_processor)
ClipDataset(data.validation, cache).prepare("validation", on_broken=lambda *broken: missing.append(broken))
captions = [caption for (caption,) in data.captions()]
clips = StreamedClips(data.train, tiny_processor(), workers=1)
clips.position = [[0, 10, 10]]
rest = [clip["captions"][0] for clip in itertools.islice(clips, 2)]
print(json.dumps([captions, rest, refused, missing]))
"""


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("a.mp4", "a.mp4"),
        ("./b/../a b.mp4", "a b.mp4"),
        ("b/c/a..mp4", "b/c/a..mp4"),
        ("..a.mp4", "..a.mp4"),
        *((name, None) for name in ("/etc/a.mp4", "../a.mp4", "b/../../a.mp4", "..\\a.mp4", "..", ".", "b/..")),
        *((name, None) for name in ("file:///etc/a.mp4", "hf://datasets/me/other/a.mp4", "http://10.0.0.1/a.mp4")),
    ],
)
def test_a_name_stays_inside_of_its_folder(name: str, resolved: str | None) -> None:
    if resolved is not None:
        assert resolve_name(name, "line 1") == resolved
        return
    with pytest.raises(DatasetError, match="line 1: .* is not a file of this data set"):
        resolve_name(name, "line 1")


def folder_form(root: Path, *names: str) -> None:
    """A data set in the folder form, whose clips have two frames, three ..."""
    (root / "train").mkdir(parents=True)
    lines = []
    for frames, name in enumerate(names, start=2):
        path = root / "train" / name
        if not path.exists() and ".." not in name:
            path.parent.mkdir(exist_ok=True)
            write_video(path, shades(frames))
        lines.append(json.dumps({"file_name": name, "caption": "a shade"}))
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines))


def test_a_data_set_of_the_hub_names_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    secret = str(write_video(tmp_path / "private" / "secret.mp4", shades(9)))
    folder_form(tmp_path / "good", "a.mp4", "deep/b.mp4", "./deep/../a.mp4")
    folder_form(tmp_path / "absolute", "a.mp4", secret)
    folder_form(tmp_path / "upwards", "a.mp4", "../../../../../../../../.." + secret)
    folder_form(tmp_path / "videofolder", "a.mp4", "b.mp4")
    (tmp_path / "videofolder" / "train" / "metadata.jsonl").unlink()
    with (tmp_path / "videofolder" / "train" / "metadata.csv").open("w") as file:
        csv.writer(file).writerows([("file_name", "caption"), ("a.mp4", "x"), ("b.mp4", "y")])
    for name, value in (("table", secret), ("relative", "secret.mp4"), ("address", "http://127.0.0.1/a.mp4")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"path,caption\n{value},a secret\n")
    for name, path in (("struct", secret), ("stranger", "hf://datasets/tester/good-not@main/train/a.mp4")):
        (tmp_path / name).mkdir()
        rows = [{"video": {"path": path, "bytes": None}, "caption": "a secret"}]
        form = datasets.Features({"video": datasets.Video(), "caption": datasets.Value("string")}).arrow_schema
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, form), tmp_path / name / "train.parquet")
    names = [path.name for path in tmp_path.iterdir() if path.name != "private"]
    with HubServer() as hub:
        run = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path), *names],
            cwd=ROOT, env=hub.environment(tmp_path / "home"), capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    for streaming in (False, True):
        assert found.pop(f"good {streaming}") == [2, 3, 2]
    assert found.pop("videofolder False") == [2, 3]
    assert found.pop("videofolder True") == [2, 3]
    assert len(found) == 2 * 7
    for name, error in found.items():
        assert error.startswith("DatasetError: ") and "is not a file of this data set" in error, (name, error)
        assert len(error.splitlines()) == 1


def test_a_local_data_set_fetches_nothing_from_the_hub(tmp_path: Path) -> None:
    rows = [{"video": {"path": "hf://datasets/me/private/a.mp4", "bytes": None}, "caption": "x"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    for streaming in (False, True):
        with pytest.raises(DatasetError, match="row 0: hf://datasets/me/private/a.mp4 is a file on the Hub"):
            list(load_clips(tmp_path, "train", streaming=streaming))


def test_a_stream_fetches_a_clip_when_it_is_needed(tmp_path: Path) -> None:
    """Neither for captions, nor to fill the shuffle buffer, nor to come back to where reading stopped.

    The validation split is the folder `val`.
    """
    for split, count in (("train", 30), ("val", 3)):
        (tmp_path / "clips" / split).mkdir(parents=True)
        rows = []
        for number in range(count):
            write_video(tmp_path / "clips" / split / f"{number}.mp4", shades(2))
            rows.append(json.dumps({"file_name": f"{number}.mp4", "caption": f"{split} {number}"}))
        if split == "val":
            rows.insert(1, json.dumps({"file_name": "gone.mp4", "caption": "x"}))
        (tmp_path / "clips" / split / "metadata.jsonl").write_text("\n".join(rows))
    with HubServer() as hub:
        run = subprocess.run(
            [sys.executable, "-c", STREAM, str(tmp_path / "clips"), str(tmp_path / "m")],
            cwd=ROOT, env=hub.environment(tmp_path / "home"), capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        gets = [each.split("/resolve/")[1] for each in hub.requests if each.startswith("GET ") and "/resolve/" in each]
    captions, rest, refused, missing = json.loads(run.stdout.splitlines()[-1])
    assert set(captions) == {f"train {number}" for number in range(30)}
    assert rest == captions[10:12]  # which are sampled in the order of the stream
    fetched = {split: [each for each in gets if f"/{split}/" in each and ".mp4" in each] for split in ("train", "val")}
    assert "gone.mp4: no such file on the Hub" in refused and [name for name, _ in missing] == ["gone.mp4"]
    assert len(set(fetched["val"])) == 2 and 2 <= len(fetched["train"]) <= 2 + AHEAD
