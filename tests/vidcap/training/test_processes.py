"""Training on two processes started by accelerate: the same losses as on one, and runs that go on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import train_hf
from processing.clips.augmentation import ClipAugmentation
from vidcap.demo.demo_data import generate_demo_data

SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --frame_pool 6 --hidden_size 32 --intermediate_size 64 "
    "--num_attention_heads 2 --encoder_layers 1 --multimodal_layers 1 --max_steps 9 --logging_steps 1 --dropout 0 "
    "--word_dropout 0 --max_caption_length 16 --decoding_workers 1 --disable_tqdm True --eval_strategy no "
    "--save_strategy no --load_best_model_at_end False --test_split none --use_cpu True --report_to none "
    "--gradient_accumulation_steps 2 --bf16 False"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=20, validation=3, test=0, size=32)
    return path


def command(folder: Path, output: Path, *options: str) -> list[str]:
    cache = folder.parent / "cache"
    return ["--dataset", str(folder), "--output_dir", str(output), "--feature_cache", str(cache), *SMALL, *options]


def read_settings(folder: Path) -> str:
    settings = folder / "settings.json"
    return settings.read_text() if settings.is_file() else ""


def launcher(*arguments: str, fsdp: bool = False) -> dict:
    """What `subprocess` needs to start two processes."""
    root = Path(train_hf.__file__).parent
    script = root / "tests" / "fsdp_on_cpus.py" if fsdp else root / "train_hf.py"
    config = root / "recipes" / "accelerate" / ("fsdp.yaml" if fsdp else "one-machine.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    launch += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return {"args": [*launch, str(script), *arguments], "env": environment, "text": True}


def on_two_processes(*arguments: str, fsdp: bool = False) -> subprocess.CompletedProcess:
    return subprocess.run(**launcher(*arguments, fsdp=fsdp), capture_output=True, timeout=300)


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[tuple[float, ...]]:
    names = ("loss", "caption_loss", "contrastive_loss")
    return [tuple(each[name] for name in names) for each in log_of(output) if "contrastive_loss" in each]


# Muon computes in bf16, which turns differences in the last bit into larger ones.
@pytest.mark.parametrize(("muon", "tolerance"), [("False", 1e-5), pytest.param("True", 5e-3, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns(folder, tmp_path, monkeypatch, muon, tolerance):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    # Three clips to evaluate: one of the four places is filled up, not 125 of 128.
    options = ["--muon", muon, "--per_device_eval_batch_size", "64", "--eval_strategy", "steps", "--eval_steps", "9"]
    assert train_hf.main(command(folder, tmp_path / "one", "--per_device_train_batch_size", "6", *options)) == 0
    done = on_two_processes(*command(folder, tmp_path / "two", "--per_device_train_batch_size", "3", *options))
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 9 and one[0][0] - min(one)[0] > 0.3  # they do learn
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=0, atol=tolerance)
    evaluated = [
        next(line["eval_loss"] for line in log_of(tmp_path / each) if "eval_loss" in line) for each in ("one", "two")
    ]
    assert evaluated[1] == pytest.approx(
        evaluated[0], abs=0.3
    )  # of the clips themselves, beside which one stands twice
    if muon == "False":
        weights, others = (load_file(tmp_path / each / "model.safetensors") for each in ("one", "two"))
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_learn_of_a_mixture_what_one_learns(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    generate_demo_data(tmp_path / "more", train=8, validation=2, test=0, size=32, seed=1)
    options = ["--dataset", str(folder), str(tmp_path / "more"), "--dataset_weights", "2", "1", "--muon", "False"]
    one = command(folder, tmp_path / "one", "--per_device_train_batch_size", "6", *options)
    two = command(folder, tmp_path / "two", "--per_device_train_batch_size", "3", *options)
    assert train_hf.main(one) == 0
    done = on_two_processes(*two)
    assert done.returncode == 0, done.stderr
    expected = losses(tmp_path / "one")
    assert len(expected) == 9 and expected[0][0] - min(expected)[0] > 0.3
    torch.testing.assert_close(torch.tensor(losses(tmp_path / "two")), torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_find_the_broken_clips_of_both(tmp_path):
    generate_demo_data(tmp_path / "clips", train=12, validation=3, test=0, size=32)
    names = [json.loads(line)["file_name"] for line in (tmp_path / "clips/train/metadata.jsonl").open()]
    for name in names[4:6]:  # one of the share of each
        (tmp_path / "clips" / "train" / name).write_bytes(b"nonsense")
    options = ["--max_steps", "2", "--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "3"]
    done = on_two_processes(*command(tmp_path / "clips", tmp_path / "m", *options))
    assert done.returncode != 0 and done.stderr.count("2 of 12 clips cannot be read") >= 1
    options += ["--freeze_backbone", "True", "--augment", "flip", "--skip_broken_clips", "True"]
    done = on_two_processes(*command(tmp_path / "clips", tmp_path / "m", *options))
    assert done.returncode == 0, done.stderr
    (mirrored,) = (each for each in (tmp_path / "cache").iterdir() if '"mirrored"' in read_settings(each))
    rows = [json.loads(line) for line in (tmp_path / "clips/train/metadata.jsonl").open()]
    can_mirror = ClipAugmentation().can_mirror
    expected = [row["file_name"] not in names[4:6] and can_mirror([row["caption"]]) for row in rows]
    assert len(list(mirrored.glob("*.safetensors"))) == sum(expected) > 0
    skipped = json.loads((tmp_path / "m" / "report.json").read_text())["skipped_clips"]
    assert [each["file_name"] for each in skipped] == names[4:6]


SPLIT = ["--muon", "False", "--save_strategy", "steps", "--save_steps", "5", "--contrastive_type", "sigmoid"]


@pytest.fixture(scope="module")
def split(folder, tmp_path_factory):
    """What a run with weights split over two processes wrote."""
    output = tmp_path_factory.mktemp("split")
    done = on_two_processes(*command(folder, output, "--per_device_train_batch_size", "3", *SPLIT), fsdp=True)
    assert done.returncode == 0, done.stderr
    return output


def test_split_weights_learn_what_whole_ones_learn(split, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert train_hf.main(command(folder, tmp_path, "--per_device_train_batch_size", "6", *SPLIT)) == 0
    torch.testing.assert_close(torch.tensor(losses(split)), torch.tensor(losses(tmp_path)), rtol=0, atol=1e-5)
    whole, parts = load_file(tmp_path / "model.safetensors"), load_file(split / "model.safetensors")
    assert {name: each.shape for name, each in whole.items()} == {name: each.shape for name, each in parts.items()}


@pytest.mark.slow
def test_split_weights_go_on_from_a_checkpoint(split, folder, tmp_path):
    options = ["--per_device_train_batch_size", "3", "--resume_from_checkpoint", str(split / "checkpoint-5")]
    done = on_two_processes(*command(folder, tmp_path, *SPLIT, *options), fsdp=True)
    assert done.returncode == 0, done.stderr
    weights, others = (load_file(each / "model.safetensors") for each in (split, tmp_path))
    assert not [name for name in weights if not torch.equal(weights[name], others[name])]


@pytest.mark.slow
def test_a_run_that_loses_a_process_ends_and_goes_on(folder, tmp_path):
    options = ["--per_device_train_batch_size", "3", "--max_steps", "60", "--save_strategy", "best"]
    options += ["--save_minutes", "0.0001", "--dropout", "0.1"]
    whole = on_two_processes(*command(folder, tmp_path / "whole", *options))
    assert whole.returncode == 0, whole.stderr
    run = subprocess.Popen(**launcher(*command(folder, tmp_path / "m", *options)), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "m").glob("checkpoint-?")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    ranks = [each for each in psutil.Process(run.pid).children(recursive=True) if "train_hf.py" in str(each.cmdline())]
    max(ranks, key=lambda each: each.pid).kill()
    assert run.wait(timeout=120) != 0
    again = on_two_processes(*command(folder, tmp_path / "m", *options))
    assert again.returncode == 0 and "resuming from" in again.stderr, again.stderr
    weights, others = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", "m"))
    assert not [name for name in weights if not torch.equal(weights[name], others[name])]
