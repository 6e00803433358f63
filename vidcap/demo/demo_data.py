"""Generated clips with captions, to try the whole package and to test a captioner.

Each clip shows a coloured shape doing two things in a row: "a red circle slides left and then grows". The hard setting
has three more actions and shows three in a row; training sees three in ten of their orders. `demo_drawing.py` draws
the clips.

Guarantees: every caption is true of its clip, and `caption_reversed` of the clip played backwards; the object never
leaves the frame; test clips show colour-shape pairs and orders of actions that no training clip shows, and validation
clips show others again; the same arguments draw the same pixels; the folder appears complete or not at all.
"""

import json
import os
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path

import av
import numpy as np
from PIL import Image

from processing.support.progress import Progress

from .demo_drawing import BACKGROUNDS, COLOURS, HARD_INVERSE, INVERSE, SHAPES, ClipSpec, render_clip

Order = tuple[str, ...]  # actions in a row

SPLITS = ("train", "validation", "test")

_SETTINGS_FILE = "demo_data.json"
_GENERATOR = 2  # raise with every change of the pixels or captions, so that older folders are not reused
_MARGIN = 0.02  # between the object and the border, as a share of the frame


@dataclass(frozen=True)
class _Ranges:
    """Ranges that the values of a [`ClipSpec`] are drawn from."""

    milliseconds: tuple[int, int]
    turning: tuple[tuple[float, float], ...]  # times at which one action follows another, as shares of the clip
    travel: tuple[float, float]
    factor: tuple[float, float]
    hop: tuple[float, float]
    turns: float
    hidden: tuple[float, float]
    radius: tuple[float, float]


_TWO_ACTIONS = _Ranges(
    milliseconds=(1600, 2600),  # 16 to 37 frames
    turning=((0.4, 0.6),),
    travel=(0.24, 0.34),
    factor=(1.5, 1.8),
    hop=(0.22, 0.28),
    turns=1,
    hidden=(0.1, 0.3),
    radius=(0.16, 0.26),
)
# Sixteen frames of a clip show each action in at least five. No blink falls between two of them, and a spin turns by
# some 45 degrees per frame, not by the 72 or 90 after which a star or a square looks the same.
_THREE_ACTIONS = _Ranges(
    milliseconds=(3000, 3900),  # 30 to 56 frames
    turning=((0.28, 0.32), (0.68, 0.72)),
    travel=(0.2, 0.25),
    factor=(1.45, 1.6),
    hop=(0.17, 0.2),
    turns=0.6,
    hidden=(0.08, 0.35),
    radius=(0.13, 0.24),
)


def plan_splits(seed: int = 0, *, hard: bool = False) -> dict[str, tuple[list[tuple[str, str]], list[Order]]]:
    """Assign colour-shape pairs and orders of actions to the splits.

    Of each shape, test has one colour, validation one colour of every second shape, and train the others. Orders: see
    `_plan_pairs` and, if `hard`, `_plan_triples`.

    Returns:
        For each split its (colour, shape) pairs and its orders of actions.
    """
    rng = np.random.default_rng(seed)
    orders = _plan_triples(rng) if hard else _plan_pairs(rng)
    pairs: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))]
    for j, shape in enumerate(rng.permutation(list(SHAPES))):
        for i, colour in enumerate(colours):
            split = {0: "train" if j % 2 else "validation", 4: "test"}.get((i - j) % len(colours), "train")
            pairs[split].append((colour, str(shape)))
    return {split: (pairs[split], orders[split]) for split in SPLITS}


def _plan_pairs(rng: np.random.Generator) -> dict[str, list[Order]]:
    """Assign the 72 orders of two actions to the splits.

    The nine actions are placed on a circle in random order. Pairs at distance 3 and 4 go to train in both orders. Of
    pairs at distance 2, one direction, chosen at random, goes to train and the other to test. Of every second pair at
    distance 1, one direction goes to train and the other to validation; the rest goes to train.
    """
    actions = [str(action) for action in rng.permutation(list(INVERSE))]
    orders: dict[str, list[Order]] = {split: [] for split in SPLITS}
    for distance in range(1, len(actions) // 2 + 1):
        sign = rng.choice((-1, 1))
        for i, action in enumerate(actions):
            partner = actions[(i + sign * distance) % len(actions)]
            held_out = {1: "train" if i % 2 else "validation", 2: "test"}.get(distance, "train")
            orders["train"].append((action, partner))
            orders[held_out].append((partner, action))
    return orders


def _plan_triples(rng: np.random.Generator) -> dict[str, list[Order]]:
    """Assign the 1320 orders of three actions to the splits.

    Of the ten actions that can follow any two, three go to train, three to validation and four to test.
    """
    orders: dict[str, list[Order]] = {split: [] for split in SPLITS}
    for first_two in permutations(HARD_INVERSE, 2):
        thirds = rng.permutation([action for action in HARD_INVERSE if action not in first_two]).tolist()
        for split, part in zip(SPLITS, (thirds[:3], thirds[3:6], thirds[6:]), strict=True):
            orders[split] += [(*first_two, third) for third in part]
    return orders


def draw_specs(split: str, count: int, *, seed: int = 0, size: int = 64, hard: bool = False) -> list[ClipSpec]:
    """Draw `count` clips of a split, using each combination of colour, shape and actions once before any twice.

    No circle spins, since it would look still.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pairs, orders = plan_splits(seed, hard=hard)[split]
    combinations = [
        (colour, shape, actions)
        for (colour, shape), actions in product(pairs, orders)
        if not (shape == "circle" and "spins" in actions)
    ]
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(combinations)).tolist())
    ranges = _THREE_ACTIONS if hard else _TWO_ACTIONS
    return [_draw_spec(rng, *combinations[i], size=size, ranges=ranges) for i in order[:count]]


def _draw_spec(
    rng: np.random.Generator, colour: str, shape: str, actions: Order, *, size: int, ranges: _Ranges
) -> ClipSpec:
    rgb = np.clip(np.array(COLOURS[colour]) + rng.integers(-8, 9, size=3), 0, 255)
    frame_ms = int(rng.choice((70, 80, 100)))  # GIF durations are multiples of 10 ms
    num_frames = round(rng.uniform(*ranges.milliseconds) / frame_ms)
    spec = ClipSpec(
        colour=colour,
        shape=shape,
        actions=actions,
        size=size,
        num_frames=num_frames,
        frame_ms=frame_ms,
        turning_frames=tuple(round(rng.uniform(*span) * (num_frames - 1)) for span in ranges.turning),
        rgb=_as_rgb(rgb),
        radius=1.0,
        start=(0.0, 0.0),
        travel=tuple(float(rng.uniform(*ranges.travel)) for _ in actions),
        factor=tuple(float(rng.uniform(*ranges.factor)) for _ in actions),
        hop=float(rng.uniform(*ranges.hop)),
        turn=ranges.turns * int(rng.choice((-1, 1))),
        hidden=ranges.hidden,
        background=str(rng.choice(BACKGROUNDS)),
        tones=_draw_tones(rng, rgb),
        background_seed=int(rng.integers(2**31)),
    )
    # Any size and position that keeps the whole path in view: the ranges leave room for the smallest radius.
    path = spec.path()
    room = min(1 - 2 * _MARGIN - np.ptp(path[axis]) for axis in ("x", "y"))
    smallest, largest = ranges.radius
    radius = float(rng.uniform(smallest, min(largest, room / 2 / path["radius"].max())))
    low = {axis: _MARGIN - (path[axis] - radius * path["radius"]).min() for axis in ("x", "y")}
    high = {axis: 1 - _MARGIN - (path[axis] + radius * path["radius"]).max() for axis in ("x", "y")}
    start = (float(rng.uniform(low["x"], high["x"])), float(rng.uniform(low["y"], high["y"])))
    return replace(spec, radius=radius, start=start)


def _draw_tones(rng: np.random.Generator, rgb: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two greyish or pastel colours that contrast with the object's."""
    tones: list[tuple[int, int, int]] = []
    while len(tones) < 2:
        tone = rng.uniform(70, 200) + rng.uniform(-25, 25, size=3)
        if np.linalg.norm(tone - rgb) > 110:
            tones.append(_as_rgb(tone))
    return tones[0], tones[1]


def _as_rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def generate_demo_data(
    folder: str | os.PathLike[str],
    *,
    train: int = 2000,
    validation: int = 100,
    test: int = 512,
    seed: int = 0,
    size: int = 64,
    hard: bool = False,
) -> dict[str, int]:
    """Write a captioned data set in the `videofolder` layout: `{split}/metadata.jsonl` beside its clips.

    Each line of `metadata.jsonl` has `file_name`, `caption` and `caption_reversed`, the caption of the clip played
    backwards, null where that equals `caption`. Every fourth clip is a GIF, the others are MP4 (H.264); frames last
    70, 80 or 100 ms.

    Args:
        folder: Output folder. A folder that this function filled with the same settings is not changed.
        train, validation, test: Numbers of clips. A split of 0 clips is omitted.
        seed: Random seed of the splits and the clips.
        size: Side of the square frames in pixels, even and at least 32.
        hard: Twelve actions instead of nine and three in a row instead of two; training shows 30 % of their orders.

    Returns:
        The number of clips of each split.

    Raises:
        ValueError: A count is negative or the size is invalid.
        FileExistsError: `folder` is a file, or contains other files than these clips.
    """
    folder = Path(folder).resolve()
    counts = {"train": train, "validation": validation, "test": test}
    for split, count in counts.items():
        if count < 0:
            raise ValueError(f"{split}={count} must be at least 0, a number of clips")
    if size < 32 or size % 2:
        raise ValueError(f"size={size} must be an even number of pixels, at least 32")
    arguments = {**counts, "seed": seed, "size": size} | ({"hard": True} if hard else {})
    settings = json.dumps({"generator": _GENERATOR, **arguments}, indent=2) + "\n"
    settings_file = folder / _SETTINGS_FILE
    if settings_file.is_file() and settings_file.read_bytes() == settings.encode():
        return counts
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a new folder for the demo data")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} contains other files than this demo data; empty it or give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        with Progress("drawing demo clips", sum(counts.values())) as progress:
            for split, count in counts.items():
                if count:
                    specs = draw_specs(split, count, seed=seed, size=size, hard=hard)
                    _write_split(unfinished / split, specs, progress)
        (unfinished / _SETTINGS_FILE).write_bytes(settings.encode())
        os.replace(unfinished, folder)
    return counts


def _write_split(folder: Path, specs: list[ClipSpec], progress: Progress) -> None:
    folder.mkdir()
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as metadata:
        for i, spec in enumerate(specs):
            write, suffix = (_write_gif, "gif") if i % 4 == 3 else (_write_mp4, "mp4")
            file_name = f"{i:05d}.{suffix}"
            write(folder / file_name, render_clip(spec), spec.frame_ms)
            row = {
                "file_name": file_name,
                "caption": spec.caption,
                "caption_reversed": spec.caption_reversed if spec.caption_reversed != spec.caption else None,
            }
            metadata.write(json.dumps(row) + "\n")
            progress.update()


def _write_mp4(path: Path, frames: np.ndarray, frame_ms: int) -> None:
    with av.open(path, "w") as container:
        # Quality well above the default, since colour has half the resolution.
        stream = container.add_stream(
            "libx264", rate=Fraction(1000, frame_ms), options={"crf": "12", "preset": "ultrafast"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, frame_ms: int) -> None:
    """Write a GIF in which equal consecutive frames become one longer frame, as in most GIFs."""
    # All frames share the palette of the first, which shows the object: dithering and changing palettes flicker.
    first = Image.fromarray(frames[0]).quantize(256, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=first, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=frame_ms, loop=0)
