"""Features of clips by a frozen backbone, as training and evaluation compute them before the first step.

    python benchmarks/features.py --model outputs/demo
    python benchmarks/features.py --model outputs/demo --against ../vidcap-before
    python benchmarks/features.py --model outputs/demo --backends torch openvino --clips my-clips/train

Each way runs in a process of its own, with one worker a core, and keeps nothing. They take turns; given are median
frames a second, and how many times those of the first way. Clips are 16 frames of noise, which need no decoding, or
with `--clips` the videos of a folder, which are read, too. `--against` is a checkout of another version: its own code
takes its turns. Leave the machine to itself meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 16


def work(model_folder: str, backend: str, folder: str | None, count: int) -> None:
    """Answers each line of the standard input with the frames a second of one round; runs in the other process."""
    import torch

    from vidcap.inference.clip_cache import feature_extractor
    from vidcap.inference.loading import load_captioner

    model, processor = load_captioner(model_folder, device="cpu")
    workers, size = os.cpu_count() or 1, processor.video_processor.size
    encode = feature_extractor(model, processor, workers=workers, backend=backend)
    if folder is None:
        shape = (1, FRAMES, 3, size["height"], size["width"])
        noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1

        def run(index: int) -> int:
            encode(noise[index])
            return FRAMES
    else:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".gif", ".mp4", ".webm", ".webp"))

        def run(index: int) -> int:
            inputs = processor.video_processor({"path": str(files[index % len(files)]), "bytes": None})
            real = inputs["video_mask"][0].bool()  # as the cache does, which leaves out what fills up a short clip
            encode(inputs["pixel_values_videos"][:, real])
            return int(real.sum())

    print(torch.backends.cpu.get_cpu_capability(), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            frames = sum(pool.map(run, range(count)))
        print(frames / (time.perf_counter() - start), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a captioner's folder")
    parser.add_argument("--backends", nargs="+", default=["torch"], help="engines of this version [torch]")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version, by torch; it comes first")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="videos to read and encode [noise]")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="clips a round [32]")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds that count [7]")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*json.loads(arguments.work))
        return
    ways = [(str(arguments.against), arguments.against.resolve(), "torch")] if arguments.against else []
    ways += [(f"this version, {each}", ROOT, each) for each in arguments.backends]
    processes = []
    for _, checkout, backend in ways:
        clips = None if arguments.clips is None else str(arguments.clips.resolve())
        task = json.dumps([str(arguments.model.resolve()), backend, clips, arguments.count])
        command = [sys.executable, __file__, "--model", str(arguments.model), "--work", task]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, env=environment, cwd=checkout, text=True, **pipes))
    capabilities = {process.stdout.readline().strip() for process in processes}
    rates: list[list[float]] = [[] for _ in ways]
    for repeat in range(arguments.repeats + 1):
        for process, measured in zip(processes, rates, strict=True):
            process.stdin.write("\n")
            process.stdin.flush()
            rate = float(process.stdout.readline())
            if repeat:  # the first round pays for allocations
                measured.append(rate)
    for process in processes:
        process.communicate()
    first = statistics.median(rates[0])
    print(f"{os.cpu_count()} cores, instructions used: {', '.join(sorted(capabilities))}\n")
    print("| | frames a second | times the first |\n|---|---|---|")
    for (name, _, _), measured in zip(ways, rates, strict=True):
        print(f"| {name} | {statistics.median(measured):.0f} | {statistics.median(measured) / first:.2f} |")


if __name__ == "__main__":
    main()
