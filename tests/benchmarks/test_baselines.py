"""Baselines: neighbours that are known, gaps computed by hand, captioners of transformers that learn what they see;
a benchmark that goes on where it was stopped."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.baselines import compare as benchmark
from benchmarks.baselines import train as train_baseline
from benchmarks.baselines.baseline_models import KINDS, make_baseline
from benchmarks.baselines.baselines import nearest_neighbours, pool_features, score_baselines
from processing.clips.clip_dataset import ClipDataset
from tests.tiny import tiny_config
from vidcap.demo.demo_data import generate_demo_data
from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--backbone cnn --freeze_backbone True --image_size 32 --num_frames 4 --frame_pool 6 --hidden_size 32 "
    "--intermediate_size 64 --num_attention_heads 2 --encoder_layers 1 --multimodal_layers 1 "
    "--per_device_train_batch_size 4 --max_caption_length 16 --decoding_workers 1 --disable_tqdm True"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=12, validation=3, test=4, size=32)
    return path


def arguments(folder: Path, output: Path, *options: str) -> list[str]:
    paths = ["--dataset", str(folder), "--output_dir", str(output), "--feature_cache", str(folder.parent / "cache")]
    return [*paths, *SMALL, *options]


def predictions(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def test_the_known_neighbour_is_found_whatever_the_features_have_in_common():
    generator = torch.Generator().manual_seed(0)
    # Features as a backbone's: far from 0 whatever is shown, of very different sizes.
    training = 50 + torch.randn(40, 12, generator=generator) * torch.logspace(-2, 2, 12)
    wanted = torch.tensor([7, 31, 0, 7])
    clips = training[wanted] + 0.1 * torch.randn(4, 12, generator=generator) * torch.logspace(-2, 2, 12)
    assert nearest_neighbours(clips, training).tolist() == wanted.tolist()
    assert nearest_neighbours(training[:1].expand(3, -1), training[:1].expand(5, -1)).tolist() == [0, 0, 0]


def test_clips_are_pooled_over_their_real_frames():
    class Cache:
        encode = staticmethod(lambda pixels: pixels)

        def load(self, clip):
            features = torch.arange(24.0).reshape(3, 4, 2).half()
            return {"video_features": features, "video_mask": torch.tensor([1, 1, 0])}

    rows = [{"video": None, "captions": ["a"], "file_name": "a"}]
    clips = ClipDataset(rows, Cache())
    assert pool_features(clips).tolist() == [[4, 5, 6, 7, 8, 9, 10, 11]]  # means of 0..7 and 8..15
    Cache.encode = None
    with pytest.raises(ValueError, match="contains frames"):
        pool_features(clips)


def test_gaps_are_ours_minus_theirs_on_the_same_clips():
    references = [["a dog runs"], ["a cat sleeps"], ["a bird sings"], ["a fish swims"]]
    ours = ["a dog runs", "a cat sleeps", "a bird sings", "a cow"]
    theirs = ["a dog runs", "a cow", "a cow", "a fish swims"]
    report = score_baselines(ours, references, {"theirs": theirs, "ours": ours})
    assert {name: report["theirs"][name] for name in ("exact", "cider")} == pytest.approx(
        {name: score_captions(theirs, references)[name] for name in ("exact", "cider")}
    )
    difference, low, high = report["theirs"]["gap"]["exact"]
    assert difference == pytest.approx(0.25) and low < difference < high  # 3 of 4 against 2 of 4
    own, other = (scores_per_clip(each, references)["cider"] for each in (ours, theirs))
    assert report["theirs"]["gap"]["cider"] == pytest.approx(list(paired_bootstrap(other, own)))
    assert (
        report["theirs"]["gap"]["cider"][0] == pytest.approx(own.mean() - other.mean()) and own.mean() > other.mean()
    )
    assert report["ours"]["gap"] == {"cider": [0, 0, 0], "exact": [0, 0, 0]}
    with pytest.raises(ValueError, match="theirs: 3 captions for 4 clips"):
        score_baselines(ours, references, {"theirs": theirs[:3]})


@pytest.mark.parametrize("kind", KINDS)
def test_captioners_of_transformers_learn_what_they_see(kind):
    """Four clips, the first two of which differ in the order of their frames alone, the last being short."""
    config = tiny_config(max_position_embeddings=8, thumbnail_size=1, color_bins=2)
    torch.manual_seed(0)
    model = make_baseline(kind, config, parameters=40_000)
    first, last = torch.rand(2, 4, 4, config.cell_features)
    features = torch.stack([first, first.flip(0), last, last])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    labels = torch.tensor([[5, 6, 7, 2], [5, 7, 6, 2], [8, 2, -100, -100], [9, 10, 2, -100]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(features, mask, labels).loss
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    written = [
        model.generate(features, mask, labels=labels, num_beams=beams, use_cache=cached, max_new_tokens=4)
        for beams, cached in itertools.product((1, 3), (True, False))
    ]
    wanted = [row[row >= 0].tolist() for row in labels]
    for tokens in written:
        captions = [row[1 : 1 + row[1:].tolist().index(2) + 1].tolist() for row in tokens]
        if kind == "blind":
            assert len({tuple(caption) for caption in captions}) == 1
        else:
            assert captions == wanted
    garbage = features.clone()
    garbage[3, 1:] = 1e4  # behind the end of the short clip
    torch.testing.assert_close(model(garbage, mask, labels).loss, model(features, mask, labels).loss)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_captioner(kind):
    config = tiny_config(vocab_size=50)
    for parameters in (100_000, 200_000):
        model = make_baseline(kind, config, parameters=parameters, num_beams=3)
        assert abs(model.num_parameters() - parameters) < 10_000  # half a layer at most
        assert model.config.hidden_size == config.hidden_size and model.generation_config.num_beams == 3


def test_a_baseline_is_trained_and_captions_and_a_stopped_one_goes_on(folder, tmp_path, monkeypatch, capsys):
    options = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no"]
    options += ["--load_best_model_at_end", "False", "--use_cpu", "True", "--report_to", "none"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_baseline.main(["git", *arguments(folder, whole, *options)]) == 0
    clips = predictions(whole)
    rows = [json.loads(line) for line in (folder / "test" / "metadata.jsonl").read_text().splitlines()]
    assert [(clip["file_name"], clip["references"]) for clip in clips] == [
        (row["file_name"], [row["caption"]]) for row in rows
    ]
    result = json.loads((whole / "result.json").read_text())
    assert result["steps"] == 6 and abs(result["parameters"] / result["ours_parameters"] - 1) < 0.3

    step = train_baseline.BaselineTrainer.training_step
    taken = []

    def stop_at_the_fifth(self, *args, **kwargs):
        if len(taken) == 4:
            raise ValueError("power cut")
        taken.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(train_baseline.BaselineTrainer, "training_step", stop_at_the_fifth)
    assert train_baseline.main(["git", *arguments(folder, parts, *options)]) == 1
    assert "power cut" in capsys.readouterr().err and not (parts / "result.json").exists()
    taken[:] = [None] * 5  # so that nothing stops it
    assert train_baseline.main(["git", *arguments(folder, parts, *options)]) == 0
    assert taken[5:] == [4, 5]
    weights, expected = (load_file(each / "checkpoint-6" / "model.safetensors") for each in (parts, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert predictions(parts) == clips


def test_untrained_baselines_take_captions_of_train(folder, tmp_path, capsys):
    known = [json.loads(line)["caption"] for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    for kind in train_baseline.UNTRAINED:
        assert train_baseline.main([kind, *arguments(folder, tmp_path / kind)]) == 0
        assert {clip["hypothesis"] for clip in predictions(tmp_path / kind)} <= set(known)
    assert len({clip["hypothesis"] for clip in predictions(tmp_path / "most_frequent")}) == 1
    assert train_baseline.main(["nothing"]) == 2 and "most_frequent" in capsys.readouterr().err
    pixels = [*arguments(folder, tmp_path / "pixels"), "--freeze_backbone", "False"]
    assert train_baseline.main(["git", *pixels]) == 1 and "frozen backbone" in capsys.readouterr().err


TRUE = ["a dog runs", "a cat sleeps", "a bird sings", "a fish swims", "two men play chess"]
CAPTIONS = {  # of the five test clips, by each captioner and seed
    ("vidcap", 0): TRUE,
    ("vidcap", 1): [*TRUE[:4], "a cow"],
    ("git", 0): [*TRUE[:2], "a cow", "a cow", "a cow"],
    ("git", 1): [*TRUE[:3], "a cow", "a cow"],
}
BEST = {"vidcap": "1e-3", "git": "3e-3", "vision_encoder_decoder": "3e-4", "blind": "3e-4"}


class Worker:
    """Stands in for `Bench.command`: writes what the commands write, and can be stopped."""

    def __init__(self, limit: float = np.inf):
        self.calls: list[str] = []
        self.limit = limit

    def __call__(self, bench, *parts: str, log: Path, threads: int) -> None:
        if len(self.calls) == self.limit:
            raise KeyboardInterrupt
        self.calls.append(log.name)
        value = {name: parts[parts.index(name) + 1] for name in parts if name.startswith("--")}
        model = parts[2] if "benchmarks.baselines.train" in parts else "vidcap"
        rate, seed, split = value.get("--learning_rate"), int(value.get("--seed", 0)), value.get("--test_split")
        if "evaluate" in parts:
            output, split = Path(value["--model"]), value["--split"]
            rate, seed = json.loads((output / "report.json").read_text())["arguments"]
        else:
            output = Path(value["--output_dir"])
        output.mkdir(exist_ok=True)
        captions = CAPTIONS.get((model, seed), ["a cow"] * 5)
        scores = score_captions(captions, [[true] for true in TRUE])
        if split == "validation":
            scores["cider"] = 100.0 if rate == BEST[model] else 50.0
        clips = [
            {"file_name": str(index), "hypothesis": caption, "references": [true]}
            for index, (caption, true) in enumerate(zip(captions, TRUE, strict=True))
        ]
        lines = "".join(json.dumps(clip) + "\n" for clip in clips)
        if parts[0] == "train_hf.py":
            (output / "report.json").write_text(json.dumps({"steps": 7, "arguments": [rate, seed]}))
            (output / "training_log.jsonl").touch()
            (output / "checkpoint-7").mkdir()
        elif "evaluate" in parts:
            Path(value["--output"]).write_text(json.dumps({"scores": scores}))
            Path(value["--predictions"]).write_text(lines)
        else:
            (output / "predictions.jsonl").write_text(lines)
            result = {"scores": scores, "steps": 9, "parameters": 2_000_000, "ours_parameters": 1_900_000}
            (output / "result.json").write_text(json.dumps(result))


def test_the_benchmark_repeats_nothing_and_its_figures_are_right(tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    command = ["baselines.py", str(tmp_path / "clips"), "--folder", str(tmp_path / "runs"), "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", command)

    def run(worker: Worker) -> str:
        monkeypatch.setattr(
            benchmark.Bench, "command", lambda bench, *parts, **kwargs: worker(bench, *parts, **kwargs)
        )
        benchmark.main()
        return capsys.readouterr().out

    first, second, third = Worker(11), Worker(), Worker()
    with pytest.raises(KeyboardInterrupt):
        run(first)
    table = run(second)
    # Two without training; of ours training and evaluation, of three others training: at 3 rates, then with 2 seeds.
    assert len(first.calls) + len(second.calls) == 2 + 5 * 3 + 5 * 2
    assert run(third) == table[table.index("\n|") :] and third.calls == []

    results = json.loads((tmp_path / "runs" / "results.json").read_text())
    own = [scores_per_clip(CAPTIONS["vidcap", seed], [[true] for true in TRUE])["cider"] for seed in (0, 1)]
    git = [scores_per_clip(CAPTIONS["git", seed], [[true] for true in TRUE])["cider"] for seed in (0, 1)]
    expected = paired_bootstrap((git[0] + git[1]) / 2, (own[0] + own[1]) / 2)
    found = results["comparison"]["git"]
    assert found["gap"] == pytest.approx(list(expected)) and found["gap"][0] > 0
    assert found["gap_by_seed"][1] == pytest.approx(list(paired_bootstrap(git[1], own[1])))
    report = json.loads((tmp_path / "runs" / "vidcap-test-rate1e-3-seed1-4min" / "test.json").read_text())
    assert report["baselines"]["git"]["exact"] == pytest.approx(0.6)
    assert report["baselines"]["git"]["gap"]["exact"][0] == pytest.approx(0.2)
    (row,) = [line for line in table.splitlines() if "Git" in line]
    assert row.startswith("| `GitForCausalLM` | 2.0 M | 9 | 3e-3 | 0.400, 0.600 | ")
    assert f"{expected.difference:+.0f} [{expected.low:+.0f}, {expected.high:+.0f}]" in row
    assert not list((tmp_path / "runs").glob("*/checkpoint-*"))
    monkeypatch.setattr(sys, "argv", [*command, "--preset", "1m"])
    with pytest.raises(SystemExit, match="2"):
        run(Worker())
    assert "give another --folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_benchmark_survives_a_kill(folder, tmp_path):
    command = [sys.executable, "-m", "benchmarks.baselines.compare", str(folder), "--folder", str(tmp_path / "runs")]
    command += ["--max_train_minutes", "0.05", "--seeds", "0", "--learning_rates", "1e-3", "3e-3", "--jobs", "2"]
    command += [*SMALL, "--use_cpu", "True", "--report_to", "none"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    results = tmp_path / "runs" / "results.json"
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    while killed.poll() is None and not (results.is_file() and len(json.loads(results.read_text())) >= 3):
        time.sleep(0.2)
    os.killpg(killed.pid, 9)
    killed.wait()
    kept = json.loads(results.read_text())
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())
    assert all(found[name] == value for name, value in kept.items())
    assert set(found["comparison"]) == {*benchmark.UNTRAINED, *KINDS, benchmark.OURS}
    assert done.stdout.count("\n| ") == 1 + len(benchmark.TITLES)
