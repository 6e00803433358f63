"""Captioned clips that a report or a model card shows."""

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from processing import VideoDecodeError, decode_video

from .clip_pictures import ReportExample, encode_gif
from .report import control_captions

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
WORST, BEST, DRAWN = 12, 8, 16
FRAMES, SIZE = 16, (160, 160)


def choose_examples(predictions: Sequence[dict[str, Any]], *, seed: int = 0) -> list[int]:
    """Choose the clips of lowest and highest CIDEr and some at random, each once.

    Ties are broken at random, so that of a hundred exact captions not always the first ones are shown.

    Args:
        predictions: Rows with `cider`, see `add_details`.
        seed: Random seed.

    Returns:
        Indices of the clips.
    """
    drawn = _random_order(len(predictions), seed)
    by_score = sorted(drawn, key=lambda index: predictions[index]["cider"])
    chosen = dict.fromkeys([*by_score[:WORST], *by_score[::-1][:BEST]])
    others = [index for index in drawn if index not in chosen][:DRAWN]
    return [*chosen, *others]


def _random_order(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def sample_clips(examples: Sequence[ReportExample], count: int = 4) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """A random sample of a report's examples, for a model card.

    Args:
        examples: From [`load_examples`].
        count: Number of clips, at most 16: as many of the random order are always among the examples.

    Returns:
        `file`, `hypothesis`, `references` and `exact` of each clip; and the GIFs, at most 100 kB each, by `file`.
    """
    shown = sorted(examples, key=lambda example: example.draw)[: min(count, DRAWN)]
    files = {f"clip-{number}.gif": encode_gif(example) for number, example in enumerate(shown, start=1)}
    texts = [
        {"file": file, "hypothesis": clip.hypothesis, "references": clip.references, "exact": clip.exact}
        for file, clip in zip(files, shown, strict=True)
    ]
    return texts, files


def load_examples(
    rows: "Dataset",
    predictions: Sequence[dict[str, Any]],
    *,
    max_frame_pixels: int | None = None,
    max_clip_frames: int | None = None,
) -> list[ReportExample]:
    """Decode the clips chosen by [`choose_examples`], small and with at most 16 frames.

    A clip that cannot be decoded is omitted with a warning: the file may have changed since it was captioned.

    Args:
        rows: From `load_clips`, in the order of `predictions`.
        predictions: Rows with `cider` and `exact`, see `add_details`.
        max_frame_pixels, max_clip_frames: Limits of `decode_video`; by default its own.
    """
    limits = {"max_frame_pixels": max_frame_pixels, "max_clip_frames": max_clip_frames}
    examples = []
    draws = {index: draw for draw, index in enumerate(_random_order(len(predictions), 0))}
    for index in choose_examples(predictions):
        prediction = predictions[index]
        try:
            clip = decode_video(
                rows[index]["video"],
                num_frames=FRAMES,
                fit=SIZE,
                **{name: value for name, value in limits.items() if value is not None},
            )
        except VideoDecodeError as error:
            logger.warning(f"{prediction['file_name']}: the report shows no picture of this clip ({error.reason})")
            continue
        frames = np.asarray(clip.frames[clip.mask].permute(0, 2, 3, 1))  # (T, H, W, 3)
        examples.append(
            ReportExample(
                file_name=prediction["file_name"],
                frames=frames,
                hypothesis=prediction["hypothesis"],
                references=prediction["references"],
                exact=prediction["exact"],
                score=prediction["cider"],
                seconds=float(clip.duration),
                controls=control_captions(prediction),
                draw=draws[index],
            )
        )
    return examples
