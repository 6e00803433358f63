"""Stills of test clips drawn at random, each with its true caption, ours and a baseline's.

    python -m benchmarks.gallery CLIPS --ours outputs/filmed/all/seed0/predictions.jsonl \
        --baseline outputs/filmed/all/ridge.jsonl

The predictions are those of `vidcap evaluate --predictions`, the baseline's those of `benchmarks/filmed.py`. The clips
are drawn by `--seed`, none is chosen. `gallery.md` and one picture of three frames per clip are written to `--output`.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processing import decode_video
from vidcap.evaluation.scores.bootstrap import scores_per_clip

ROOT = Path(__file__).resolve().parents[1]
STILLS = 3
BOX = (180, 320)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Predictions by file name."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {Path(line["file_name"]).name: line for line in lines}


def write_stills(clip: Path, target: Path) -> None:
    """Three frames of a clip, beside each other."""
    frames = decode_video(str(clip), num_frames=STILLS, fit=BOX).frames.permute(0, 2, 3, 1).numpy()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(target, quality=80)


def write_gallery(
    clips: Path, ours: dict[str, Any], baseline: dict[str, Any], output: Path, *, count: int, seed: int
) -> str:
    """Write the stills, and return the page.

    Raises:
        ValueError: If the two captioners have not captioned the same clips.
    """
    if missing := sorted(set(ours) ^ set(baseline)):
        raise ValueError(f"{missing[0]} and {len(missing) - 1} others: captioned by one of the two only; caption all")
    names = sorted(ours)
    drawn = random.Random(seed).sample(names, min(count, len(names)))
    references = [ours[name]["references"] for name in names]
    ciders = {
        title: dict(
            zip(names, scores_per_clip([found[n]["hypothesis"] for n in names], references)["cider"], strict=True)
        )
        for title, found in (("ours", ours), ("baseline", baseline))
    }
    parts = []
    for name in drawn:
        picture = f"{Path(name).stem}.jpg"
        write_stills(clips / name, output / picture)
        parts.append(
            f"![three frames of {name}]({picture})\n\n"
            f"| | | CIDEr |\n|---|---|---|\n| true | {' / '.join(ours[name]['references'])} | |\n"
            f"| ours | {ours[name]['hypothesis']} | {ciders['ours'][name]:.0f} |\n"
            f"| baseline | {baseline[name]['hypothesis']} | {ciders['baseline'][name]:.0f} |\n"
        )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="data set, or the folder of its test clips")
    parser.add_argument("--ours", type=Path, required=True, help="predictions of our captioner")
    parser.add_argument("--baseline", type=Path, required=True, help="predictions of the baseline")
    parser.add_argument("--count", type=int, default=24, help="number of clips [24]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw [0]")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "gallery", help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    clips = arguments.clips / "test" if (arguments.clips / "test").is_dir() else arguments.clips
    ours, baseline = read(arguments.ours), read(arguments.baseline)
    page = write_gallery(clips, ours, baseline, arguments.output, count=arguments.count, seed=arguments.seed)
    (arguments.output / "gallery.md").write_text(page, encoding="utf-8")
    print(arguments.output / "gallery.md")


if __name__ == "__main__":
    main()
