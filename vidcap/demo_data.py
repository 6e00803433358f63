"""Short captioned clips, drawn from nothing: data to try the whole package on, and a test of what a captioner learned.

Each clip shows one coloured shape doing two things, one after the other: "a red circle slides left and then grows".

Promises: every caption is true of its clip, and `caption_reversed` of the clip played backwards; the object never
leaves the frame; the test clips show colour-shape pairs and orders of actions that no training clip shows (so do
the validation clips, with other pairs and orders than the test's); the same arguments draw the same pixels; the
folder appears complete or not at all. Gives up: one object and one still background a clip, one sentence pattern.
"""

import json
import os
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

# Colours that nobody confuses: no orange between red and yellow, no brown between red and black.
COLOURS = {
    "red": (220, 40, 40),
    "pink": (255, 150, 185),
    "yellow": (250, 225, 50),
    "green": (40, 160, 70),
    "blue": (45, 85, 220),
    "purple": (130, 45, 190),
    "white": (245, 245, 245),
    "black": (18, 18, 18),
}
# Each action and what it looks like backwards.
INVERSE = {
    "slides left": "slides right",
    "slides right": "slides left",
    "slides up": "slides down",
    "slides down": "slides up",
    "grows": "shrinks",
    "shrinks": "grows",
    "spins": "spins",
    "blinks": "blinks",
    "bounces": "bounces",
}
SPLITS = ("train", "validation", "test")

_DIRECTIONS = {"slides left": (-1, 0), "slides right": (1, 0), "slides up": (0, -1), "slides down": (0, 1)}
_BACKGROUNDS = ("plain", "gradient", "halves", "stripes", "noise")
_SETTINGS_FILE = "demo_data.json"
_GENERATOR = 2  # to be raised with every change of the pixels or captions, so that an older folder is not reused
_SUPERSAMPLING = 4
_MARGIN = 0.02  # between the object and the border, as a share of the frame


def _regular_polygon(corners: int, *, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, the first at the top; `inner` < 1 pulls every second one in, which makes a star."""
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    radii = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _square() -> np.ndarray:
    half = np.sqrt(0.5)
    return np.array([(-half, -half), (half, -half), (half, half), (-half, half)])


def _cross(half_width: float = 0.3) -> np.ndarray:
    long = np.sqrt(1 - half_width**2)
    quarter = np.array([(half_width, half_width), (long, half_width), (long, -half_width)])
    turn = np.array([(0, -1), (1, 0)])  # a quarter turn; four quarters close the outline
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y - (y.min() + y.max()) / 2], axis=1)
    return points / np.linalg.norm(points, axis=1).max()


# Outlines within the unit circle, y pointing down: (P, 2). A square on its tip would be a spun square, so no diamond.
SHAPES = {
    "circle": _regular_polygon(60),
    "square": _square(),
    "triangle": _regular_polygon(3),
    "star": _regular_polygon(10, inner=0.4),
    "cross": _cross(),
    "heart": _heart(),
}


@dataclass(frozen=True)
class ClipSpec:
    """Everything that decides a clip's pixels and captions. Lengths are shares of the frame's side.

    Attributes:
        colour, shape: Keys of `COLOURS` and `SHAPES`.
        actions: Two different keys of `INVERSE`, in the order in which they happen.
        size: Side of the square frame in pixels.
        num_frames, frame_ms: The number of frames and how long each is shown.
        turning_frame: The frame in which the first action has ended and the second is about to begin.
        rgb: The object's colour: that of `COLOURS`, slightly varied.
        radius: That of the circle around the object where it is smallest.
        start: The object's centre in the first frame (x, y).
        travel, factor: How far a slide goes and how much a change of size multiplies, one each for the two actions.
        hop: The height of a bounce.
        turn: 1 to spin clockwise, -1 counter-clockwise.
        background: One of plain, gradient, halves, stripes, noise.
        tones: The background's two colours.
        background_seed: Draws the background's direction, place and grain.
    """

    colour: str
    shape: str
    actions: tuple[str, str]
    size: int
    num_frames: int
    frame_ms: int
    turning_frame: int
    rgb: tuple[int, int, int]
    radius: float
    start: tuple[float, float]
    travel: tuple[float, float]
    factor: tuple[float, float]
    hop: float
    turn: int
    background: str
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]
    background_seed: int

    @property
    def caption(self) -> str:
        return _sentence(self.colour, self.shape, self.actions)

    @property
    def caption_reversed(self) -> str:
        """What is true of the clip played backwards (equal to `caption` for, say, growing and then shrinking)."""
        first, second = self.actions
        return _sentence(self.colour, self.shape, (INVERSE[second], INVERSE[first]))

    def path(self) -> dict[str, np.ndarray]:
        """The object's centre `x`, `y` seen from `start`, its `radius`, `angle` (radians) and `visible`, each (T,)."""
        now = np.arange(self.num_frames)
        x, y, angle = np.zeros(len(now)), np.zeros(len(now)), np.zeros(len(now))
        scale, visible = np.ones(len(now)), np.ones(len(now), dtype=bool)
        spans = ((0, self.turning_frame), (self.turning_frame, self.num_frames - 1))
        for action, (begin, end), travel, factor in zip(self.actions, spans, self.travel, self.factor, strict=True):
            phase = np.clip((now - begin) / (end - begin), 0, 1)  # (T,)
            if action in _DIRECTIONS:
                x += _DIRECTIONS[action][0] * travel * phase
                y += _DIRECTIONS[action][1] * travel * phase
            elif action == "grows":
                scale *= factor**phase
            elif action == "shrinks":
                scale *= factor**-phase
            elif action == "spins":
                angle += self.turn * 2 * np.pi * phase
            elif action == "blinks":  # on, off, on, off, on: long enough to be seen by a model that skips frames
                off_centre = np.abs(phase - 0.5)
                visible &= ~((off_centre > 0.1) & (off_centre < 0.3))
            elif action == "bounces":  # two hops
                y -= self.hop * 4 * (2 * phase % 1) * (1 - 2 * phase % 1)
            else:
                raise ValueError(f"no such action: {action!r}; choose from {sorted(INVERSE)}")
        return {"x": x, "y": y, "radius": self.radius * scale / scale.min(), "angle": angle, "visible": visible}


def _sentence(colour: str, shape: str, actions: tuple[str, str]) -> str:
    return f"a {colour} {shape} {actions[0]} and then {actions[1]}"


def render_clip(spec: ClipSpec) -> np.ndarray:
    """Draw a clip.

    Returns:
        uint8 RGB frames (num_frames, size, size, 3).
    """
    background = render_background(spec).astype(np.float32)  # (H, W, 3)
    path = spec.path()
    frames = np.empty((spec.num_frames, spec.size, spec.size, 3), dtype=np.uint8)
    scale = spec.size * _SUPERSAMPLING
    for i, frame in enumerate(frames):
        canvas = Image.new("L", (scale, scale))
        if path["visible"][i]:
            cos, sin = np.cos(path["angle"][i]), np.sin(path["angle"][i])
            turned = SHAPES[spec.shape] @ np.array([(cos, sin), (-sin, cos)])
            centre = np.array(spec.start) + (path["x"][i], path["y"][i])
            corners = (centre + path["radius"][i] * turned) * scale - 0.5
            ImageDraw.Draw(canvas).polygon(corners.ravel().tolist(), fill=255)
        cover = np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32)[..., None] / 255  # (H, W, 1)
        frame[:] = np.rint(background + (np.array(spec.rgb) - background) * cover)
    return frames


def render_background(spec: ClipSpec) -> np.ndarray:
    """Draw what stands still behind the object: uint8 (size, size, 3)."""
    rng = np.random.default_rng(spec.background_seed)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
    side = (np.arange(spec.size) + 0.5) / spec.size - 0.5
    along = side[None, :] * np.cos(angle) + side[:, None] * np.sin(angle)  # (H, W), within +-0.71
    if spec.background == "plain":
        weight = np.zeros_like(along)
    elif spec.background == "gradient":
        weight = np.clip(along + 0.5, 0, 1)
    elif spec.background == "halves":
        weight = (along > offset).astype(float)
    elif spec.background == "stripes":
        weight = (np.sin(along * 2 * np.pi * rng.uniform(2, 4)) > 0).astype(float)
    elif spec.background == "noise":
        weight = rng.random(along.shape)
    else:
        raise ValueError(f"no such background: {spec.background!r}; choose from {_BACKGROUNDS}")
    first, second = np.array(spec.tones)
    return np.rint(first + (second - first) * weight[..., None]).astype(np.uint8)


def plan_splits(seed: int = 0) -> dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """Decide which colour-shape pairs and which orders of actions each split may show.

    Seat the nine actions around a table in random order. Pairs at distance 3 and 4 are train's in both orders; of
    those at distance 2, one direction (by the toss of a coin) is train's and the opposite one test's; so it is at
    distance 1, but for validation, and for every second pair only (both orders of the others are train's).
    Colour-shape pairs are dealt out likewise: per shape one colour for test, for every second shape one for
    validation, the others for train.

    Returns:
        For each split its (colour, shape) pairs and its (first action, second action) orders.
    """
    rng = np.random.default_rng(seed)
    actions = [str(action) for action in rng.permutation(list(INVERSE))]
    orders: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for distance in range(1, len(actions) // 2 + 1):
        sign = rng.choice((-1, 1))
        for i, action in enumerate(actions):
            partner = actions[(i + sign * distance) % len(actions)]
            held_out = {1: "train" if i % 2 else "validation", 2: "test"}.get(distance, "train")
            orders["train"].append((action, partner))
            orders[held_out].append((partner, action))
    pairs: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))]
    for j, shape in enumerate(rng.permutation(list(SHAPES))):
        for i, colour in enumerate(colours):
            split = {0: "train" if j % 2 else "validation", 4: "test"}.get((i - j) % len(colours), "train")
            pairs[split].append((colour, str(shape)))
    return {split: (pairs[split], orders[split]) for split in SPLITS}


def draw_specs(split: str, count: int, *, seed: int = 0, size: int = 64) -> list[ClipSpec]:
    """Draw `count` clips of a split: each combination of colour, shape and actions comes once before any comes twice.

    A turning circle looks like a resting one, so no circle spins.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pairs, orders = plan_splits(seed)[split]
    combinations = [
        (colour, shape, actions)
        for (colour, shape), actions in product(pairs, orders)
        if not (shape == "circle" and "spins" in actions)
    ]
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(combinations)).tolist())
    return [_draw_spec(rng, *combinations[i], size=size) for i in order[:count]]


def _draw_spec(rng: np.random.Generator, colour: str, shape: str, actions: tuple[str, str], *, size: int) -> ClipSpec:
    rgb = np.clip(np.array(COLOURS[colour]) + rng.integers(-8, 9, size=3), 0, 255)
    frame_ms = int(rng.choice((70, 80, 100)))  # GIF counts in hundredths of a second
    num_frames = round(rng.uniform(1600, 2600) / frame_ms)  # 16 to 37
    spec = ClipSpec(
        colour=colour,
        shape=shape,
        actions=actions,
        size=size,
        num_frames=num_frames,
        frame_ms=frame_ms,
        turning_frame=round(rng.uniform(0.4, 0.6) * (num_frames - 1)),
        rgb=_as_rgb(rgb),
        radius=1.0,
        start=(0.0, 0.0),
        travel=(float(rng.uniform(0.24, 0.34)), float(rng.uniform(0.24, 0.34))),
        factor=(float(rng.uniform(1.5, 1.8)), float(rng.uniform(1.5, 1.8))),
        hop=float(rng.uniform(0.22, 0.28)),
        turn=int(rng.choice((-1, 1))),
        background=str(rng.choice(_BACKGROUNDS)),
        tones=_draw_tones(rng, rgb),
        background_seed=int(rng.integers(2**31)),
    )
    # Any size and place, as long as the whole path stays in view: the ranges above leave room for a radius of 0.17.
    path = spec.path()
    room = min(1 - 2 * _MARGIN - np.ptp(path[axis]) for axis in ("x", "y"))
    radius = float(rng.uniform(0.16, min(0.26, room / 2 / path["radius"].max())))
    low = {axis: _MARGIN - (path[axis] - radius * path["radius"]).min() for axis in ("x", "y")}
    high = {axis: 1 - _MARGIN - (path[axis] + radius * path["radius"]).max() for axis in ("x", "y")}
    start = (float(rng.uniform(low["x"], high["x"])), float(rng.uniform(low["y"], high["y"])))
    return replace(spec, radius=radius, start=start)


def _draw_tones(rng: np.random.Generator, rgb: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two greyish or pastel colours that stand out from the object's."""
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
    train: int = 3000,
    validation: int = 100,
    test: int = 512,
    seed: int = 0,
    size: int = 64,
) -> dict[str, int]:
    """Write a captioned data set in the `videofolder` layout: `{split}/metadata.jsonl` beside the clips it names.

    A line of `metadata.jsonl` holds `file_name`, `caption` and `caption_reversed`: what is true of the clip played
    backwards, null where that is `caption` itself (null rather than no key: every line has the same columns).
    Every fourth clip is a GIF, the others are MP4 (H.264); frames last 70, 80 or 100 ms.

    Args:
        folder: Where to write. A folder that this function has filled with the same settings is left as it is.
        train, validation, test: How many clips each split gets. A split of 0 clips is left out.
        seed: Draws the plan of the splits and every clip.
        size: Side of the square frames in pixels, even and at least 32.

    Returns:
        The number of clips of each split.

    Raises:
        ValueError: A count is negative or the size unusable.
        FileExistsError: `folder` is a file, or holds something else than these very clips.
    """
    folder = Path(folder).resolve()
    counts = {"train": train, "validation": validation, "test": test}
    for split, count in counts.items():
        if count < 0:
            raise ValueError(f"{split}={count}: the number of clips cannot be negative")
    if size < 32 or size % 2:
        raise ValueError(f"size={size}: the frame's side must be an even number of pixels, at least 32")
    settings = json.dumps({"generator": _GENERATOR, **counts, "seed": seed, "size": size}, indent=2) + "\n"
    settings_file = folder / _SETTINGS_FILE
    if settings_file.is_file() and settings_file.read_bytes() == settings.encode():
        return counts
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a new folder for the demo data")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files than this demo data; empty it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        with tqdm(total=sum(counts.values()), desc="drawing demo clips", unit="clip", mininterval=1) as progress:
            for split, count in counts.items():
                if count:
                    _write_split(unfinished / split, draw_specs(split, count, seed=seed, size=size), progress)
        (unfinished / _SETTINGS_FILE).write_bytes(settings.encode())
        os.replace(unfinished, folder)
    return counts


def _write_split(folder: Path, specs: list[ClipSpec], progress: tqdm) -> None:
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
        # Quality well above the default: at this size, colour is half a pixel wide.
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
    """Equal neighbouring frames become one that lasts longer, as in most GIFs people have."""
    # All frames share the first one's colours (the object is in view there): dithering and changing palettes flicker.
    first = Image.fromarray(frames[0]).quantize(256, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=first, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=frame_ms, loop=0)
