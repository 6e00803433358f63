"""Reading 16 frames of a video, exactly and with what makes it faster.

    python benchmarks/reading.py clip.mp4 other.mkv
    python benchmarks/reading.py clip.mp4 --times 114

`--times` joins a clip so many times to itself, packet by packet, in place of a long video. Given are medians of the
time on the clock, on all cores, how far frames are off (mean of all pixels, of 255) where the same ones are read, and
how far they lie from the wanted moments (seconds, the farthest). With `--model` also how far its backbone's features
are off, as a share of their mean size. Leave the machine to itself meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import av
import torch

from processing import decode_video
from vidcap.inference.loading import load_captioner

SETTINGS: dict[str, dict[str, bool]] = {
    "as they are": {},
    "skip_loop_filter": {"skip_loop_filter": True},
    "snap_to_keyframes": {"snap_to_keyframes": True},
    "both": {"skip_loop_filter": True, "snap_to_keyframes": True},
}


def join(clip: Path, times: int, target: Path) -> Path:
    """Writes the video of `clip` `times` times, one behind the other."""
    with av.open(str(target), "w") as output:
        joined, begin = None, 0
        for _ in range(times):
            with av.open(str(clip)) as container:
                stream = container.streams.video[0]
                joined = joined or output.add_stream_from_template(stream)
                end = begin
                for packet in container.demux(stream):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + begin, packet.dts + begin
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = joined
                    output.mux(packet)
                begin = end
    return target


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, help="video files")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="each joined N times to itself [1]")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="side of the box for frames [160]")
    parser.add_argument("--model", type=Path, help="a captioner's folder, to compare features")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    arguments = parser.parse_args()
    model, processor = load_captioner(arguments.model, device="cpu") if arguments.model else (None, None)
    columns = ["clip", "reading", "ms", "times as fast", "pixels off", "features off", "seconds off"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for clip in arguments.clips:
        with tempfile.TemporaryDirectory() as folder:
            path = clip if arguments.times == 1 else join(clip, arguments.times, Path(folder, clip.name))
            seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
            frames = {}
            for _ in range(arguments.repeats):
                for name, options in SETTINGS.items():
                    start = time.perf_counter()
                    frames[name] = decode_video(path, fit=(arguments.size, arguments.size), threads=0, **options)
                    seconds[name].append(time.perf_counter() - start)
            exact = frames["as they are"]
            first = statistics.median(seconds["as they are"])
            for name, read in frames.items():
                moved = (read.times - exact.times).abs().max().item()
                off = (read.frames.float() - exact.frames.float()).abs().mean().item()
                took = statistics.median(seconds[name])
                pixels = "-" if moved else f"{off:.2f}"
                features = "-"
                if model is not None and not moved:
                    one, other = (
                        model.backbone(processor(videos=[path], **each)["pixel_values_videos"])
                        for each in ({}, SETTINGS[name])
                    )
                    features = f"{((one - other).abs().mean() / one.abs().mean()).item():.1%}"
                cells = [
                    clip.name,
                    name,
                    f"{1000 * took:.0f}",
                    f"{first / took:.2f}",
                    pixels,
                    features,
                    f"{moved:.1f}",
                ]
                print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
