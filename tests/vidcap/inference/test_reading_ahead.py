"""Clips for the command line are read in threads, a few ahead."""

import time
from types import SimpleNamespace

import pytest

from processing import VideoDecodeError
from vidcap.inference import reading
from vidcap.inference.subtitles import CaptionedClip


def test_clips_are_read_ahead_in_threads_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clips take longest; one cannot be read; no more than twice the workers are kept waiting."""
    clips = [CaptionedClip(f"{index}.mp4") for index in range(12)]
    begun, given = [], []

    def read(source: str, video_processor: object, *, threads: int) -> tuple[dict[str, str], float]:
        index = int(source.removesuffix(".mp4"))
        begun.append(index)
        assert len(begun) - len(given) <= 2 * 3 + 1
        time.sleep(0.02 if index < 3 else 0.0)
        if index == 5:
            raise VideoDecodeError(source, "damaged")
        return {"from": source, "threads": str(threads)}, float(index)

    monkeypatch.setattr(reading, "read_clip", read)
    for item in reading.readable_clips(clips, SimpleNamespace(decoding_threads=1), "reading", workers=3):
        given.append(item)
    assert [item["from"] for item in given] == [f"{index}.mp4" for index in range(12) if index != 5]
    assert {item["threads"] for item in given} == {"1"}
    assert [clip.error for clip in clips] == [None] * 5 + ["damaged"] + [None] * 6
    assert [clip.seconds for clip in clips if clip.error is None] == [0.0, 1.0, 2.0, 3.0, 4.0, *range(6, 12)]
    (lone,) = reading.readable_clips(clips[:1], SimpleNamespace(decoding_threads=1), "reading")
    assert lone["threads"] == "0"


def test_while_a_batch_is_captioned_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def read(source: str, video_processor: object, *, threads: int) -> tuple[dict[str, str], float]:
        begun.append(source)
        return {"from": source}, 1.0

    monkeypatch.setattr(reading, "read_clip", read)
    clips = [CaptionedClip(f"{index}.mp4") for index in range(20)]
    items = reading.readable_clips(clips, SimpleNamespace(decoding_threads=1), "reading", workers=1, batch_size=8)
    next(items)
    for _ in range(100):
        if len(begun) == 8:
            break
        time.sleep(0.02)
    assert len(begun) == 8
    next(items)
    items.close()
    assert len(begun) <= 9
