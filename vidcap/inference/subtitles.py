"""Captions of clips as text: lines, JSON, WebVTT, SRT.

Several captions of a clip are separate lines, best first; in subtitles lines of one cue. Limitations: no styling or
placement of subtitles, and one cue per clip.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..captioner import ScoredCaption


@dataclass
class CaptionedClip:
    """A clip with its captions, or the reason why it has none.

    Attributes:
        file: Path or URL, as the user gave it.
        captions: Its captions, best first; empty if the clip could not be read.
        seconds: Duration of the clip; `None` if it could not be read.
        error: Why it could not be read.
        source: The source to read it from, if not `file`.
    """

    file: str
    captions: Sequence[ScoredCaption] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None
    source: Any = None

    @property
    def text(self) -> str | None:
        """The best caption; `None` if the clip could not be read."""
        return self.captions[0].text if self.captions else None


def format_text(clips: Sequence[CaptionedClip]) -> str:
    """A line `file: caption` per caption."""
    return "".join(f"{clip.file}: {caption.text}\n" for clip in clips for caption in clip.captions)


def format_json(clips: Sequence[CaptionedClip]) -> str:
    """One list with `file`, `caption` and `seconds` of every clip.

    Readable clips also have `mean_log_probability`, `novelty` and `tokens` of their best caption and all their
    `captions`, unreadable ones an `error`.
    """
    rows = []
    for clip in clips:
        row: dict[str, Any] = {"file": clip.file, "caption": None, "seconds": clip.seconds}
        if clip.error is None:
            best = clip.captions[0]
            row |= {
                "caption": best.text,
                "mean_log_probability": best.mean_log_probability,
                "novelty": best.novelty,
                "tokens": [
                    {"token": token, "probability": probability}
                    for token, probability in zip(best.tokens, best.probabilities, strict=True)
                ],
                "captions": [
                    {"text": caption.text, "mean_log_probability": caption.mean_log_probability}
                    for caption in clip.captions
                ],
            }
        else:
            row["error"] = clip.error
        rows.append(row)
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def format_vtt(clips: Sequence[CaptionedClip]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/) of a single clip: one cue from its first frame to its end."""
    clip = _single(clips)
    # In a cue `&` and `<` begin escapes and tags; `>` is escaped so that the text contains no `-->`.
    text = _lines(clip).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"WEBVTT\n\n{timestamp(0)} --> {timestamp(clip.seconds or 0)}\n{text}\n"


def format_srt(clips: Sequence[CaptionedClip]) -> str:
    """SubRip of a single clip: one cue from its first frame to its end."""
    clip = _single(clips)
    start, end = (timestamp(seconds).replace(".", ",") for seconds in (0, clip.seconds or 0))
    return f"1\n{start} --> {end}\n{_lines(clip)}\n"


def timestamp(seconds: float) -> str:
    """`HH:MM:SS.mmm`, rounded to the nearest millisecond; hours may have more than two digits."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _single(clips: Sequence[CaptionedClip]) -> CaptionedClip:
    if len(clips) != 1:
        raise ValueError(f"a subtitle file is for one clip, got {len(clips)}: caption them one by one")
    return clips[0]


def _lines(clip: CaptionedClip) -> str:
    """A line per caption, without empty ones, which would end the cue."""
    lines = [" ".join(caption.text.split()) for caption in clip.captions]
    return "\n".join(line for line in lines if line)


FORMATS = {"text": format_text, "json": format_json, "vtt": format_vtt, "srt": format_srt}
