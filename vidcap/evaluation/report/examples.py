"""Which captioned clips a report shows, and their frames."""

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from processing import VideoDecodeError, decode_video

from .clip_pictures import encode_gif
from .details import control_captions
from .report import ReportExample

WORST, BEST, DRAWN = 12, 8, 16
FRAMES, SIZE = 16, (160, 160)


def choose_examples(predictions: Sequence[dict[str, Any]], *, seed: int = 0) -> list[int]:
    """Indices of the clips of lowest CIDEr, of the highest, and of some drawn at random; each clip once.

    Of equal scores the draw decides, so that of a hundred exact captions not always the first ones are shown.

    Args:
        predictions: With `cider`, see `add_details`.
        seed: Of the draw.
    """
    drawn = _random_order(len(predictions), seed)
    by_score = sorted(drawn, key=lambda index: predictions[index]["cider"])
    chosen = dict.fromkeys([*by_score[:WORST], *by_score[::-1][:BEST]])
    others = [index for index in drawn if index not in chosen][:DRAWN]
    return [*chosen, *others]


def _random_order(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def sample_clips(examples: Sequence[ReportExample], count: int = 4) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """A fair sample of a report's examples, neither its best nor its worst, for a model's card.

    Args:
        examples: From [`load_examples`].
        count: How many, at most 16: so many of the random order are always among the examples.

    Returns:
        `file`, `hypothesis`, `references` and `exact` of each clip; and the GIFs, at most 100 kB each, by `file`.
    """
    shown = sorted(examples, key=lambda example: example.draw)[: min(count, DRAWN)]
    files = {f"clip-{number}.gif": encode_gif(example) for number, example in enumerate(shown, start=1)}
    texts = [
        {"file": file, "hypothesis": each.hypothesis, "references": each.references, "exact": each.exact}
        for file, each in zip(files, shown, strict=True)
    ]
    return texts, files


def load_examples(
    rows: Any,
    predictions: Sequence[dict[str, Any]],
    *,
    max_frame_pixels: int | None = None,
    max_clip_frames: int | None = None,
) -> list[ReportExample]:
    """Decodes the clips that [`choose_examples`] names, small and in at most 16 frames.

    Args:
        rows: From `load_clips`, in the order of `predictions`.
        predictions: With `cider` and `exact`, see `add_details`.
        max_frame_pixels, max_clip_frames: What is refused; by default as in `decode_video`.

    A clip that cannot be decoded (whoever captioned it may have had another file) is left out with a note.
    """
    limits = {"max_frame_pixels": max_frame_pixels, "max_clip_frames": max_clip_frames}
    examples = []
    place = {index: draw for draw, index in enumerate(_random_order(len(predictions), 0))}
    for index in choose_examples(predictions):
        line = predictions[index]
        try:
            clip = decode_video(
                rows[index]["video"],
                num_frames=FRAMES,
                fit=SIZE,
                **{name: value for name, value in limits.items() if value is not None},
            )
        except VideoDecodeError as error:
            print(f"vidcap: note: {line['file_name']} is not shown: {error.reason}", file=sys.stderr)
            continue
        frames = np.asarray(clip.frames[clip.mask].permute(0, 2, 3, 1))  # (T, H, W, 3)
        examples.append(
            ReportExample(
                file_name=line["file_name"],
                frames=frames,
                hypothesis=line["hypothesis"],
                references=line["references"],
                exact=line["exact"],
                score=line["cider"],
                seconds=float(clip.duration),
                controls=control_captions(line),
                draw=place[index],
            )
        )
    return examples
