"""From the shell to a caption: what `vidcap caption` takes beside a bare `import torch`, and how fast it goes on.

    python benchmarks/startup.py clip.mp4 --model outputs/demo
    python benchmarks/startup.py clip.mp4 --model outputs/demo --clips my-clips/test/*.mp4

Each is a process of its own, from its start to its end, with the options that the model was saved with. They take
turns; given are medians. Clips a second are those of `--clips` beside one clip, so that start-up does not count. Leave
the machine to itself meanwhile.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

CAPTION = ("-m", "vidcap", "caption")


def seconds(*argv: str) -> float:
    """How long `python` takes with these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="the video file")
    parser.add_argument("--model", required=True, help="a captioner's folder")
    parser.add_argument("--clips", nargs="+", default=[], metavar="CLIP", help="many clips, captioned by one process")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    arguments = parser.parse_args()
    model = ("--model", arguments.model)
    commands = {
        "import torch": ("-c", "import torch"),
        "vidcap --help": ("-m", "vidcap", "--help"),
        "one clip": (*CAPTION, arguments.clip, *model),
    }
    if arguments.clips:
        commands["many clips"] = (*CAPTION, *arguments.clips, *model)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(arguments.repeats + 1):
        for name, argv in commands.items():
            found = seconds(*argv)
            if repeat:  # the first round reads files that are in no cache yet
                taken[name].append(found)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"instructions: {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}\n")
    print("| | s | times import torch |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {value / medians['import torch']:.2f} |")
    if arguments.clips:
        rate = (len(arguments.clips) - 1) / (medians["many clips"] - medians["one clip"])
        print(f"\n{rate:.1f} clips a second after start-up")


if __name__ == "__main__":
    main()
