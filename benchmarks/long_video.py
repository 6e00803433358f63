"""Peak memory of `vidcap caption` on a one-hour 720p file against a ten-second one.

    python benchmarks/long_video.py --model outputs/demo

Ten seconds of moving noise and gradients are encoded once (H.264, 25 frames a second); the hour repeats their packets.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 25, 10


def write_video(path: Path, *, repeats: int) -> None:
    """Encodes `SECONDS` of video and writes them `repeats` times over, each time with later time stamps."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, WIDTH, dtype=np.float32)[None, :, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": str(RATE)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        packets = []
        for i in range(SECONDS * RATE):
            frame = np.broadcast_to(np.roll(ramp, 5 * i, axis=1), (HEIGHT, WIDTH, 3)).copy()
            frame[300:420, 500:780] = rng.integers(0, 256, (120, 280, 3))
            packets += stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24"))
        packets += stream.encode()
        span = round(SECONDS / packets[0].time_base)
        for repeat in range(repeats):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts = packet.pts + repeat * span, packet.dts + repeat * span
                container.mux(copy)


def caption(clip: Path, model: str) -> tuple[str, float, float]:
    """The caption, peak memory of the process in MB, and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vidcap", "caption", str(clip), "--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vidcap caption failed on {clip}")
    return text.strip(), usage.ru_maxrss / 1024, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a captioner")
    arguments = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (SECONDS, 3600):
            clip = Path(folder) / f"{seconds}s.mp4"
            write_video(clip, repeats=seconds // SECONDS)
            text, peak, took = caption(clip, arguments.model)
            peaks.append(peak)
            size = clip.stat().st_size / 2**20
            print(f"{seconds:5} s of video, {size:6.0f} MB: peak {peak:.0f} MB, {took:.1f} s; {text}")
    print(f"difference: {peaks[1] - peaks[0]:.0f} MB")


if __name__ == "__main__":
    main()
