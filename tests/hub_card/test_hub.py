"""Exported folder -> Hub -> a process without this package, against a server that speaks the Hub's protocol."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from hub_card import ExportError, export_model, push_to_hub
from hub_card import probe as probe_module
from hub_card.probe import probe
from processing.clips.rows import load_clips
from tests.hub_server import READ_TOKEN, HubServer
from tests.tiny import tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data

ROOT = Path(__file__).resolve().parents[2]
PUSH = "import sys; from hub_card import push_to_hub; print(push_to_hub(sys.argv[1], sys.argv[2], private=True))"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("export"))


def push(hub: HubServer, folder: Path, repo_id: str, home: Path, **options: str | None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PUSH, str(folder), repo_id]
    return subprocess.run(command, cwd=ROOT, env=hub.environment(home, **options), capture_output=True, text=True)


def test_a_pushed_model_loads_by_its_id_and_captions_the_same(hub: HubServer, exported: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    (exported / "checkpoint-1").mkdir()
    (exported / "checkpoint-1" / "model.safetensors").write_bytes(b"a checkpoint")
    (exported / "training_args.bin").write_bytes(b"a pickle")

    run = push(hub, exported, "tester/captioner", tmp_path / "author")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"{hub.url}/tester/captioner"
    assert b"FOLDER_OR_HUB_ID" in files["README.md"]  # in its snippets, until it has a name
    files["README.md"] = files["README.md"].replace(b"FOLDER_OR_HUB_ID", b"tester/captioner")
    assert hub.files("tester/captioner") == files  # checkpoints and pickles stay behind

    result = tmp_path / "result.json"
    environment = hub.environment(tmp_path / "reader", token=READ_TOKEN)
    command = [sys.executable, "-I", probe_module.__file__, "tester/captioner", str(result)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, expected = json.loads(result.read_text()), probe(str(exported), trust_remote_code=False)
    assert found["captions"] == expected["captions"]
    assert len(set(found["captions"])) == 2  # one caption for every clip would prove nothing
    assert all(math.isclose(*pair, abs_tol=1e-4) for pair in zip(found["logits"], expected["logits"], strict=True))


def test_a_refused_push_and_a_folder_that_is_no_export(hub: HubServer, exported: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vidcap", "push", str(exported), "tester/refused"]
    environment = hub.environment(tmp_path / "home", token="hf_wrong")
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    line = "vidcap: error: the Hub refused tester/refused: 401, Invalid credentials in Authorization header"
    assert run.stderr.startswith(line) and len(run.stderr.splitlines()) == 1, run.stderr
    assert ("model", "tester/refused") not in hub.repositories
    with pytest.raises(ExportError, match="config.json.*run export_model"):
        push_to_hub(tmp_path, "tester/empty")


def test_a_data_set_on_the_hub_trains_a_model_that_is_pushed(hub: HubServer, tmp_path: Path) -> None:
    generate_demo_data(tmp_path / "clips", train=12, validation=4, test=4, size=32)
    code = (
        "import sys, train_hf; from huggingface_hub import HfApi; api = HfApi(); "
        "api.create_repo('tester/clips', repo_type='dataset'); "
        "api.upload_folder(repo_id='tester/clips', repo_type='dataset', folder_path=sys.argv[1]); "
        "sys.exit(train_hf.main(sys.argv[2:]))"
    )
    options = (
        "--dataset tester/clips --streaming True --max_steps 2 --eval_steps 2 --eval_strategy steps --backbone cnn "
        "--image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
        "--per_device_train_batch_size 4 --max_caption_length 16 --push_to_hub --hub_model_id tester/trained"
    ).split()
    output = ["--output_dir", str(tmp_path / "model"), "--feature_cache", str(tmp_path / "cache")]
    command = [sys.executable, "-c", code, str(tmp_path / "clips"), *options, *output]
    environment = hub.environment(tmp_path / "home")
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "backbone: small CNN" in run.stderr and "(reference: " in run.stderr  # the log reaches the user
    pushed = hub.files("tester/trained")
    assert pushed["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert json.loads(pushed["report.json"])["arguments"]["dataset"] == "tester/clips"
    assert str(tmp_path) not in pushed["report.json"].decode()
    ever = {name for files in hub.repositories["model", "tester/trained"].commits.values() for name in files}
    assert not [name for name in ever if "checkpoint" in name or name.endswith((".bin", ".pt", ".pth"))]
    assert list((tmp_path / "model").glob("checkpoint-*/optimizer.pt"))  # there was one to leak


def test_shards_on_the_hub_are_streamed_by_two_processes_and_the_model_captions_by_its_id(
    hub: HubServer, tmp_path: Path
) -> None:
    generate_demo_data(tmp_path / "clips", train=14, validation=4, test=0, size=32)
    (tmp_path / "shards" / "data").mkdir(parents=True)
    for split, count in (("train", 2), ("validation", 1)):
        rows = load_clips(tmp_path / "clips", split)
        inside = [
            {"video": {"bytes": Path(row["video"]["path"]).read_bytes(), "path": None}, "caption": row["captions"][0]}
            for row in rows
        ]
        for shard in range(count):
            name = f"{split}-{shard:05d}-of-{count:05d}.parquet"
            datasets.Dataset.from_list(inside[shard::count]).to_parquet(tmp_path / "shards" / "data" / name)
    upload = (
        "import sys; from huggingface_hub import HfApi; api = HfApi(); "
        "api.create_repo('tester/shards', repo_type='dataset'); "
        "api.upload_folder(repo_id='tester/shards', repo_type='dataset', folder_path=sys.argv[1])"
    )
    options = (
        "--dataset tester/shards --streaming True --max_steps 3 --eval_steps 3 --eval_strategy steps --backbone cnn "
        "--image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
        "--per_device_train_batch_size 2 --max_caption_length 16 --push_to_hub --hub_model_id tester/streamed "
        "--use_cpu True"
    ).split()
    output = ["--output_dir", str(tmp_path / "model"), "--feature_cache", str(tmp_path / "cache")]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    clip = next(str(path) for path in (tmp_path / "clips" / "train").iterdir() if path.suffix == ".mp4")
    for command in (
        ["-c", upload, str(tmp_path / "shards")],
        [*two, "train_hf.py", *options, *output],
        ["-m", "vidcap", "caption", clip, "--model", "tester/streamed", "--max_new_tokens", "8"],
    ):
        environment = hub.environment(tmp_path / "home")
        run = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{clip}: ")
    assert hub.files("tester/streamed")["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
