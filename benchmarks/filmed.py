"""Our captioner with its defaults against ridge regressions on the same features, on filmed clips.

    python -m benchmarks.filmed CLIPS --seeds 0 1 2
    python -m benchmarks.filmed CLIPS --seeds 0 1 2 --sizes 50 100 200 400

CLIPS is a folder of captioned clips; if its metadata have a column `recording`, the regressions are chosen by
cross-validation over recordings, otherwise over clips. Regressions see features of `--image_size 160` and of the
default size, and the better one by cross-validation counts. Ours is `vidcap train` with no option but the data set,
the seed and where to write. `--sizes` repeats all with so many training clips. Test scores are computed once, for what
was chosen.

A finished training is not repeated, so that the command can be stopped and given again. `results.json` in `--folder`
holds the scores, and the paired 95 % intervals of ours minus the regression.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines.ridge import choose, retrieve, summaries
from processing.clips.clip_dataset import ClipDataset
from processing.clips.rows import load_clips
from vidcap.evaluation.scores.bootstrap import paired_bootstrap, scores_per_clip
from vidcap.evaluation.scores.metrics import score_captions
from vidcap.files import write_atomically
from vidcap.inference.clip_cache import open_clip_cache
from vidcap.training.arguments.model_arguments import ModelArguments
from vidcap.training.model import build

ROOT = Path(__file__).resolve().parents[1]
FRAMES: dict[str, list[int] | None] = {"160 x 160": [160], "default": None}


def subset(source: Path, count: int, target: Path) -> Path:
    """A data set of `count` training clips, drawn at random, and all others; files are links."""
    if (target / "done").is_file():
        return target
    for split in ("train", "validation", "test"):
        if not (source / split).is_dir():
            continue
        lines = (source / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        if split == "train":
            lines = random.Random(0).sample(lines, count)
        (target / split).mkdir(parents=True, exist_ok=True)
        for line in lines:
            link = target / split / json.loads(line)["file_name"]
            if not link.exists():
                link.symlink_to((source / split / link.name).resolve())
        (target / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / "done").touch()
    return target


def regressions(clips: Path, cache: Path) -> dict[str, Any]:
    """The best regression by cross-validation: its choice, and its captions and references of the test clips."""
    train, test = load_clips(str(clips), "train"), load_clips(str(clips), "test")
    captions = [each[0] for each in train["captions"]]
    lines = (clips / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    recordings = {row["file_name"]: row.get("recording", row["file_name"]) for row in map(json.loads, lines)}
    groups = [recordings[Path(name).name] for name in train["file_name"]]
    chosen: dict[str, Any] = {"cider": -1.0}
    for frames, size in FRAMES.items():
        made = build(ModelArguments(image_size=size), captions, [], frozenset({"image_size"} if size else ()), train)
        store = open_clip_cache(made.model, made.processor, folder=cache)
        known, asked = (summaries(ClipDataset(rows, store).prepare(frames)) for rows in (train, test))
        choice = choose(known, captions, groups)
        print(f"ridge, {frames}: {choice.mode}, penalty {choice.penalty}, cross-validated CIDEr {choice.cider:.1f}")
        if choice.cider > chosen["cider"]:
            found = retrieve(known, captions, asked, choice.mode, choice.penalty)
            chosen = {**choice._asdict(), "frames": frames, "captions": found}
    chosen["references"] = list(test["captions"])
    chosen["file_names"] = list(test["file_name"])
    return chosen


def train_ours(clips: Path, cache: Path, folder: Path, seed: int) -> dict[str, Any]:
    """The report and the captions of a training with the defaults."""
    if not (folder / "predictions.jsonl").is_file():
        options = ["--dataset", str(clips), "--output_dir", str(folder), "--feature_cache", str(cache)]
        commands = [
            ["train", *options, "--seed", str(seed)],
            ["evaluate", "--model", str(folder), "--dataset", str(clips), "--feature_cache", str(cache)],
        ]
        commands[1] += ["--output", str(folder / "test.json"), "--predictions", str(folder / "predictions.jsonl")]
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            for command in commands:
                subprocess.run(
                    [sys.executable, "-m", "vidcap", *command],
                    check=True,
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ,
                )
    lines = map(json.loads, (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
    captions = {line["file_name"]: line["hypothesis"] for line in lines}
    return {"captions": captions, "report": json.loads((folder / "report.json").read_text())}


def compare(clips: Path, cache: Path, folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Scores of the regression and of ours, and their differences."""
    ridge = regressions(clips, cache)
    references = ridge["references"]
    of_ridge = scores_per_clip(ridge["captions"], references)["cider"]
    lines = [
        json.dumps({"file_name": name, "hypothesis": caption, "references": truths}) + "\n"
        for name, caption, truths in zip(ridge["file_names"], ridge["captions"], references, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "ridge.jsonl", "".join(lines))
    runs = [train_ours(clips, cache, folder / f"seed{seed}", seed) for seed in seeds]
    per_clip = []
    results: dict[str, Any] = {
        "ridge": {name: ridge[name] for name in ("mode", "penalty", "frames")}
        | {"cross_validated": ridge["cider"], "cider": score_captions(ridge["captions"], references)["cider"]},
        "ours": [],
    }
    for run in runs:
        captions = [run["captions"][name] for name in ridge["file_names"]]
        per_clip.append(scores_per_clip(captions, references)["cider"])
        report = run["report"]
        seen = next(each for each in report["verdict"] if each["question"] == "sees objects")
        results["ours"].append(
            {
                "cider": score_captions(captions, references)["cider"],
                "minus_ridge": list(paired_bootstrap(of_ridge, per_clip[-1])),
                "gap_to_another_clip": [seen["gap"], seen["low"], seen["high"]],
                "sees_objects": seen["answer"],
                "r10": report["retrieval"]["text_to_video"]["r10"],
                "steps": report["steps"],
                "seconds": report["total_seconds"],
            }
        )
    results["minus_ridge"] = list(paired_bootstrap(of_ridge, np.mean(per_clip, axis=0)))
    return results


def table(results: dict[str, Any]) -> str:
    lines = [
        "| training clips | ridge | ours | ours minus ridge | gap to another clip | sees objects | R@10 | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count, found in results.items():
        runs = found["ours"]
        ciders = ", ".join(f"{run['cider']:.1f}" for run in runs)
        gap = found["minus_ridge"]
        gaps = ", ".join("{:+.1f} [{:+.1f}, {:+.1f}]".format(*run["gap_to_another_clip"]) for run in runs)
        answers = ", ".join(run["sees_objects"] for run in runs)
        recall = statistics.median(run["r10"] for run in runs)
        seconds = statistics.median(run["seconds"] for run in runs)
        ridge = f"{found['ridge']['cider']:.1f} ({found['ridge']['mode']}, {found['ridge']['frames']})"
        lines.append(
            f"| {count} | {ridge} | {ciders} | {gap[0]:+.1f} [{gap[1]:+.1f}, {gap[2]:+.1f}] | {gaps} | {answers} "
            f"| {recall:.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of captioned clips")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds of our trainings")
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="numbers of training clips [all]")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "filmed", help="folder of runs and results")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    for count in [*arguments.sizes, None]:
        clips = arguments.clips.resolve()
        name = "all" if count is None else str(count)
        if count is not None:
            clips = subset(clips, count, folder / "clips" / name)
        results[name] = compare(clips, folder / "cache", folder / name, arguments.seeds)
        write_atomically(path, json.dumps(results, indent=1))
    print("\n" + table(results))


if __name__ == "__main__":
    main()
