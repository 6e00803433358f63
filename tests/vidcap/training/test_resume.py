"""Interrupted runs: `kill -9`, a damaged checkpoint, a full disk; the same command goes on to the same weights."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_hf
from tests.tiny import tiny_model
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training import checkpoints
from vidcap.training.checkpoints import check_fits, find_damage, find_last, find_unfinished, mark_finished, prune, seal

STEPS = 40
SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --frame_pool 6 --hidden_size 32 --intermediate_size 64 "
    "--num_attention_heads 2 --encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 3 "
    f"--gradient_accumulation_steps 2 --max_steps {STEPS} --save_minutes 0.0001 --ema_decay 0.9 --dropout 0.1 "
    "--word_dropout 0.3 --max_caption_length 16 --decoding_workers 2 --disable_tqdm True --eval_strategy no "
    "--save_strategy best --load_best_model_at_end False --test_split none --use_cpu True --report_to none "
    "--bf16 False"  # which is faster would be timed in each run, and may differ from one to the next
).split()
KINDS = {
    "map-style": ["--dataloader_num_workers", "2", "--augment", "crop,color,speed"],
    "streaming": ["--streaming", "True", "--augment", "crop,color,speed"],
    "memory": ["--freeze_backbone", "True", "--augment", "speed"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=20, validation=4, test=0, size=32)
    for split in ("train", "validation"):  # several captions a clip, so that there is one to draw
        metadata = path / split / "metadata.jsonl"
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        lines = [
            json.dumps({"file_name": r["file_name"], "captions": [r["caption"], "look: " + r["caption"]]})
            for r in rows
        ]
        metadata.write_text("\n".join(lines))
    return path


def arguments(folder: Path, output: Path, kind: str, *more: str) -> list[str]:
    cache = folder.parent / "cache"
    return [
        "--dataset",
        str(folder),
        "--output_dir",
        str(output),
        "--feature_cache",
        str(cache),
        *SMALL,
        *KINDS[kind],
        *more,
    ]


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(request, folder, tmp_path_factory):
    """A kind of data, and the weights that a run without interruption ends with."""
    output = tmp_path_factory.mktemp("whole") / "m"
    assert train_hf.main(arguments(folder, output, request.param)) == 0
    return request.param, load_file(output / "model.safetensors")


def assert_equal(output: Path, weights: dict[str, torch.Tensor]) -> None:
    found = load_file(output / "model.safetensors")
    assert found.keys() == weights.keys()
    differing = [name for name in weights if not torch.equal(found[name], weights[name])]
    assert not differing


def kill_when_written(command: list[str], output: Path, step: int, delay: float) -> None:
    """Runs `train_hf.py` in a process of its own, which dies some time after a checkpoint of that step or a later one
    has appeared."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = str(Path(train_hf.__file__))
    process = subprocess.Popen([sys.executable, script, *command], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(int(path.name.split("-")[1]) >= step for path in output.glob("checkpoint-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it had come to its end"


def test_a_killed_run_goes_on_to_the_same_weights(uninterrupted, folder, tmp_path, caplog):
    kind, weights = uninterrupted
    command = arguments(folder, tmp_path / "m", kind)
    kill_when_written(command, tmp_path / "m", step=5, delay=0.03)
    assert not (tmp_path / "m" / "report.json").exists()
    newest, before, *_ = checkpoints.checkpoints(tmp_path / "m")
    if kind == "streaming":  # here the newest checkpoint is damaged as well
        model = newest / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1] + b"?")
    assert train_hf.main(command) == 0
    if kind == "streaming":
        assert f"skipping {newest}: model.safetensors is damaged" in caplog.text
    assert f"resuming from {before if kind == 'streaming' else newest} " in caplog.text
    assert_equal(tmp_path / "m", weights)
    assert find_unfinished(tmp_path / "m", {}) is None  # it has come to its end: the same command begins a new one


@pytest.mark.slow
def test_twenty_kills_at_random_moments(uninterrupted, folder, tmp_path):
    kind, weights = uninterrupted
    command = arguments(folder, tmp_path / "m", kind)
    moments = random.Random(0)
    for kill in range(10):
        kill_when_written(command, tmp_path / "m", step=1 + 3 * kill, delay=moments.uniform(0, 0.2))
    assert train_hf.main(command) == 0
    assert_equal(tmp_path / "m", weights)


def test_a_full_disk_leaves_the_checkpoint_before(folder, tmp_path, capsys, monkeypatch):
    written = []

    def full(path, facts):
        written.append(facts["step"])
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        seal(path, facts)

    monkeypatch.setattr(checkpoints, "seal", full)
    assert train_hf.main(arguments(folder, tmp_path / "m", "map-style")) == 1
    error = capsys.readouterr().err
    assert f"checkpoint-{written[2]}: [Errno 28] No space left on device" in error
    assert f"resumes from {tmp_path / 'm' / f'checkpoint-{written[1]}'}" in error
    kept = checkpoints.checkpoints(tmp_path / "m")
    assert [find_damage(path) for path in kept] == [None, None] and len(list((tmp_path / "m").iterdir())) == 2


ON_A_SMALL_DISK = """
mkdir small && mount -t tmpfs -o size="$1" tmpfs small || exit 77
shift; "$@"; status=$?; cp -r small kept; exit $status
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_the_steps_since_the_last_checkpoint_alone(uninterrupted, folder, tmp_path):
    kind, weights = uninterrupted
    command = arguments(folder, tmp_path / "small", kind, "--save_total_limit", "2")
    # A file system of two checkpoints and a half, in a mount namespace of its own.
    assert train_hf.main(arguments(folder, tmp_path / "one", kind, "--max_steps", "1")) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "one" / "checkpoint-1").rglob("*") if path.is_file())
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", str(int(2.5 * size))]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    train = [*shell, sys.executable, train_hf.__file__, *command]
    run = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if run.returncode == 77:
        pytest.skip(f"a file system cannot be mounted here: {run.stderr}")
    error = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and "cannot write" in error and "the same command resumes from" in error
    kept = checkpoints.checkpoints(tmp_path / "kept")
    assert [find_damage(path) for path in kept] == [None, None] and len(list((tmp_path / "kept").iterdir())) == 2
    assert train_hf.main(arguments(folder, tmp_path / "kept", kind, "--save_total_limit", "2")) == 0
    assert_equal(tmp_path / "kept", weights)


def test_what_is_asked_for_and_not_there_is_one_line(folder, tmp_path, capsys):
    for wanted, message in (
        ("last", "no intact checkpoint to resume from"),
        (str(tmp_path / "no"), "no such folder"),
    ):
        command = arguments(folder, tmp_path / "m", "map-style", "--resume_from_checkpoint", wanted)
        assert train_hf.main(command) == 1
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error


def test_weights_of_another_model_are_named(tmp_path):
    tiny_model().save_pretrained(tmp_path, save_original_format=False)
    with pytest.raises(ValueError, match=r"does not fit the model: model\.\S+ (has shape|is missing|is unknown)"):
        check_fits(tiny_model(hidden_size=64), tmp_path)
    check_fits(tiny_model(), tmp_path)


def sealed(directory: Path, step: int, **settings) -> Path:
    folder = directory / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "weights").write_text("1")
    seal(folder, {"settings": settings, "written": step})
    return folder


def test_a_run_of_other_settings_or_a_finished_one_is_not_gone_on_from(tmp_path, caplog):
    sealed(tmp_path, 5, seed=1, learning_rate=0.1)
    newest = sealed(tmp_path, 10, seed=1, learning_rate=0.1)
    assert find_unfinished(tmp_path, {"seed": 1, "learning_rate": 0.1}) == find_last(tmp_path) == newest
    assert find_unfinished(tmp_path, {"seed": 1, "learning_rate": 0.5}) is None
    assert "another learning_rate (0.1, now 0.5)" in caplog.text
    mark_finished(tmp_path)
    assert find_unfinished(tmp_path, {"seed": 1, "learning_rate": 0.1}) is None and find_damage(newest) is None


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(1, None, [40]), (2, 10, [40, 10]), (3, 10, [40, 30, 10]), (1, 20, [40, 20]), (None, None, [40, 30, 20, 10])],
)
def test_neither_the_newest_nor_the_best_checkpoint_is_removed(tmp_path, limit, best, kept):
    for step in (10, 20, 30, 40):
        sealed(tmp_path, step)
    prune(tmp_path, limit, str(tmp_path / f"checkpoint-{best}"))
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in kept]
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_a_stream_fits_into_its_time_and_goes_on(folder, tmp_path, monkeypatch):
    def stop_halfway(path, facts):
        budget = facts["budget"]
        if budget["steps"] is not None and facts["step"] > 0.5 * budget["steps"]:
            raise OSError("stopped")
        seal(path, facts)

    options = ["--max_steps", "-1", "--max_train_minutes", "0.05", "--processor_time", "True", "--evaluations", "1"]
    command = arguments(folder, tmp_path / "m", "streaming", *options)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "seal", stop_halfway)
        assert train_hf.main(command) == 1
    before = checkpoints.read_manifest(checkpoints.checkpoints(tmp_path / "m")[0])
    assert train_hf.main(command) == 0
    after = checkpoints.read_manifest(checkpoints.checkpoints(tmp_path / "m")[0])
    steps = json.loads((tmp_path / "m" / "report.json").read_text())["steps"]
    assert before["step"] < steps == after["step"] == after["budget"]["steps"]
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert train_hf.main([*command, "--resume_from_checkpoint", "last"]) == 0
    assert_equal(tmp_path / "m", weights)  # not a step was added
