"""Clips a second on their way to the model: decoded one after the other, by workers, by `datasets`, from the cache.

    python benchmarks/data.py FOLDER --workers 2

The clips of a folder of videos, 16 frames of 160 pixels each, are taken through in turns; given are medians of clips a
second, and how many times as many as one process decodes. `datasets` decodes by torchcodec, which needs FFmpeg; where
it is not installed that line is left out, and said to be. Leave the machine to itself meanwhile.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import resize

from modeling_vidcap.pretrained.backbones import load_backbone
from processing.cache.feature_cache import ClipCache
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.streams import StreamedClips
from processing.clips.tokenizers import train_tokenizer
from vidcap import VideoCaptionProcessor, VideoCaptionVideoProcessor

FRAMES, SIZE = 16, 160
ENDINGS = (".mp4", ".webm", ".mkv", ".mov", ".avi")


def decoded_by_datasets(paths: list[str]) -> Callable[[], None] | None:
    """Decodes by `datasets.Video`, or nothing where that does not work."""
    rows = datasets.Dataset.from_dict({"video": paths}).cast_column("video", datasets.Video())
    try:
        _ = rows[0]["video"]
    except (ImportError, RuntimeError) as error:
        print(f"datasets: left out, {str(error).splitlines()[0]}")
        return None

    def run() -> None:
        for row in rows:
            decoder = row["video"]
            indices = torch.linspace(0, len(decoder) - 1, FRAMES).round().int().tolist()
            resize(decoder.get_frames_at(indices).data, [SIZE, SIZE])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of videos")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    arguments = parser.parse_args()
    paths = [str(path) for path in sorted(arguments.folder.rglob("*")) if path.suffix in ENDINGS]
    rows = datasets.Dataset.from_list(
        [{"video": {"path": p, "bytes": None}, "file_name": p, "captions": ["a clip"]} for p in paths]
    )
    processor = VideoCaptionProcessor(
        video_processor=VideoCaptionVideoProcessor(num_frames=FRAMES, size={"height": SIZE, "width": SIZE}),
        tokenizer=train_tokenizer(["a clip"], []),
    )
    collate = VideoCaptionCollator(processor)

    def one_process() -> None:
        for path in paths:
            processor.video_processor(path, do_rescale=False, do_normalize=False)

    def by_workers() -> None:
        stream = StreamedClips(rows.to_iterable_dataset(), processor, workers=arguments.workers)
        for _ in stream.one_pass():
            pass

    with tempfile.TemporaryDirectory() as scratch:
        backbone = load_backbone("cnn", grid=3)
        # What is read has the size of EfficientNet-Lite0's features; what they are does not matter here.
        width = 3 * 3 * (40 + 112 + 320)

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return torch.rand(1, pixels.shape[1], 1, width)

        cache = ClipCache(scratch, processor.video_processor, encode=encode, settings={"backbone": backbone.settings})

        def from_cache() -> None:
            clips: Any = ClipDataset(rows, cache)  # a new one: it has kept nothing in memory
            for _ in DataLoader(clips, batch_size=16, collate_fn=collate):
                pass

        ClipDataset(rows, cache).prepare("computing features")
        runs = {
            "one process": one_process,
            f"{arguments.workers} workers": by_workers,
            "datasets": decoded_by_datasets(paths),
            "from the cache": from_cache,
        }
        seconds: dict[str, list[float]] = {name: [] for name, run in runs.items() if run is not None}
        for repeat in range(arguments.repeats + 1):
            for name, times in seconds.items():
                start = time.perf_counter()
                runs[name]()  # type: ignore[misc]
                if repeat:  # the first round reads from disk what the others find in memory
                    times.append(time.perf_counter() - start)
    base = statistics.median(seconds["one process"])
    print(f"{len(paths)} clips, {FRAMES} frames of {SIZE} pixels")
    for name, times in seconds.items():
        took = statistics.median(times)
        print(f"{name:15} {len(paths) / took:8.1f} clips/s  {base / took:6.1f} x")


if __name__ == "__main__":
    main()
