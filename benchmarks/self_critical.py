"""What self-critical training gains from a checkpoint, against cross-entropy for the same time and rate.

    python benchmarks/self_critical.py my-clips --checkpoint outputs/my-model --max_train_minutes 10

Three captioners are scored on a split: the checkpoint; what self-critical training makes of it; and what training by
cross-entropy alone makes of it, since longer training may help by itself. Printed are the differences of CIDEr, of the
share of exact captions and of distinct ones, with 95 % intervals (paired bootstrap over the clips). Options that are
not listed below go to both trainings. What is finished is not repeated, so that the command can be stopped and given
again. Leave the machine to itself meanwhile.
"""

import argparse
import json
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

from processing.clips.rows import load_clips
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip

ROOT = Path(__file__).resolve().parents[1]
SCORES = ("cider", "exact", "distinct")
MIN_CLIPS = 500  # of fewer, intervals are too wide to show what is usually gained


def run(command: list[str], log: Path) -> None:
    """Runs a command of this package in a process of its own; what it prints goes to `log`."""
    with open(log, "w") as file:
        status = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        raise SystemExit(f"{command[0]} failed, see {log}")


def train(output: Path, arguments: list[str]) -> Path:
    """Trains unless that was done, and returns the model's folder, whose log of training is written last."""
    if not (output / "training_log.jsonl").is_file():
        shutil.rmtree(output, ignore_errors=True)
        command = ["train_hf.py", *arguments, "--test_split", "none", "--output_dir", str(output)]
        run(command, output.with_suffix(".log"))
    return output


def score(model: Path, predictions: Path, arguments: list[str]) -> dict[str, np.ndarray]:
    """Captions the split unless that was done, and returns the scores of each clip."""
    if not predictions.is_file():
        unfinished, report = predictions.with_suffix(".unfinished"), predictions.with_suffix(".report.json")
        command = ["-m", "vidcap", "evaluate", "--model", str(model), *arguments, "--output", str(report)]
        run([*command, "--predictions", str(unfinished)], predictions.with_suffix(".evaluate.log"))
        unfinished.rename(predictions)
    clips = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    return scores_per_clip([clip["hypothesis"] for clip in clips], [clip["references"] for clip in clips])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub id of captioned clips")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model folder, trained by cross-entropy")
    parser.add_argument("--split", default="test", help="scored in the end, neither trained on nor chosen by [test]")
    parser.add_argument("--max_train_minutes", default="10", metavar="M", help="of either training [10]")
    parser.add_argument("--learning_rate", default="5e-5", metavar="R", help="of both [5e-5]")
    parser.add_argument("--self_critical_samples", default="5", metavar="K", help="captions drawn for each clip [5]")
    parser.add_argument("--seed", default="0", help="of both [0]")
    parser.add_argument("--allow_small", action="store_true", help=f"score even fewer than {MIN_CLIPS} clips")
    parser.add_argument("--folder", type=Path, help="where runs and captions go [outputs/self-critical-NAME]")
    arguments, options = parser.parse_known_args()
    clips = len(load_clips(arguments.dataset, arguments.split))
    if clips < MIN_CLIPS and not arguments.allow_small:
        parser.error(f"{arguments.split} has {clips} clips, fewer than {MIN_CLIPS}: name another, or --allow_small")
    dataset = str(Path(arguments.dataset).resolve()) if Path(arguments.dataset).is_dir() else arguments.dataset
    folder = (arguments.folder or ROOT / "outputs" / f"self-critical-{Path(dataset).name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps({**vars(arguments), "options": options, "folder": None, "dataset": dataset}, default=str)
    if not (folder / "settings.json").is_file():
        (folder / "settings.json").write_text(settings)
    elif (folder / "settings.json").read_text() != settings:
        parser.error(f"{folder} holds runs with other settings: name another --folder")

    data = ["--dataset", dataset, "--feature_cache", str(folder / "cache")]
    start = [*data, "--model_name_or_path", str(arguments.checkpoint.resolve()), "--seed", arguments.seed, *options]
    once = ["--max_steps", "1", "--logging_steps", "1", "--save_strategy", "no", "--load_best_model_at_end", "False"]
    once += ["--max_train_minutes", "1000"]  # a budget that options such as --processor_time can be of
    train(folder / "features", [*start, *once])  # so that neither run pays for the features of the other
    start += ["--max_train_minutes", arguments.max_train_minutes, "--learning_rate", arguments.learning_rate]
    rewards = ["--self_critical_samples", arguments.self_critical_samples]
    models = {
        "checkpoint": arguments.checkpoint.resolve(),
        "cross-entropy": train(folder / "cross-entropy", start),
        "self-critical": train(folder / "self-critical", [*start, *rewards]),
    }
    split = [*data, "--split", arguments.split]
    scores = {name: score(model, folder / f"{name}.jsonl", split) for name, model in models.items()}
    print(f"{clips} clips of {arguments.split}\n| | " + " | ".join(SCORES) + " |\n" + "|---" * (1 + len(SCORES)) + "|")
    for name, values in scores.items():
        print(f"| {name} | " + " | ".join(f"{values[each].mean():.3f}" for each in SCORES) + " |")
    for before, after in combinations(scores, 2):
        gains = [paired_bootstrap(scores[before][each], scores[after][each]) for each in SCORES]
        cells = [f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in gains]
        print(f"| {before} to {after} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
