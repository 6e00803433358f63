"""Does the novelty of clips tell those unlike training from those alike?

    python benchmarks/novelty.py MODEL --alike FOLDER --unlike FOLDER [FOLDER ...]

A folder is a data set with SPLIT/metadata.jsonl, or holds video files. Clips alike training are those of the test
split (`--alike_split` names others), clips unlike training those of all splits; every folder of `--unlike` gives as
many as the others, or all it has. Printed are the share of clips above 1, from which on `vidcap caption` warns, and
the AUROC: the chance that a clip unlike training has the higher novelty. Unreadable clips are reported and left out.
"""

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from processing.clips.collator import VideoCaptionCollator
from processing.clips.rows import has_split, load_clips
from vidcap.inference.loading import load_captioner
from vidcap.inference.reading import readable_clips
from vidcap.inference.subtitles import CaptionedClip

BATCH_SIZE = 16


def find_clips(folder: Path, splits: list[str]) -> list[str]:
    """The files of a data set's splits, or of a plain folder, in random order."""
    present = [split for split in splits if has_split(folder, split)]
    files = [row["video"]["path"] for split in present for row in load_clips(folder, split)]
    if not present:
        files = [str(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != "metadata.jsonl"]
    if not files:
        raise SystemExit(
            f"{folder}: neither {' nor '.join(splits)} with a metadata.jsonl, nor files in the folder itself"
        )
    return random.Random(0).sample(files, len(files))


def take_turns(folders: list[list[str]], count: int) -> list[str]:
    """The first of each folder, then the second of each, and so on, `count` in all."""
    turns = itertools.chain.from_iterable(itertools.zip_longest(*folders))
    return [file for file in turns if file is not None][:count]


@torch.inference_mode()
def novelties(model: Any, processor: Any, files: list[str], description: str) -> np.ndarray:
    """The novelty of each readable clip, (N,)."""
    collator = VideoCaptionCollator(processor)
    clips: Iterator[dict[str, Any]] = readable_clips(
        [CaptionedClip(file) for file in files], processor.video_processor, description
    )
    values: list[float] = []
    while batch := list(itertools.islice(clips, BATCH_SIZE)):
        inputs = {name: value.to(model.device) for name, value in collator.videos(batch).items()}
        values += model.get_novelty(inputs["pixel_values_videos"], inputs["video_mask"]).tolist()
    return np.array(values)


def auroc(alike: np.ndarray, unlike: np.ndarray) -> float:
    """The share of pairs in which the clip unlike training is above the other; ties count half (Mann-Whitney)."""
    return float((np.sign(unlike[:, None] - alike[None, :]).mean() + 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or Hub id user/name")
    parser.add_argument("--alike", type=Path, required=True, help="clips like those of training, but not among them")
    parser.add_argument("--alike_split", nargs="+", default=["test"], help="[test]")
    parser.add_argument("--unlike", type=Path, nargs="+", required=True, help="other clips")
    parser.add_argument("--count", type=int, default=300, help="clips of either kind, at most [300]")
    arguments = parser.parse_args()
    model, processor = load_captioner(arguments.model)
    if not model.novelty.fitted:
        parser.error(f"{arguments.model} was saved without knowledge of its training clips: train it anew")
    alike = find_clips(arguments.alike, arguments.alike_split)[: arguments.count]
    unlike = {folder: find_clips(folder, ["train", "validation", "test"]) for folder in arguments.unlike}
    taken = set(take_turns(list(unlike.values()), arguments.count))
    usual = novelties(model, processor, alike, "alike")
    strange = {
        folder: novelties(model, processor, [file for file in files if file in taken], folder.name)
        for folder, files in unlike.items()
    }
    print(f"{'':20}{'clips':>7}{'above 1':>9}{'median':>8}{'AUROC':>7}")
    print(f"{'alike':20}{len(usual):7}{(usual > 1).mean():9.3f}{np.median(usual):8.2f}")
    rows = {f"unlike: {folder.name}": values for folder, values in strange.items()}
    for name, values in (rows | {"unlike": np.concatenate(list(strange.values()))}).items():
        above = (values > 1).mean()
        print(f"{name:20}{len(values):7}{above:9.3f}{np.median(values):8.2f}{auroc(usual, values):7.3f}")


if __name__ == "__main__":
    main()
