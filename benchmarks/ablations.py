"""Each part of the model and of its training switched on or off, at equal time, scored on the validation split.

    python benchmarks/ablations.py demo --max_train_minutes 2 --jobs 2
    python benchmarks/ablations.py my-clips --max_train_minutes 4 --jobs 2 --hold_out 80
    python benchmarks/ablations.py my-clips --max_train_minutes 4 --jobs 2 --seeds 0 1 2 --only "as set" "dropout .1"

    python benchmarks/ablations.py my-clips --max_train_minutes 6 --table backbones

The first argument is `demo` (the demo recipe on generated clips, 500 of them for validation) or a folder of captioned
clips. `--hold_out 80 --kind action` validates on the clips of 80 captions of train, too, where the validation split is
too small to tell settings apart. `--jobs 2` runs two at a time, each on its share of the cores. Features are computed
before the first run and shared. A run whose result is stored is not repeated, so that the command can be stopped and
given again; a part that cannot work together with the recipe is listed with the reason. The test split is never read.
Where CPUs compute, the budget is one of processor time, a thread a run, so that other work slows a run down but hardly
changes its result; on GPUs it is one of the clock, and the machine should be left to itself.

`--table backbones` compares backbones, frozen, tuned or trained from nothing; the rows called small with 8 frames of
64 pixels, so that CPUs make more steps of these. On GPUs what the features of a frozen one cost is part of its time,
as it is whenever clips are new; processor time is counted from the first step on.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import ViTConfig

from vidcap.precision import computes_in_bf16

ROOT = Path(__file__).resolve().parents[1]
VIT = ViTConfig(
    hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=8
)
VARIANTS = {
    "as set": "",
    # 1: Video-CoCa
    "no contrastive loss": "--contrastive_weight 0",
    "contrastive loss": "--contrastive_weight 0.5",
    "sigmoid contrastive loss": "--contrastive_weight 0.5 --contrastive_type sigmoid",
    "contrastive loss, warmed up": "--contrastive_weight 0.5 --loss_warmup 0.3",
    "8 caption queries": "--caption_queries 8",
    # 2: time and space
    "no encoder layer": "--encoder_layers 0",
    "two encoder layers": "--encoder_layers 2",
    "learned times": "--time_positions learned",
    "sinusoidal times": "--time_positions sinusoidal",
    "cells, joint": "--spatial_tokens True --encoder_layers 2",
    "cells, factorized": "--spatial_tokens True --encoder_layers 2 --encoder_attention factorized",
    "cells, factorized, rotary space": "--spatial_tokens True --encoder_layers 2 --encoder_attention factorized "
    "--space_positions rotary",
    "no frame differences": "--motion False",
    "frame differences as they are": "--motion_floor 0",
    "the same frames each time": "--frame_pool 16",
    "other frames each time": "--frame_pool 32",
    # 3: scales and fusion
    "last stage alone": "--backbone_stages 4",
    "no thumbnails": "--thumbnail_size 0",
    "no histogram of colours": "--color_bins 0 --color_dropout 0",
    "temporal pyramid": "--temporal_pyramid 2",
    "joint fusion": "--fusion joint",
    # 4: against the language prior
    "no word dropout": "--word_dropout 0",
    "word dropout from the start": "--word_dropout_warmup 0",
    "scheduled sampling .2": "--scheduled_sampling 0.2",
    "masked words .5": "--masked_word_weight 0.5",
    "near misses": "--contrastive_weight 0.5 --near_misses word",
    "reversed clips as negatives": "--contrastive_weight 0.5 --reversed_negatives True",
    "video dropout .1, guidance 1.5": "--video_dropout 0.1 --guidance_scale 1.5",
    # 5: regularisation and size
    "dropout .1": "--dropout 0.1",
    "stochastic depth .2": "--stochastic_depth 0.2",
    "weight decay .05": "--weight_decay 0.05",
    "no label smoothing": "--label_smoothing 0",
    "frame dropout .1": "--frame_dropout 0.1",
    "speed augmentation": "--augment speed",
    "averaged weights": "--ema_decay 0.99",
    "AdamW alone": "--muon False",
    "preset 8m": "--preset 8m",
    "preset 25m": "--preset 25m",
    # 6: before the first clip (self-critical training, after the last, has a benchmark of its own)
    "text warm-up": "--text_warmup_steps 100 --text_corpus {corpus}",
    # 7: generation
    "4 beams": "--num_beams 4",
}
# A step of 64 clips of 16 frames of 160 pixels would take 7 to 60 seconds.
SMALL = "--image_size 64 --num_frames 8"
TUNED = "--freeze_backbone False --backbone_learning_rate 1e-4"
THEN = ", then "  # before it stands the row whose model such a row goes on from
GO_ON = "--model_name_or_path {trained} --learning_rate 3e-4"
BACKBONES = {
    "EfficientNet-Lite0, frozen": "",
    "EfficientNet-Lite1, frozen": "--backbone efficientnet_lite1",
    "EfficientNet-Lite2, frozen": "--backbone efficientnet_lite2",
    "EfficientNet-Lite0, frozen, no frame differences": "--motion False",
    "CNN from nothing": "--backbone cnn",
    "small: EfficientNet-Lite0, frozen": SMALL,
    "small: EfficientNet-Lite1, frozen": f"{SMALL} --backbone efficientnet_lite1",
    "small: EfficientNet-Lite2, frozen": f"{SMALL} --backbone efficientnet_lite2",
    "small: EfficientNet-Lite0, last stage tuned": f"{SMALL} --trained_backbone_stages 1 "
    "--backbone_learning_rate 1e-4",
    "small: EfficientNet-Lite0, tuned": f"{SMALL} {TUNED}",
    "small: CNN from nothing": f"{SMALL} --backbone cnn",
    "small: ViT from nothing": f"{SMALL} --backbone {{vit}}",
    "small: EfficientNet-Lite0, frozen, then longer": GO_ON,
    "small: EfficientNet-Lite0, frozen, then tuned": f"{GO_ON} {TUNED}",
    "small: EfficientNet-Lite1, frozen, then tuned": f"{GO_ON} {TUNED}",
    "small: EfficientNet-Lite2, frozen, then tuned": f"{GO_ON} {TUNED}",
}
TABLES = {"parts": VARIANTS, "backbones": BACKBONES}
CHANGES_FEATURES = (
    "the same frames each time",
    "other frames each time",
    "last stage alone",
    "no thumbnails",
    "no histogram of colours",
)


def train(arguments: list[str], output: Path, *, threads: int, precision: str | None) -> str | None:
    """Runs `train_hf.py` in a process of its own, which writes beside its output; returns its error, if any. Without
    a `precision` the run measures which is faster."""
    log = output.with_suffix(".log")
    with log.open("w") as file:
        command = [sys.executable, "train_hf.py", *arguments, "--output_dir", str(output)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if precision is not None:
            environment["ACCELERATE_MIXED_PRECISION"] = precision
        run = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return None if run.returncode == 0 else log.read_text().strip().splitlines()[-1]


def hold_out(clips: Path, folder: Path, count: int, kind: str | None) -> Path:
    """Copies train and validation of `clips` to `folder`, with all clips of `count` of train's captions (of one
    `kind`, if given) moved to validation, the same ones every time."""
    rows = {
        split: [(split, json.loads(line)) for line in (clips / split / "metadata.jsonl").read_text().splitlines()]
        for split in ("train", "validation")
    }
    candidates = sorted({row["caption"] for _, row in rows["train"] if kind in (None, row.get("kind"))})
    if len(candidates) <= count:
        raise SystemExit(f"--hold_out {count}: train has {len(candidates)} captions of kind {kind}; hold out fewer")
    chosen = set(random.Random(0).sample(candidates, count))
    splits = {
        "train": [row for row in rows["train"] if row[1]["caption"] not in chosen],
        "validation": rows["validation"] + [row for row in rows["train"] if row[1]["caption"] in chosen],
    }
    for split, members in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for source, row in members:
            shutil.copy(clips / source / row["file_name"], folder / split / row["file_name"])
        lines = [json.dumps(row) + "\n" for _, row in members]
        (folder / split / "metadata.jsonl").write_text("".join(lines))
    return folder


def result(output: Path, minutes: float) -> dict[str, float]:
    """Scores and controls on the validation split (backwards: captions true of the reversed clip, where the data hold
    these), milliseconds a step, of which the evaluation's are a share, and parameters."""
    report = json.loads((output / "report.json").read_text())
    controls = report["controls"]
    return {
        "exact": report["scores"]["exact"],
        "CIDEr": report["scores"]["cider"],
        "other clip": controls["other_clip"]["exact"],
        "backwards": controls["reversed"].get("exact_reversed", float("nan")),
        "steps": report["steps"],
        "ms/step": 60_000 * minutes / report["steps"],
        "M params": report["parameters"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="`demo`, or a folder of captioned clips")
    parser.add_argument("--max_train_minutes", default="3", metavar="M")
    parser.add_argument("--hold_out", type=int, default=0, metavar="N", help="captions of train to validate on, too")
    parser.add_argument("--kind", help="the `kind` of the clips to hold out [any]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", choices=TABLES, default="parts", help="what to compare [parts]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows of the table [all]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--folder", type=Path, help="where runs and results go [outputs/ablations-NAME]")
    arguments = parser.parse_args()
    if arguments.hold_out and arguments.what == "demo":
        parser.error("the demo has 500 validation clips of its own: leave --hold_out out")
    table = TABLES[arguments.table]
    rows = arguments.only or list(table)
    if unknown := [each for each in rows if each not in table]:
        parser.error(f"--only {unknown}: the table of {arguments.table} has {', '.join(table)}")
    name = Path(arguments.what).name + (f"-{arguments.hold_out}" if arguments.hold_out else "")
    folder = (arguments.folder or ROOT / "outputs" / f"ablations-{name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if not torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // arguments.jobs)
    clips = Path(arguments.what).resolve()
    common = ["--feature_cache", str(folder / "cache"), "--test_split", "validation", "--num_beams", "1"]
    if arguments.what == "demo":
        clips = folder / "clips"
        generate = [sys.executable, "-m", "vidcap", "demo-data", str(clips), "--validation", "500", "--test", "0"]
        subprocess.run(generate, check=True, cwd=ROOT)
        common = ["recipes/demo.yaml", *common]
    if arguments.hold_out:
        clips = hold_out(clips, folder / "clips", arguments.hold_out, arguments.kind)
    common += ["--dataset", str(clips)]
    corpus = folder / "corpus.txt"
    train_clips = map(json.loads, (clips / "train" / "metadata.jsonl").read_text().splitlines())
    captions = [row.get("captions") or row.get("references") or [row["caption"]] for row in train_clips]
    corpus.write_text("\n".join(caption for each in captions for caption in each))

    vit = folder / "vit"  # a configuration alone: its weights are random
    VIT.save_pretrained(vit)

    def model_of(name: str, seed: int) -> Path:
        """Where the model of a row is kept that others go on from."""
        return folder / f"{name.split(THEN)[0]}-{seed}".replace(": ", "-").replace(", ", "-").replace(" ", "-")

    def options(name: str, seed: int = 0) -> list[str]:
        names = {"corpus": corpus, "vit": vit, "trained": model_of(name, seed)}
        return [part.format(**names) for part in table[name].split()]

    results_file = folder / "results.json"
    results = json.loads(results_file.read_text()) if results_file.is_file() else {}
    # One precision for all parts; of a backbone that is trained, some convolutions are slow in bf16 on CPUs.
    in_bf16 = torch.cuda.is_available() or computes_in_bf16(torch.device("cpu"))
    precision = None if arguments.table == "backbones" else "bf16" if in_bf16 else "no"
    budget = ["--max_train_minutes", arguments.max_train_minutes, "--evaluations", "1"]
    budget += ["--processor_time", str(not torch.cuda.is_available())]
    wanted = {
        f"{name} | seed {seed} | {arguments.max_train_minutes} min, {arguments.jobs} at a time": (name, seed)
        for name in rows
        for seed in arguments.seeds
    }
    missing = {key: run for key, run in wanted.items() if key not in results}
    features = dict.fromkeys(name if name in CHANGES_FEATURES else "as set" for name, _ in missing.values())
    for name in features if arguments.table == "parts" else ():
        # So that no run pays for the features of another.
        done = folder / f"features of {name}"
        if done.is_file():
            continue
        once = ["--max_steps", "1", "--save_strategy", "no", "--eval_strategy", "no"]
        once += ["--max_train_minutes", "1000"]  # a recipe's own may not be enough for features beside other work
        if error := train(
            [*common, *options(name), *once, "--load_best_model_at_end", "False"],
            folder / "warm",
            threads=2,
            precision=precision,
        ):
            raise SystemExit(f"{name}: {error}")
        done.touch()
    lock = threading.Lock()

    def measure(key: str) -> None:
        name, seed = missing[key]
        output = folder / f"run-{threading.get_ident()}"
        shutil.rmtree(output, ignore_errors=True)
        command = [*common, *budget, *options(name, seed), "--seed", str(seed)]
        if arguments.table == "backbones":
            command += ["--feature_cache", str(output / "cache")]  # the later option counts
        error = train(command, output, threads=threads, precision=precision)
        with lock:
            results[key] = {"error": error} if error else result(output, float(arguments.max_train_minutes))
            results_file.write_text(json.dumps(results, indent=1))
            print(key, results[key], flush=True)
            if not error and any(other.startswith(name + THEN) for other in table):
                kept = model_of(name, seed)
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(output, kept, ignore=shutil.ignore_patterns("cache", "checkpoint-*"))

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(measure, [key for key in missing if THEN not in key]))
        list(pool.map(measure, [key for key in missing if THEN in key]))

    names = list(next((each for each in results.values() if "error" not in each), {}))
    print("\n| setting | " + " | ".join(names) + " |")
    print("|---" * (1 + len(names)) + "|")
    for name in rows:
        runs = [results[key] for key, (each, _) in wanted.items() if each == name]
        if errors := [run["error"] for run in runs if "error" in run]:
            print(f"| {name} | {errors[0]} |")
            continue
        medians = [statistics.median(run[each] for run in runs) for each in names]
        print(f"| {name} | {' | '.join(f'{v:.3f}' if v < 10 else f'{v:.0f}' for v in medians)} |")


if __name__ == "__main__":
    main()
