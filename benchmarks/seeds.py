"""Trains the same thing with several seeds and gives the median of each score on the test split.

    python benchmarks/seeds.py demo --frames 8 32 64
    python benchmarks/seeds.py demo-hard
    python benchmarks/seeds.py my-clips --max_train_minutes 6

The first argument is `demo` or `demo-hard` (these recipes, on generated clips) or a data set; options that are not
listed below go to `train_hf.py`. With `--frames` the trained model also captions the test clips at other numbers of
frames. A seed whose report exists already is not trained again. Each seed computes its features anew, so
that times include them. Leave the machine to itself meanwhile.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from vidcap.precision import computes_in_bf16

ROOT = Path(__file__).resolve().parents[1]
VIDCAP = [sys.executable, "-m", "vidcap"]


def run_seed(what: str, seed: int, folder: Path, frames: list[int], options: list[str]) -> dict:
    """Trains in a process of its own, and returns the report with the seconds of the whole command."""
    output, cache, report = folder / f"seed{seed}", folder / "cache", folder / f"seed{seed}.json"
    settings = {"what": what, "frames": frames, "options": options}
    if report.is_file():
        facts = json.loads(report.read_text())
        if facts["settings"] != settings:
            raise SystemExit(f"{report} is of {facts['settings']}, not of {settings}: name another --folder")
        return facts
    for leftover in (output, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    start = time.perf_counter()
    clips, arguments = Path(what).resolve(), []
    if what in ("demo", "demo-hard"):
        clips = folder / "demo-clips"
        shutil.rmtree(clips, ignore_errors=True)
        generate = [*VIDCAP, "demo-data", str(clips), *(["--hard"] if what == "demo-hard" else [])]
        subprocess.run(generate, check=True, cwd=ROOT, stdout=sys.stderr)
        arguments = [f"recipes/{what}.yaml"]
    arguments += ["--dataset", str(clips)]
    arguments += ["--output_dir", str(output), "--feature_cache", str(cache), "--seed", str(seed), *options]
    subprocess.run([sys.executable, "train_hf.py", *arguments], check=True, cwd=ROOT, stdout=sys.stderr)
    facts = json.loads((output / "report.json").read_text())
    facts["settings"] = settings
    facts["command_seconds"] = time.perf_counter() - start
    for count in frames:
        at = folder / f"seed{seed}-{count}-frames.json"
        evaluate = [
            *VIDCAP,
            "evaluate",
            "--model",
            str(output),
            "--dataset",
            str(clips),
            "--feature_cache",
            str(cache),
        ]
        arguments = [*evaluate, "--num_frames", str(count), "--output", str(at)]
        subprocess.run(arguments, check=True, cwd=ROOT, stdout=sys.stderr)
        facts[f"exact at {count} frames"] = json.loads(at.read_text())["scores"]["exact"]
    report.write_text(json.dumps(facts))
    return facts


def figures(report: dict) -> dict[str, float]:
    """What the table shows of one report; scores of each kind of clip where the data tell kinds apart."""
    row = {name: report["scores"][name] for name in ("exact", "cider", "distinct")}
    for kind, scores in report.get("by_kind", {}).items():
        row |= {f"{kind} {name}": scores[name] for name in ("exact", "cider")}
        if "retrieval" in scores:
            row[f"{kind} R@1"] = scores["retrieval"]["text_to_video"]["r1"]
    row |= {name: value for name, value in report.items() if name.startswith("exact at ")}
    row["other clip, exact"] = report["controls"]["other_clip"]["exact"]
    if "exact_reversed" in report["controls"]["reversed"]:
        row["backwards, exact"] = report["controls"]["reversed"]["exact_reversed"]
    return row | {name: report[name] for name in ("steps", "train_seconds", "command_seconds", "peak_rss_mb")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="`demo`, `demo-hard`, or a folder or Hub id of captioned clips")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where models and reports go [outputs/seeds-NAME]")
    parser.add_argument("--frames", type=int, nargs="+", default=[], help="further numbers of frames to caption at")
    arguments, options = parser.parse_known_args()
    folder = (arguments.folder or ROOT / "outputs" / f"seeds-{Path(arguments.what).name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [figures(run_seed(arguments.what, seed, folder, arguments.frames, options)) for seed in arguments.seeds]
    capability = torch.backends.cpu.get_cpu_capability()
    in_bf16 = computes_in_bf16(torch.device("cpu"))
    print(f"{os.cpu_count()} cores, {capability}, {'with' if in_bf16 else 'without'} instructions for bf16")
    print(f"{'':20}" + "".join(f"{f'seed {seed}':>11}" for seed in arguments.seeds) + f"{'median':>11}")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:20}" + "".join(f"{value:11.3f}" for value in [*values, statistics.median(values)]))


if __name__ == "__main__":
    main()
