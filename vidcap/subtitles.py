"""Captions of clips as text: lines, JSON, WebVTT, SRT.

Given up: styling and placement of subtitles, and more than one cue a clip.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class CaptionedClip:
    """A clip and what became of it.

    Args:
        file: Path or URL, as the user gave it.
        caption: The caption, `None` where the clip could not be read.
        seconds: Duration of the clip, `None` where it could not be read.
        error: Why it could not be read.
        mean_log_probability: The average logarithm of its tokens' probabilities.
        tokens: Its tokens, each with its probability.
        novelty: How unlike the training clips the clip is; above 1, farther out than 99 % of the validation clips.
    """

    file: str
    caption: str | None = None
    seconds: float | None = None
    error: str | None = None
    mean_log_probability: float | None = None
    tokens: list[tuple[str, float]] | None = None
    novelty: float | None = None


def format_text(clips: Sequence[CaptionedClip]) -> str:
    """A line `file: caption` for each clip that has one."""
    return "".join(f"{clip.file}: {clip.caption}\n" for clip in clips if clip.error is None)


def format_json(clips: Sequence[CaptionedClip]) -> str:
    """One list with `file`, `caption` and `seconds` of every clip; `mean_log_probability`, `novelty` and `tokens` of
    those that have a caption, and `error` of those that could not be read."""
    rows = []
    for clip in clips:
        row: dict[str, Any] = {"file": clip.file, "caption": clip.caption, "seconds": clip.seconds}
        if clip.error is None:
            row |= {
                "mean_log_probability": clip.mean_log_probability,
                "novelty": clip.novelty,
                "tokens": [{"token": token, "probability": probability} for token, probability in clip.tokens or ()],
            }
        else:
            row["error"] = clip.error
        rows.append(row)
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def format_vtt(clips: Sequence[CaptionedClip]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/) of a single clip: one cue from its first frame to its end."""
    clip = _single(clips)
    # In a cue `&` and `<` begin escapes and tags; escaping `>` too leaves no `-->` in the text.
    text = (clip.caption or "").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"WEBVTT\n\n{timestamp(0)} --> {timestamp(clip.seconds or 0)}\n{_one_line(text)}\n"


def format_srt(clips: Sequence[CaptionedClip]) -> str:
    """SubRip of a single clip: one cue from its first frame to its end."""
    clip = _single(clips)
    start, end = (timestamp(seconds).replace(".", ",") for seconds in (0, clip.seconds or 0))
    return f"1\n{start} --> {end}\n{_one_line(clip.caption or '')}\n"


def timestamp(seconds: float) -> str:
    """`HH:MM:SS.mmm`, rounded to the nearest millisecond; hours may have more than two digits."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _single(clips: Sequence[CaptionedClip]) -> CaptionedClip:
    if len(clips) != 1:
        raise ValueError(f"a subtitle file belongs to one clip, got {len(clips)}: caption them one by one")
    return clips[0]


def _one_line(text: str) -> str:
    """An empty line would end the cue."""
    return " ".join(text.split())


FORMATS = {"text": format_text, "json": format_json, "vtt": format_vtt, "srt": format_srt}
