"""Comparison of this package's caption scores with those of a reference scorer.

    python benchmarks/caption_scores.py FOLDER [--meteor] [--reference PYTHON]

FOLDER holds `expected.json`, `{"NAME": {"tokenizer": ..., "bleu1": ..., "cider": ..., ...}, ...}` on the scorer's own
scale (CIDEr 0 to 10, others 0 to 1), and for each a `NAME.jsonl` with lines `{"hypothesis": "...", "references":
["...", ...]}`. A tokenizer whose name begins with "none" means captions split at white space. The exit status is 1 if
a score differs by 1e-4 or more.

`--meteor` compares METEOR as well. `--reference`, an interpreter that has pycocoevalcap (and Java), measures the time
of the reference scorer on the same captions, tokenisation included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.metrics import DEFAULT_METRICS

TOLERANCE = 1e-4
SCORES = ("cider", "bleu1", "bleu2", "bleu3", "bleu4", "rougeL")
REFERENCE = """
import contextlib, json, sys, time
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
path, with_meteor = sys.argv[1:]
pairs = [json.loads(line) for line in open(path, encoding="utf-8")]
started = time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
    tokenize = PTBTokenizer().tokenize
    truths = tokenize({i: [{"caption": text} for text in pair["references"]] for i, pair in enumerate(pairs)})
    guesses = tokenize({i: [{"caption": pair["hypothesis"]}] for i, pair in enumerate(pairs)})
    for scorer in [Bleu(4), Rouge(), Cider(), *([Meteor()] if with_meteor == "True" else [])]:
        scorer.compute_score(truths, guesses)
print(time.perf_counter() - started)
"""


def compare(folder: Path, name: str, expected: dict[str, Any], options: argparse.Namespace) -> float:
    """Prints the scores of a corpus. Returns the largest difference."""
    path = folder / f"{name}.jsonl"
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    started, cpu_started = time.perf_counter(), time.process_time()
    scores = score_captions(
        [pair["hypothesis"] for pair in pairs],
        [pair["references"] for pair in pairs],
        tokenizer="whitespace" if expected["tokenizer"].startswith("none") else "ptb",
        metrics=[*DEFAULT_METRICS, *(["meteor"] if options.meteor else [])],
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    worst = 0.0
    for score in (*SCORES, *(["meteor"] if options.meteor else [])):
        here = scores[score] / 100
        worst = max(worst, abs(here - expected[score]))
        print(f"{name:24} {score:7} {expected[score]:14.10f} {here:14.10f} {here - expected[score]:12.1e}")
    print(f"{name:24} {len(pairs)} clips scored in {seconds:.2f} s ({cpu:.2f} s of CPU)")
    if options.reference:
        command = [options.reference, "-c", REFERENCE, str(path), str(options.meteor)]
        before = os.times()
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        wall = float(run.stdout)
        print(f"{name:24} the reference scorer: {wall:.2f} s ({cpu:.2f} s of CPU), {wall / seconds:.1f} times that")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--meteor", action="store_true")
    parser.add_argument("--reference", metavar="PYTHON")
    options = parser.parse_args()
    corpora = json.loads((options.folder / "expected.json").read_text(encoding="utf-8"))
    print(f"{'corpus':24} {'score':7} {'expected':>14} {'here':>14} {'difference':>12}")
    worst = max(compare(options.folder, name, expected, options) for name, expected in corpora.items())
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst >= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
