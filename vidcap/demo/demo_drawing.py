"""Drawing of the demo clips: shapes, actions and backgrounds.

Guarantees: a `ClipSpec` alone determines its clip's pixels and captions; every caption is true of its clip, and
`caption_reversed` of the clip played backwards.

Limitations: one object and one still background per clip, and one sentence pattern.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

# Distinct colours: no orange between red and yellow, no brown between red and black.
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
# Each action, and its appearance when played backwards.
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
# Three more, which end where they began and are their own inverses.
HARD_INVERSE = INVERSE | {"pulses": "pulses", "shakes": "shakes", "loops": "loops"}
BACKGROUNDS = ("plain", "gradient", "halves", "stripes", "noise")

_DIRECTIONS = {"slides left": (-1, 0), "slides right": (1, 0), "slides up": (0, -1), "slides down": (0, 1)}
_SUPERSAMPLING = 4


def _regular_polygon(corners: int, *, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, the first at the top; `inner` < 1 moves every second one inwards, for a star."""
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    radii = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _square() -> np.ndarray:
    half = np.sqrt(0.5)
    return np.array([(-half, -half), (half, -half), (half, half), (-half, half)])


def _cross(half_width: float = 0.3) -> np.ndarray:
    long = np.sqrt(1 - half_width**2)
    quarter = np.array([(half_width, half_width), (long, half_width), (long, -half_width)])
    turn = np.array([(0, -1), (1, 0)])  # a quarter turn; four quarters make the outline
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y - (y.min() + y.max()) / 2], axis=1)
    return points / np.linalg.norm(points, axis=1).max()


# Outlines within the unit circle, y pointing down: (P, 2). No diamond, since it is a rotated square.
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
    """All parameters of a clip's pixels and captions. Lengths are shares of the frame's side.

    Attributes:
        colour, shape: Keys of `COLOURS` and `SHAPES`.
        actions: Two or three different keys of `HARD_INVERSE`, in order.
        size: Side of the square frame in pixels.
        num_frames, frame_ms: Number of frames, and duration of each.
        turning_frames: For each action but the last, the frame between it and the next.
        rgb: The object's colour: that of `COLOURS`, slightly varied.
        radius: Radius of the circle around the object at its smallest.
        start: The object's centre in the first frame (x, y).
        travel, factor: Length of a slide and factor of a change of size, one each per action.
        hop: Height of a bounce or loop; a shake is 1.3 times as wide.
        turn: Number of turns of a spin, clockwise if above 0; a loop has the same direction.
        hidden: Span in which a blink hides the object, before and after its middle, as shares of its duration.
        background: One of plain, gradient, halves, stripes, noise.
        tones: The background's two colours.
        background_seed: Random seed of the background's direction, position and grain.
    """

    colour: str
    shape: str
    actions: tuple[str, ...]
    size: int
    num_frames: int
    frame_ms: int
    turning_frames: tuple[int, ...]
    rgb: tuple[int, int, int]
    radius: float
    start: tuple[float, float]
    travel: tuple[float, ...]
    factor: tuple[float, ...]
    hop: float
    turn: float
    hidden: tuple[float, float]
    background: str
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]
    background_seed: int

    @property
    def caption(self) -> str:
        return _sentence(self.colour, self.shape, self.actions)

    @property
    def caption_reversed(self) -> str:
        """The caption of the clip played backwards; may equal `caption`, as for growing and then shrinking."""
        return _sentence(self.colour, self.shape, tuple(HARD_INVERSE[action] for action in reversed(self.actions)))

    def path(self) -> dict[str, np.ndarray]:
        """The object's `x` and `y` relative to `start`, `radius`, `angle` (radians) and `visible`, each (T,)."""
        now = np.arange(self.num_frames)
        x, y, angle = np.zeros(len(now)), np.zeros(len(now)), np.zeros(len(now))
        scale, visible = np.ones(len(now)), np.ones(len(now), dtype=bool)
        spans = pairwise((0, *self.turning_frames, self.num_frames - 1))
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
            elif action == "blinks":  # on, off, on, off, on: long enough for a model that skips frames
                off_centre = np.abs(phase - 0.5)
                visible &= ~((off_centre > self.hidden[0]) & (off_centre < self.hidden[1]))
            elif action == "bounces":  # two hops
                y -= self.hop * 4 * (2 * phase % 1) * (1 - 2 * phase % 1)
            elif action == "pulses":  # larger and back, twice
                scale *= factor ** (4 * (2 * phase % 1) * (1 - 2 * phase % 1))
            elif action == "shakes":  # right, left, right
                x += 1.3 * self.hop / 2 * np.sin(3 * np.pi * phase)
            elif action == "loops":  # once around a point above
                x += np.sign(self.turn) * self.hop / 2 * np.sin(2 * np.pi * phase)
                y -= self.hop / 2 * (1 - np.cos(2 * np.pi * phase))
            else:
                raise ValueError(f"unknown action {action!r}: choose from {', '.join(HARD_INVERSE)}")
        return {"x": x, "y": y, "radius": self.radius * scale / scale.min(), "angle": angle, "visible": visible}


def _sentence(colour: str, shape: str, actions: tuple[str, ...]) -> str:
    return f"a {colour} {shape} {', then '.join(actions[:-1])} and then {actions[-1]}"


def render_clip(spec: ClipSpec) -> np.ndarray:
    """Draw a clip: uint8 RGB frames (num_frames, size, size, 3)."""
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
    """Draw the background: uint8 (size, size, 3)."""
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
        raise ValueError(f"unknown background {spec.background!r}: choose from {', '.join(BACKGROUNDS)}")
    first, second = np.array(spec.tones)
    return np.rint(first + (second - first) * weight[..., None]).astype(np.uint8)
