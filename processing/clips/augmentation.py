"""Augmentation of whole clips for training; each draw applies to all frames of a clip.

Guarantees: captions are never changed and, as far as words can tell, stay true; a pixel that rests in a clip rests in
its augmented form; masked frames stay behind the real ones; shapes (except for the number of frames drawn) and dtypes
stay; the input is not modified.

Limitations: directions in languages other than English must be given; writing is mirrored too, and events at the
border may be cut off.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms.v2.functional import horizontal_flip, resized_crop

from ..video_frames_vidcap import segment_indices

# Each part: its largest strength, its default strength, and the meaning of the number.
PARTS = {
    "crop": (0.9, 0.3, "largest share of a frame's area to cut off"),
    "flip": (1.0, 0.5, "share of clips to mirror"),
    "color": (0.9, 0.05, "largest change of brightness, contrast and saturation"),
    "hue": (0.5, 0.05, "largest turn of the hue, in full turns"),
    "speed": (3.0, 0.25, "largest change of speed, 0.25 for 1.25 times slower or faster"),
    "cut": (0.5, 0.2, "largest share of a clip's frames to leave out at its ends"),
}
PIXEL_PARTS = ("crop", "color", "hue")  # these would need new features at each look
SIDES = re.compile(r"(?<![^\W_])((left|right)(most|wards?|hand(ed)?|side)?|(anti|counter)?clockwise)(?![^\W_])")
ORDER = re.compile(
    r"\b(then|before|after(wards?)?|first|second|last|next|finally|until|till|once|twice|times|again|"
    r"follow(s|ed|ing)?|start(s|ed|ing)?|begin(s|ning)?|began|stop(s|ped|ping)?|end(s|ed|ing)?)\b"
)


@dataclass(frozen=True)
class ClipAugmentation:
    """Augments a clip from [`ClipDataset`]. A strength of 0 leaves that part out.

    Args:
        crop: Largest share of the area to cut off, before the rest, of the same aspect, is scaled to the whole frame.
        flip: Share of the clips to mirror, where no caption names a side (see `can_mirror`).
        color: Largest relative change of brightness, contrast and saturation. Mild, since captions name colors: at
            0.05 every color of the demo data and every skin tone of emoji stays nearest to its own; at 0.1, 4 % of
            draws bring a skin tone nearest to its neighbour, at 0.2, 22 %.
        hue: Largest turn of the hue, as a share of a full turn, which soon makes names of colors untrue.
        speed: Times are divided by a factor from `1 / (1 + speed)` to `1 + speed`, log-uniform.
        cut: Largest share of the real frames to leave out at the ends, after which times start anew; never where a
            caption mentions order, starts, ends or counts. Off by default, for clips of one lasting action: no word
            tells whether an action happens at an end.
        num_frames: Frames to draw first, a random one from each of as many segments of the clip; the data then keep
            more of each clip, and every look shows other frames. `None` takes all that are kept.
        direction_words: Further words or parts of words that forbid mirroring wherever they occur in a caption, such
            as `("links", "rechts")`, or `("says", "clock")` for things that read differently in a mirror.

    Raises:
        ValueError: For a strength out of its range, or direction words that are not a list of words.
    """

    crop: float = 0.3
    flip: float = 0.5
    color: float = 0.05
    hue: float = 0.0
    speed: float = 0.25
    cut: float = 0.0
    num_frames: int | None = None
    direction_words: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, (limit, _, meaning) in PARTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
                raise ValueError(f"{name}={value!r}: pass 0 (off) to {limit:g}, the {meaning}")
        if isinstance(self.direction_words, str) or not all(word.strip() for word in self.direction_words):
            raise ValueError(f"direction_words={self.direction_words!r}: pass a list of words, none of them empty")

    @classmethod
    def from_parts(cls, parts: str | None, *, direction_words: Sequence[str] = ()) -> "ClipAugmentation":
        """Build an augmentation from parts such as `"crop,flip=0.3,speed"`; a bare name has its default strength, and
        `None` and `"none"` leave out all."""
        strengths: dict[str, Any] = dict.fromkeys(PARTS, 0.0)
        for part in parts.split(",") if parts not in (None, "none") else ():
            match = re.fullmatch(r"\s*(\w+)(?:=(\d*\.?\d+))?\s*", part)
            if match is None or match[1] not in PARTS:
                raise ValueError(
                    f"augmentation {part!r}: choose from {', '.join(PARTS)}, as in 'crop,flip=0.3', or pass none"
                )
            strengths[match[1]] = float(match[2] or PARTS[match[1]][1])
        return cls(**strengths, direction_words=direction_words)

    def check_features(self) -> None:
        """Raise a ValueError if a part needs pixels, which clips kept as features lack."""
        parts = [name for name in PIXEL_PARTS if getattr(self, name)]
        if parts:
            raise ValueError(
                f"{', '.join(parts)}: these augment pixels, but the clips are kept as features of a frozen backbone; "
                "use flip, speed, cut, frame_dropout=SHARE or word_dropout=SHARE, or, to augment pixels, train the "
                "backbone (backbone=cnn) or keep no features (streaming=True)"
            )

    def can_mirror(self, captions: Sequence[str]) -> bool:
        """Whether no caption names a side or a sense of rotation, or contains one of `direction_words`."""
        texts = [_normalised(caption) for caption in captions]
        words = [_normalised(word.strip()) for word in self.direction_words]
        return not any(SIDES.search(text) or any(word in text for word in words) for text in texts)

    def draws_mirrored(self, generator: torch.Generator | None = None) -> bool:
        """Whether to mirror a clip at this look."""
        return _uniform(0, 1, generator) < self.flip

    def __call__(self, clip: dict[str, Any], generator: torch.Generator | None = None) -> dict[str, Any]:
        """Return the clip with new uint8 `pixel_values_videos` `(T, 3, H, W)`, `video_mask` and `video_times` `(T,)`,
        and its other entries. Of `video_features` `(T, N, D)` only frames and times are drawn: [`ClipDataset`]
        keeps those of mirrored frames. Draws from `generator`, by default from torch's own."""
        name = "video_features" if "video_features" in clip else "pixel_values_videos"
        parts = [part for part in PARTS if part != "flip" or name != "video_features"]
        if self.num_frames is None and not any(getattr(self, part) for part in parts):
            return clip  # copying its features would take longer than collating them
        if name == "video_features":
            self.check_features()
        elif clip[name].dtype != torch.uint8:
            raise ValueError(f"{name} are {clip[name].dtype}: augment uint8 frames, before rescaling")
        mask, captions = clip["video_mask"], clip["captions"]
        chosen, length = mask.nonzero().squeeze(1), len(mask)
        if self.num_frames is not None:
            length = self.num_frames
            chosen = chosen[segment_indices(len(chosen), length, torch.rand(length + 1, generator=generator).tolist())]
        shift: torch.Tensor | float = 0.0  # of the times, which start anew after a cut
        if self.cut and not any(ORDER.search(_normalised(caption)) for caption in captions):
            lost = _integer(int(self.cut * len(chosen)) + 1, generator)
            start = _integer(lost + 1, generator)
            shift = clip["video_times"][chosen[0]] - clip["video_times"][chosen[start]]
            chosen = chosen[start : start + len(chosen) - lost]
        frames, times = clip[name][chosen], clip["video_times"][chosen] + shift  # one copy of the rest
        if self.speed:
            times = times / (1 + self.speed) ** _uniform(-1, 1, generator)
        if self.crop:
            frames = _crop(frames, self.crop, generator)
        if self.flip and name != "video_features" and self.can_mirror(captions) and self.draws_mirrored(generator):
            frames = horizontal_flip(frames)
        if self.color or self.hue:
            frames = _recolor(frames, self.color, self.hue, generator)
        missing = length - len(frames)
        if missing:
            frames = torch.cat([frames, frames[-1:].repeat_interleave(missing, dim=0)])
            times = torch.cat([times, times[-1:].repeat_interleave(missing)])
        real = (torch.arange(length) < length - missing).to(mask.dtype)
        return {**clip, name: frames, "video_mask": real, "video_times": times}


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(high, (), generator=generator))


def _crop(frames: torch.Tensor, share: float, generator: torch.Generator | None) -> torch.Tensor:
    height, width = frames.shape[-2:]
    scale = math.sqrt(_uniform(1 - share, 1, generator))
    inner_height, inner_width = round(height * scale), round(width * scale)
    top = _integer(height - inner_height + 1, generator)
    left = _integer(width - inner_width + 1, generator)
    return resized_crop(frames, top, left, inner_height, inner_width, [height, width])


def _recolor(frames: torch.Tensor, color: float, hue: float, generator: torch.Generator | None) -> torch.Tensor:
    """One linear map of RGB for all frames `(T, 3, H, W)`: torchvision's adjust_*, except that contrast is about the
    mean of the clip (each frame's own would make a still background flicker) and hue turns about the grey axis."""
    brightness, contrast, saturation = (_uniform(1 - color, 1 + color, generator) for _ in range(3))
    pixels, luma = frames.float(), torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # x -> grey axis x x
    turn = torch.linalg.matrix_exp(2 * math.pi * _uniform(-hue, hue, generator) * axis)
    matrix = (saturation * torch.eye(3) + (1 - saturation) * luma) @ turn
    mean = luma @ pixels.mean(dim=(0, 2, 3))
    pixels = brightness * (contrast * torch.einsum("oc,tchw->tohw", matrix, pixels) + (1 - contrast) * mean)
    return pixels.round().clamp(0, 255).to(torch.uint8)
