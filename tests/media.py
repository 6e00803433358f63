"""Small real clips for the tests. Frame number `i` is a uniform grey of brightness `shade(i)`, so that a decoded frame
tells its own number even after lossy compression."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

HEIGHT, WIDTH = 48, 64
MAX_SHADES = 60


def shade(index: int) -> int:
    """Brightness of frame `index`, 0 to 59."""
    assert 0 <= index < MAX_SHADES
    return 10 + 4 * index


def shades(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """`count` frames `(H, W, 3)`, uint8, of which each tells its number."""
    return [np.full((height, width, 3), shade(index), np.uint8) for index in range(count)]


def numbers(frames: torch.Tensor) -> list[int]:
    """The numbers of decoded frames `(T, 3, H, W)`, read off the middle of each."""
    height, width = frames.shape[-2:]
    middle = frames[..., height // 3 : 2 * height // 3 + 1, width // 3 : 2 * width // 3 + 1].float()
    return [round((mean.item() - 10) / 4) for mean in middle.mean(dim=(1, 2, 3))]


def corners(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame with a red, green, blue and white quarter, in reading order."""
    frame = np.full((height, width, 3), 255, np.uint8)
    frame[: height // 2, : width // 2] = (255, 0, 0)
    frame[: height // 2, width // 2 :] = (0, 255, 0)
    frame[height // 2 :, : width // 2] = (0, 0, 255)
    return frame


def corner_names(frame: torch.Tensor) -> str:
    """What a frame `(3, H, W)` made by `corners` shows in its four quarters, in reading order: "RGBW" when upright."""
    height, width = frame.shape[-2:]
    names = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B", (True, True, True): "W"}
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return "".join(names[tuple((frame[:, y, x] > 128).tolist())] for y, x in places)


def texture(count: int, height: int = 120, width: int = 160) -> list[np.ndarray]:
    """Frames `(H, W, 3)` of smooth coloured noise that moves, for comparing pixels."""
    noise = torch.rand(1, 3, height // 8 + 2, (width + 4 * count) // 8 + 2, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bilinear")[0].permute(1, 2, 0)
    pixels = (wide * 255).byte().numpy()
    return [np.ascontiguousarray(pixels[:height, 4 * index : 4 * index + width]) for index in range(count)]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 20,
    gop: int = 12,
    b_frames: int = 2,
    crf: int = 12,
    times_ms: Sequence[int] | None = None,
    decoding_order_times: bool = False,
    rotation: int = 0,
    aspect: Fraction | None = None,
    alpha: bool = False,
) -> Path:
    """Writes a video; the container follows from the ending of `path`.

    `times_ms` sets the presentation time of every frame (variable frame rate); `decoding_order_times` writes a broken
    file, as some cameras do, in which frames are reordered but their times are not.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if times_ms else rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "argb" if alpha else "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": str(crf), "preset": "veryfast", "bf": str(b_frames), "b-adapt": "0"}
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
        if codec in ("libvpx", "libvpx-vp9", "mpeg4"):
            stream.bit_rate = 4_000_000
        if codec in ("libvpx", "libvpx-vp9"):
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        packets = []
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if alpha else "rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        first = packets[0].dts
        for packet in packets:
            if decoding_order_times:
                packet.pts = packet.dts = packet.dts - first
            container.mux(packet)
    return path


def write_animation(path: Path, frames: Sequence[np.ndarray], delays_ms: Sequence[int] | int) -> Path:
    """Writes a GIF, WebP or APNG by the ending of `path`."""
    images = [Image.fromarray(frame) for frame in frames]
    delays = list(delays_ms) if isinstance(delays_ms, Sequence) else delays_ms
    options = {".gif": {"disposal": 2}, ".webp": {"lossless": True}, ".png": {}}[path.suffix]
    images[0].save(path, save_all=True, append_images=images[1:], duration=delays, loop=0, **options)
    return path


def write_folder(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    """Writes frame0.png, frame1.png ... frame10.png ..., and what else lies about in such folders."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{index}.png")
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_bytes(b"not a frame either")
    return folder


def write_sound(path: Path) -> Path:
    """Writes a second of silence, without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def write_empty_video(path: Path) -> Path:
    """Writes a video whose stream has no frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        container.start_encoding()
    return path


def cut(path: Path, share: float) -> Path:
    """Writes the first `share` of a file under another name, as a download that broke off leaves it."""
    data = path.read_bytes()
    short = path.with_name(f"cut_{path.name}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def damage(path: Path, start: float, stop: float) -> Path:
    """Writes a file again with the bytes between two shares of it set to zero."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * stop)
    data[first:last] = bytes(last - first)
    broken = path.with_name(f"damaged_{path.name}")
    broken.write_bytes(data)
    return broken


def spoil_packet(path: Path, number: int, start: float = 0.0) -> Path:
    """Sets the bytes of one packet of a video to zero, from a share of it on, in place."""
    with av.open(str(path)) as container:
        packet = bytes(list(container.demux(video=0))[number])
    data = path.read_bytes()
    assert data.count(packet) == 1
    kept = packet[: int(len(packet) * start)]
    path.write_bytes(data.replace(packet, kept.ljust(len(packet), b"\0")))
    return path


def move_header_first(path: Path) -> Path:
    """Writes an MP4 again in the order for streaming, header before pictures, so that a cut file still opens."""
    streamed = path.with_name(f"streamed_{path.name}")
    with av.open(str(path)) as source, av.open(str(streamed), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return streamed
