"""Features of clips by a frozen backbone: as the feature cache computes them, against eager fp32.

    python benchmarks/features.py --model outputs/demo

Clips of 16 frames of random pixels, which need no decoding, go through the backbone as a plain call computes them
(fp32, all threads for one clip after the other), and as training and evaluation do before the first step (one worker a
core, folded, bf16 where that is faster, or by OpenVINO). They take turns; given are medians and how many times as fast
each is. Leave the machine to itself meanwhile.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vidcap.backends import BACKENDS
from vidcap.clip_cache import feature_extractor
from vidcap.loading import load_captioner


def in_turns(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each; the first round, which pays for allocations, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a captioner's folder")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--clips", type=int, default=16, metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    arguments = parser.parse_args()
    model, processor = load_captioner(arguments.model, device="cpu")
    backbone, size = model.model.encoder.backbone, processor.video_processor.size
    shape = (arguments.clips, 1, 16, 3, size["height"], size["width"])
    clips = list(torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    workers, threads = os.cpu_count() or 1, torch.get_num_threads()

    @torch.inference_mode()
    def eager() -> None:
        for clip in clips:
            backbone(clip)

    def cached(backend: str) -> Callable[[], None]:
        encode = feature_extractor(model, processor, workers=workers, backend=backend)

        def run() -> None:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(encode, clips))
            torch.set_num_threads(threads)

        return run

    # fp32 comes first: what makes the C library keep its memory, as the cache does, is part of the difference.
    plain = in_turns({"eager fp32": eager}, arguments.repeats)["eager fp32"]
    medians = in_turns({"eager fp32": eager} | {each: cached(each) for each in arguments.backends}, arguments.repeats)
    print("| | ms a clip | times as fast | as eager fp32 beside it |\n|---|---|---|---|")
    for name, value in medians.items():
        milliseconds = 1000 * value / arguments.clips
        print(f"| {name} | {milliseconds:.1f} | {plain / value:.2f} | {medians['eager fp32'] / value:.2f} |")


if __name__ == "__main__":
    main()
