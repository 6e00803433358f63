"""Captions of clips as text: lines, JSON, WebVTT, SRT.

Several captions of a clip are lines of their own, best first: in subtitles lines of one cue. Given up: styling and
placement of subtitles, and more than one cue a clip.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ScoredCaption:
    """A caption and how sure the model is of it.

    Args:
        text: The caption.
        tokens: Its tokens as text, the end of the sentence included.
        log_probabilities: Natural logarithm of the probability of each, given the clip and the tokens before it. It is
            the model's own, whatever guidance, banned words or temperature made of it in the search.
        novelty: How unlike the training clips the clip is, see `VideoCaptionNovelty`; above 1 the caption is a guess.
            `None` for a model that was saved without this knowledge.
    """

    text: str
    tokens: list[str]
    log_probabilities: list[float]
    novelty: float | None

    @property
    def probabilities(self) -> list[float]:
        """Of each token."""
        return [math.exp(each) for each in self.log_probabilities]

    @property
    def mean_log_probability(self) -> float:
        """The average over the tokens, so that it can be compared between captions of any length and clip."""
        return sum(self.log_probabilities) / max(1, len(self.log_probabilities))


@dataclass
class CaptionedClip:
    """A clip and what became of it.

    Args:
        file: Path or URL, as the user gave it.
        captions: Its captions, best first; none where the clip could not be read.
        seconds: Duration of the clip, `None` where it could not be read.
        error: Why it could not be read.
        source: What to read it from, where that is not `file`.
    """

    file: str
    captions: Sequence[ScoredCaption] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None
    source: Any = None


def format_text(clips: Sequence[CaptionedClip]) -> str:
    """A line `file: caption` for each caption."""
    return "".join(f"{clip.file}: {caption.text}\n" for clip in clips for caption in clip.captions)


def format_json(clips: Sequence[CaptionedClip]) -> str:
    """One list with `file`, `caption` and `seconds` of every clip; `mean_log_probability`, `novelty` and `tokens` of
    the (best) caption of those that have one, and all their `captions`; `error` of those that could not be read."""
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
                    {"text": each.text, "mean_log_probability": each.mean_log_probability} for each in clip.captions
                ],
            }
        else:
            row["error"] = clip.error
        rows.append(row)
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def format_vtt(clips: Sequence[CaptionedClip]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/) of a single clip: one cue from its first frame to its end."""
    clip = _single(clips)
    # In a cue `&` and `<` begin escapes and tags; escaping `>` too leaves no `-->` in the text.
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
        raise ValueError(f"a subtitle file belongs to one clip, got {len(clips)}: caption them one by one")
    return clips[0]


def _lines(clip: CaptionedClip) -> str:
    """A line for each caption that is not empty: an empty line would end the cue."""
    lines = [" ".join(caption.text.split()) for caption in clip.captions]
    return "\n".join(line for line in lines if line)


FORMATS = {"text": format_text, "json": format_json, "vtt": format_vtt, "srt": format_srt}
