"""Compares the caption scores of this package with those of a reference scorer.

    python benchmarks/caption_scores.py FOLDER

FOLDER holds `expected.json`, `{"NAME": {"tokenizer": ..., "bleu1": ..., "cider": ..., ...}, ...}` on the scorer's own
scale (CIDEr 0 to 10, others 0 to 1), and for each a `NAME.jsonl` with lines `{"hypothesis": "...", "references":
["...", ...]}`. A tokenizer whose name begins with "none" means captions split at white space. The status is 1 if a
score differs by 1e-4 or more.
"""

import json
import sys
import time
from pathlib import Path

from vidcap.evaluation import score_captions

TOLERANCE = 1e-4
SCORES = ("cider", "bleu1", "bleu2", "bleu3", "bleu4", "rougeL")


def main(folder: Path) -> int:
    worst = 0.0
    print(f"{'corpus':24} {'score':7} {'expected':>14} {'here':>14} {'difference':>12}")
    for name, expected in json.loads((folder / "expected.json").read_text(encoding="utf-8")).items():
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        pairs = [json.loads(line) for line in lines]
        start = time.perf_counter()
        scores = score_captions(
            [pair["hypothesis"] for pair in pairs],
            [pair["references"] for pair in pairs],
            tokenizer="whitespace" if expected["tokenizer"].startswith("none") else "ptb",
        )
        seconds = time.perf_counter() - start
        for score in SCORES:
            here = scores[score] / 100
            worst = max(worst, abs(here - expected[score]))
            print(f"{name:24} {score:7} {expected[score]:14.10f} {here:14.10f} {here - expected[score]:12.1e}")
        print(f"{name:24} {len(pairs)} clips scored in {seconds:.2f} s")
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst >= TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
