"""Our captioner against simple baselines and captioners of transformers, at equal time, scored on the test split.

    python -m benchmarks.baselines.compare demo --max_train_minutes 2 --seeds 0 1 2 --jobs 2
    python -m benchmarks.baselines.compare my-clips --max_train_minutes 2 --seeds 0 1 2 --jobs 2

The first argument is `demo` (the demo recipe on generated clips, 500 of them for validation) or a folder of captioned
clips (the defaults); options not listed below are passed to all trainings. The comparison covers the most frequent
caption, the caption of the nearest training clip, and, trained for the same time on the same features, GPT-2 without
video, a `VisionEncoderDecoderModel`, a `GitForCausalLM` (see `train.py` beside this file) and our captioner
(`train_hf.py`). Each of these four is first tried at every rate of `--learning_rates` for `--trial_minutes`, and uses
the one with the best CIDEr on the validation split. On CPUs the budget is processor time, one thread per run, so that
other work slows a run down but hardly changes its result; on GPUs it is wall time, and nothing else should run.
Features are computed before the first run.

A finished run is not repeated and an interrupted one is resumed, so the command can be stopped and started again.
`results.json` contains scores and the differences with their 95 % intervals (paired bootstrap over the clips); those
of a seed are also in `test.json`, the report in the folder of our model, under `baselines`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.baselines.baseline_models import KINDS
from benchmarks.baselines.baselines import score_baselines
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip
from vidcap.files import write_atomically
from vidcap.precision import computes_in_bf16

ROOT = Path(__file__).resolve().parents[2]
UNTRAINED = ("most_frequent", "nearest_neighbour")
OURS = "vidcap"
TITLES = {
    "most_frequent": "most frequent caption",
    "nearest_neighbour": "nearest neighbour",
    "blind": "GPT-2 without video",
    "vision_encoder_decoder": "`VisionEncoderDecoderModel`",
    "git": "`GitForCausalLM`",
    OURS: "vidcap",
}


class Run(NamedTuple):
    """One training, scored on `split`: trials on validation, final runs on test."""

    model: str
    split: str
    rate: str
    seed: int
    minutes: float

    @property
    def name(self) -> str:
        return f"{self.model}-{self.split}-rate{self.rate}-seed{self.seed}-{self.minutes:g}min"


class Bench:
    """The folder of runs and results, and the commands of the runs."""

    def __init__(self, folder: Path, common: list[str], dataset: Path, jobs: int):
        self.folder, self.common, self.dataset, self.jobs = folder, common, dataset, jobs
        self.results: dict[str, Any] = {}
        self.lock = threading.Lock()
        if (folder / "results.json").is_file():
            self.results = json.loads((folder / "results.json").read_text())

    def save(self) -> None:
        write_atomically(self.folder / "results.json", json.dumps(self.results, indent=1))

    def command(self, *parts: str, log: Path, threads: int) -> None:
        """Runs a command in a process of its own, with its output in `log`."""
        # One precision for all, since each run would measure anew which is faster.
        precision = "bf16" if torch.cuda.is_available() or computes_in_bf16(torch.device("cpu")) else "no"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_MIXED_PRECISION": precision}
        with log.open("a") as file:
            done = subprocess.run(
                [sys.executable, *parts], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        if done.returncode:
            raise SystemExit(f"{log}: {log.read_text().strip().splitlines()[-1]}")

    def untrained(self, kind: str) -> None:
        """Runs a baseline without training; the first one computes the features of all splits."""
        if kind in self.results:
            return
        output = self.folder / kind
        parts = ["-m", "benchmarks.baselines.train", kind, *self.common, "--output_dir", str(output)]
        self.command(*parts, log=self.folder / f"{kind}.log", threads=os.cpu_count() or 1)
        self.results[kind] = json.loads((output / "result.json").read_text())
        self.save()

    def run(self, run: Run) -> None:
        if run.name in self.results:
            return
        output = self.folder / run.name
        options = [*self.common, "--output_dir", str(output), "--learning_rate", run.rate, "--seed", str(run.seed)]
        options += ["--max_train_minutes", f"{run.minutes:g}", "--evaluations", "1", "--save_minutes", "1"]
        options += ["--processor_time", str(not torch.cuda.is_available())]
        if trial := run.split == "validation":
            options += ["--num_beams", "1"]
        threads = 1 if not torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // self.jobs)
        log = self.folder / f"{run.name}.log"
        if run.model != OURS:
            if not (output / "result.json").is_file():
                parts = ["-m", "benchmarks.baselines.train", run.model, *options, "--test_split", run.split]
                self.command(*parts, log=log, threads=threads)
            result = json.loads((output / "result.json").read_text())
        else:
            if not (output / "training_log.jsonl").is_file():  # the last file to be written
                self.command("train_hf.py", *options, "--test_split", "none", log=log, threads=threads)
            report = output / f"{run.split}.json"
            if not report.is_file():
                parts = ["-m", "vidcap", "evaluate", "--model", str(output), "--dataset", str(self.dataset)]
                parts += ["--split", run.split, "--feature_cache", str(self.folder / "cache"), "--output", str(report)]
                parts += ["--predictions", str(output / "predictions.jsonl")]
                self.command(*parts, log=log, threads=threads)
            training = json.loads((output / "report.json").read_text())
            result = {
                "scores": json.loads(report.read_text())["scores"],
                "steps": training["steps"],
                "parameters": self.results["nearest_neighbour"]["ours_parameters"],
            }
        for checkpoint in output.glob("checkpoint-*"):  # not needed for finished runs
            shutil.rmtree(checkpoint)
        if trial:
            for weights in output.glob("*.safetensors"):
                weights.unlink()
        with self.lock:
            self.results[run.name] = result
            self.save()
            print(run.name, {name: round(value, 3) for name, value in result["scores"].items()}, flush=True)

    def run_all(self, runs: list[Run]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self.run, runs))

    def captions(self, name: str) -> tuple[list[str], list[list[str]]]:
        """A run's captions and the references of the test clips, in the order of their names."""
        lines = map(json.loads, (self.folder / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
        clips = sorted(lines, key=lambda clip: clip["file_name"])
        return [clip["hypothesis"] for clip in clips], [clip["references"] for clip in clips]


def best_rates(bench: Bench, rates: list[str], minutes: float) -> dict[str, str]:
    """The best learning rate of each trained model on the validation split; a single rate needs no trial."""
    if len(rates) == 1:
        return dict.fromkeys((OURS, *KINDS), rates[0])
    trials = {model: [Run(model, "validation", rate, 0, minutes) for rate in rates] for model in (OURS, *KINDS)}
    bench.run_all([run for runs in trials.values() for run in runs])
    return {
        model: max(runs, key=lambda run: bench.results[run.name]["scores"]["cider"]).rate
        for model, runs in trials.items()
    }


def compare(bench: Bench, finals: dict[str, list[Run]]) -> dict[str, Any]:
    """Compares all with our captioner on the test split, per seed and, under `gap`, by means over the seeds.

    The results are added to our models' reports (`baselines`) and to `results.json`.
    """
    ours = [run.name for run in finals[OURS]]
    names = {kind: [kind] * len(ours) for kind in UNTRAINED}
    names |= {model: [run.name for run in runs] for model, runs in finals.items() if model != OURS}
    per_clip: dict[str, list[np.ndarray]] = {name: [] for name in (OURS, *names)}
    by_seed = []
    for index, name in enumerate(ours):
        hypotheses, references = bench.captions(name)
        others = {}
        for kind, runs in names.items():
            others[kind], truths = bench.captions(runs[index])
            if truths != references:
                raise SystemExit(
                    f"{bench.folder}: {runs[index]} and {name} captioned different clips; delete {runs[index]}"
                )
        by_seed.append(score_baselines(hypotheses, references, others))
        for kind, captions in {OURS: hypotheses, **others}.items():
            per_clip[kind].append(scores_per_clip(captions, references)["cider"])
        report = bench.folder / name / "test.json"
        write_atomically(report, json.dumps({**json.loads(report.read_text()), "baselines": by_seed[-1]}, indent=2))
    means = {kind: np.mean(values, axis=0) for kind, values in per_clip.items()}
    comparison = {
        kind: {
            "runs": [bench.results[run] for run in runs],
            "gap": list(paired_bootstrap(means[kind], means[OURS])),
            "gap_by_seed": [scores[kind]["gap"]["cider"] for scores in by_seed],
        }
        for kind, runs in names.items()
    }
    comparison[OURS] = {"runs": [bench.results[name] for name in ours]}
    bench.results["comparison"] = comparison
    bench.save()
    return comparison


def table(comparison: dict[str, Any], finals: dict[str, list[Run]]) -> str:
    """The comparison in Markdown."""
    lines = [
        "| captioner | trained parameters | steps | learning rate | exact | CIDEr | ours minus it | of single seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in TITLES:
        found, runs = comparison[kind], comparison[kind]["runs"]
        trained = kind not in UNTRAINED
        scores = [run["scores"] for run in (runs if trained else runs[:1])]
        cells = [TITLES[kind], "", "", ""]
        if trained:
            steps = statistics.median(run["steps"] for run in runs)
            cells[1:] = [f"{runs[0]['parameters'] / 1e6:.1f} M", f"{steps:.0f}", finals[kind][0].rate]
        cells += [", ".join(f"{each['exact']:.3f}" for each in scores), ", ".join(f"{s['cider']:.0f}" for s in scores)]
        cells += (
            [interval(found["gap"]), "; ".join(map(interval, found["gap_by_seed"]))] if "gap" in found else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(gap: list[float]) -> str:
    return f"{gap[0]:+.0f} [{gap[1]:+.0f}, {gap[2]:+.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="`demo`, or a folder of captioned clips")
    parser.add_argument("--max_train_minutes", type=float, default=4, metavar="M", help="minutes per training [4]")
    parser.add_argument("--trial_minutes", type=float, metavar="M", help="minutes per trial [half a training]")
    parser.add_argument(
        "--learning_rates", nargs="+", default=["3e-4", "1e-3", "3e-3"], metavar="R", help="learning rates to try"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds of the final runs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel runs [1]")
    parser.add_argument("--folder", type=Path, help="folder of runs and results [outputs/baselines-NAME]")
    arguments, options = parser.parse_known_args()
    folder = (arguments.folder or ROOT / "outputs" / f"baselines-{Path(arguments.what).name}").resolve()
    dataset = folder / "clips" if arguments.what == "demo" else Path(arguments.what).resolve()
    if arguments.what != "demo" and not dataset.is_dir():
        parser.error(f"{arguments.what}: no such folder")
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps({"dataset": str(dataset), "options": options})
    if not (folder / "settings.json").is_file():
        write_atomically(folder / "settings.json", settings)
    elif (folder / "settings.json").read_text() != settings:
        parser.error(f"{folder} contains runs on other clips or with other options; give another --folder")

    common = ["--dataset", str(dataset), "--feature_cache", str(folder / "cache"), "--disable_tqdm", "True", *options]
    bench = Bench(folder, common, dataset, arguments.jobs)
    if arguments.what == "demo":
        bench.common = ["recipes/demo.yaml", *common]
        generate = ["-m", "vidcap", "demo-data", str(dataset), "--validation", "500"]
        bench.command(*generate, log=folder / "clips.log", threads=1)
    for kind in reversed(UNTRAINED):
        bench.untrained(kind)
    rates = best_rates(bench, arguments.learning_rates, arguments.trial_minutes or arguments.max_train_minutes / 2)
    finals = {
        model: [Run(model, "test", rate, seed, arguments.max_train_minutes) for seed in arguments.seeds]
        for model, rate in rates.items()
    }
    bench.run_all([run for runs in zip(*finals.values(), strict=True) for run in runs])
    print("\n" + table(compare(bench, finals), finals))


if __name__ == "__main__":
    main()
