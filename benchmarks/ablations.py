"""Each part of the model and of its training switched on or off, at equal wall-clock, scored on the validation split.

    python benchmarks/ablations.py demo --max_train_minutes 3
    python benchmarks/ablations.py my-clips --max_train_minutes 4 --seeds 0 1 2 --only "as set" "no word dropout"

The first argument is `demo` (the demo recipe on generated clips, 1,000 of them for validation) or a folder of
captioned clips. Features are computed before the first run and shared. A run whose result is stored is not repeated,
so that the command can be stopped and given again. The test split is never read. Leave the machine to itself
meanwhile.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "as set": "",
    "no contrastive loss": "--contrastive_weight 0",
    "contrastive weight .1": "--contrastive_weight 0.1",
    "sigmoid contrastive loss": "--contrastive_weight 0.1 --contrastive_type sigmoid",
    "8 caption queries": "--caption_queries 8",
    "no encoder layer": "--encoder_layers 0",
    "two encoder layers": "--encoder_layers 2",
    "encoder sees 2 frames around": "--encoder_layers 2 --encoder_window 2",
    "no frame differences": "--motion False",
    "8 frames": "--num_frames 8",
    "a token a cell": "--spatial_tokens True --per_device_train_batch_size 16",
    "no thumbnails": "--thumbnail_size 0",
    "no word dropout": "--word_dropout 0",
    "word dropout .4": "--word_dropout 0.4",
    "no label smoothing": "--label_smoothing 0",
    "no dropout": "--dropout 0",
    "stochastic depth .2": "--stochastic_depth 0.2",
    "frame dropout .1": "--frame_dropout 0.1",
    "weight decay .05": "--weight_decay 0.05",
}
CHANGES_FEATURES = ("8 frames", "no thumbnails")
SCORES = {"exact": "eval_exact", "CIDEr": "eval_cider"}


def train(arguments: list[str], output: Path) -> None:
    """Runs `train_hf.py` in a process of its own; what it prints goes to a file beside its output."""
    with open(output.with_suffix(".log"), "w") as log:
        command = [sys.executable, "train_hf.py", *arguments, "--output_dir", str(output)]
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise SystemExit(f"training failed, see {output.with_suffix('.log')}")


def result(output: Path) -> dict[str, float]:
    """The scores of the checkpoint that was kept, steps and parameters."""
    log = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    best = max((entry for entry in log if "eval_cider" in entry), key=lambda entry: entry["eval_cider"])
    report = json.loads((output / "report.json").read_text())
    seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry)
    return {
        **{name: best[key] for name, key in SCORES.items()},
        "steps": report["steps"],
        "ms/step": 1000 * seconds / report["steps"],
        "M params": report["parameters"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="`demo`, or a folder of captioned clips")
    parser.add_argument("--max_train_minutes", default="3", metavar="M")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where runs and results go [outputs/ablations-NAME]")
    arguments = parser.parse_args()
    folder = (arguments.folder or ROOT / "outputs" / f"ablations-{Path(arguments.what).name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--feature_cache", str(folder / "cache"), "--test_split", "none", "--max_validation_clips", "1000"]
    if arguments.what == "demo":
        clips = folder / "clips"
        generate = [sys.executable, "-m", "vidcap", "demo-data", str(clips), "--validation", "1000", "--test", "0"]
        subprocess.run(generate, check=True, cwd=ROOT)
        common = ["recipes/demo.yaml", "--dataset", str(clips), *common]
    else:
        common = ["--dataset", str(Path(arguments.what).resolve()), *common]

    results_file = folder / "results.json"
    results = json.loads(results_file.read_text()) if results_file.is_file() else {}
    budget = ["--max_train_minutes", arguments.max_train_minutes, "--evaluations", "3"]
    warmed: set[str] = set()
    for name in arguments.only:
        for seed in arguments.seeds:
            key = f"{name} | seed {seed} | {arguments.max_train_minutes} min"
            if key not in results:
                output = folder / "run"
                features = name if name in CHANGES_FEATURES else "as set"
                if features not in warmed:  # so that no run pays for the features of another
                    once = ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
                    train([*common, *VARIANTS[features].split(), *once, "--load_best_model_at_end", "False"], output)
                    warmed.add(features)
                shutil.rmtree(output, ignore_errors=True)
                train([*common, *budget, *VARIANTS[name].split(), "--seed", str(seed)], output)
                results[key] = result(output)
                results_file.write_text(json.dumps(results, indent=1))
            print(key, {each: round(value, 3) for each, value in results[key].items()}, flush=True)

    names = list(next(iter(results.values())))
    print("\n| setting | " + " | ".join(names) + " |")
    print("|---" * (1 + len(names)) + "|")
    for name in arguments.only:
        rows = [results[f"{name} | seed {seed} | {arguments.max_train_minutes} min"] for seed in arguments.seeds]
        medians = [statistics.median(row[each] for row in rows) for each in names]
        cells = [f"{value:.3f}" if value < 10 else f"{value:.0f}" for value in medians]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
