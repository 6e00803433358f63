"""A cache of features on the Hub: pushed, pulled, and trained and evaluated from where there are no videos."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from safetensors.torch import load_file, save

import train_hf
from hub_card import cache_sharing
from processing.cache.feature_cache import folder_name
from processing.cache.upkeep import folders
from tests.hub_server import HubServer
from tests.processing.cache.test_cache_upkeep import stored, without_videos
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "--image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 4 --max_caption_length 16 --max_steps 2 "
    "--disable_tqdm True --use_cpu True --eval_strategy no --save_strategy best --load_best_model_at_end False "
    "--report_to none --decoding_workers 2 --bf16 False --muon False"
).split()
MANY = """
import json, sys
from hub_card import cache_sharing
from vidcap.cli import main
for size, argv in json.loads(sys.argv[1]):
    cache_sharing.FILE_BYTES = size
    print(argv[1], main(argv), flush=True)
"""


def train(data: Path, cache: Path, output: Path, *options: str) -> dict:
    command = ["--dataset", str(data), "--feature_cache", str(cache), "--output_dir", str(output)]
    assert train_hf.main([*command, *TRAIN, *options]) == 0
    return load_file(output / "model.safetensors")


def test_features_are_pushed_pulled_and_trained_from_without_the_videos(tmp_path, capsys) -> None:
    generate_demo_data(tmp_path / "clips", train=9, validation=2, test=3, size=32)
    weights = train(tmp_path / "clips", tmp_path / "cache", tmp_path / "model")
    (folder,) = folders(tmp_path / "cache")
    common = ["--feature_cache", str(tmp_path / "cache")]
    fetched = ["--feature_cache", str(tmp_path / "fetched")]
    with HubServer() as hub:
        commands = [
            (20_000, ["cache", "push", "tester/features", *common, "--private"]),
            (20_000, ["cache", "pull", "tester/features", *fetched]),
            (2**28, ["cache", "push", "tester/features", *common]),  # again, in larger files
            (2**28, ["cache", "pull", "tester/features", *fetched]),
            (2**28, ["cache", "pull", "tester/nothing", *fetched]),
        ]
        run = subprocess.run(
            [sys.executable, "-c", MANY, json.dumps(commands)],
            cwd=ROOT, env=hub.environment(tmp_path / "home"), capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        commits = hub.repositories["dataset", "tester/features"].commits
        files = hub.files("tester/features", kind="dataset")
        assert run.stderr.strip().splitlines()[-1].startswith("vidcap: error: the Hub refused tester/nothing: 404")
    url = f"{hub.url}/datasets/tester/features"
    target = tmp_path / "fetched" / folder.name
    assert run.stdout.splitlines() == [
        url, "push 0", f"{target}: 14 clips, 14 of them new", "pull 0",
        url, "push 0", f"{target}: 14 clips, 0 of them new", "pull 0", "pull 1",
    ]  # fmt: skip
    shards = [sorted(name for name in each if name.startswith("clips/")) for each in commits.values()]
    assert len(shards[1]) > 2 and shards[2] == ["clips/00000.safetensors"] == [n for n in files if n.endswith("rs")]
    for name, path in stored(folder).items():
        assert path.read_bytes() == (target / path.name).read_bytes(), name
    card = files["README.md"].decode()
    assert "14 clips as features (float16) of the frozen backbone `timm_backbone tf_efficientnet_lite0`" in card
    assert "4 frames of 32 x 32 pixels" in card
    assert not any(str(tmp_path).encode() in content for content in files.values())
    rows = pyarrow.parquet.read_table(pyarrow.BufferReader(files["clips.parquet"])).to_pylist()
    assert len(rows) == 14 and {row["name"].split("/")[0] for row in rows} == {"train", "validation", "test"}

    absent = without_videos(tmp_path / "clips", tmp_path / "elsewhere")
    again = train(absent, tmp_path / "fetched", tmp_path / "again", "--test_split", "none")
    assert all((again[name] == value).all() for name, value in weights.items())
    argv = ["evaluate", "--model", str(tmp_path / "model"), "--dataset", str(absent), *fetched]
    assert main([*argv, "--output", str(tmp_path / "report.json")]) == 0
    with_videos, without = (json.loads((tmp_path / name).read_text()) for name in ("model/report.json", "report.json"))
    assert with_videos["scores"] == without["scores"] and without["clips_without_file"] == 3
    capsys.readouterr()
    assert main(["cache", "list", *fetched]) == 0
    assert f"{folder.name}  14 clips, " in (line := capsys.readouterr().out) and "lite0, 4 frames of 32 x 32" in line


def test_what_is_no_cache_is_refused(tmp_path, monkeypatch) -> None:
    described = {"processor": {}, "options": {}, "backbone": None, "settings": {}}
    clip, shard = "a" * 64, "clips/00000.safetensors"
    good = {"settings.json": json.dumps({"described": described, "about": {}}).encode()}

    def table(clip: str, file: str) -> bytes:
        path = tmp_path / "table.parquet"
        row = {"clip": [clip], "file": [file], "name": ["train/a.mp4"], "captions": ["0" * 16]}
        pyarrow.parquet.write_table(pyarrow.table(row), path)
        return path.read_bytes()

    def pull(files: dict[str, bytes]) -> None:
        def fetch(repo_id, name, *, repo_type, local_dir):
            path = Path(local_dir, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(files[name])
            return str(path)

        monkeypatch.setattr(cache_sharing, "hf_hub_download", fetch)
        cache_sharing.pull_cache(tmp_path / "cache", "me/features")

    for files, message in (
        ({"settings.json": b"{}"}, "settings.json does not describe its clips"),
        ({"clips.parquet": b"PAR1"}, "clips.parquet cannot be read"),
        ({"clips.parquet": table("../../evil", shard)}, "names '../../evil' in 'clips/00000.safetensors'"),
        ({"clips.parquet": table(clip, "../x.safetensors")}, "in '../x.safetensors'"),
        ({"clips.parquet": table(clip, shard), shard: save({})}, "lacks 1 of its clips, such as aaaa"),
        ({"clips.parquet": table(clip, shard), shard: b"nonsense"}, "clips/00000.safetensors is damaged"),
    ):
        with pytest.raises(ValueError, match=f"me/features.*{message}"):
            pull(good | files)
    assert not list((tmp_path / "cache" / folder_name(described)).glob("*.safetensors"))
    assert not (tmp_path / "cache" / "names").exists()


def test_a_push_says_what_it_lacks(tmp_path, capsys) -> None:
    argv = ["cache", "push", "me/x", "--feature_cache", str(tmp_path)]
    assert main(argv) == 1
    assert f"{tmp_path} has no folder; " in capsys.readouterr().err
    for name in ("aa", "ab"):
        (tmp_path / name / ".in-use").mkdir(parents=True)
    assert main([*argv, "--folder", "a"]) == 1
    assert "2 folders whose name begins with a" in capsys.readouterr().err
    assert main([*argv, "--folder", "aa"]) == 1
    assert "has no settings.json" in capsys.readouterr().err
    assert main(["cache", "prune", "--feature_cache", str(tmp_path)]) == 1
    assert "give --limit GB, or set VIDCAP_CACHE_LIMIT" in capsys.readouterr().err
