"""The clips of a batch -> the inputs of the model."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .epochs import draw_for_each
from .near_misses import NearMisses

if TYPE_CHECKING:  # captioning by torch alone needs this file, but not transformers
    from ..processing_vidcap import VideoCaptionProcessor

IGNORED = -100  # label that losses ignore
MAX_KNOWN = 200_000  # captions whose tokens are kept; beyond that, all are dropped


@dataclass
class VideoCaptionCollator:
    """Stacks clips, draws one caption of each and makes its labels.

    Shorter clips are padded with masked zeros. uint8 frames are scaled and normalised here, in the workers of a data
    loader if it has any, to float32.

    Args:
        processor: Holds the tokenizer and the scale, mean and deviation of pixels.
        max_length: Longest caption in tokens; a longer one loses its end, but never its EOS.
        references: Add all captions of each clip, as text under `references`.
        draw: Draw one of a clip's captions at random (training); otherwise take the first.
        near_misses: Makes captions that nearly fit, see `NearMisses`.
    """

    processor: "VideoCaptionProcessor"
    max_length: int = 64
    draw: bool = False
    references: bool = False
    near_misses: NearMisses | None = None
    _ids: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)  # of captions met before

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `pixel_values_videos` `(B, T, C, H, W)` or `video_features` `(B, T, N, D)`, `video_mask` and
        `video_times` `(B, T)`, and `labels` `(B, L)`: the caption's tokens and EOS, then -100. With near misses also
        `near_misses` `(B, K, L)` of the same form, -100 where there is none."""
        batch: dict[str, Any] = self.videos(clips)
        captions = [clip["captions"] for clip in clips]
        drawn = draw_for_each(clips, self._draw)
        batch["labels"] = self.labels([caption for caption, _ in drawn])
        if self.near_misses is not None:
            texts = [text for _, near_misses in drawn for text in near_misses]
            true = [self.processor.tokenizer(each)["input_ids"] for each in captions for _ in self.near_misses.kinds]
            ids = self.processor.tokenizer(texts)["input_ids"]
            negatives = self.labels(texts)  # (B * K, L)
            negatives[[not text or ids[i] in true[i] for i, text in enumerate(texts)]] = IGNORED
            batch["near_misses"] = negatives.unflatten(0, (len(clips), -1))
        if self.references:
            batch["references"] = captions
        return batch

    def _draw(self, clip: dict[str, Any]) -> tuple[str, list[str]]:
        """One of the clip's captions, and its near misses."""
        captions = clip["captions"]
        index = int(torch.randint(len(captions), ())) if self.draw and len(captions) > 1 else 0
        return captions[index], self.near_misses(captions[index]) if self.near_misses is not None else []

    def labels(self, captions: list[str]) -> torch.Tensor:
        """`(B, L)`, see above. Tokens are kept, since captions recur every epoch and tokenising takes a good part of a
        small model's step."""
        unknown = [*{caption for caption in captions if caption not in self._ids}]
        if unknown:
            if len(self._ids) > MAX_KNOWN:
                self._ids.clear()
                unknown = [*set(captions)]
            ids = self.processor.tokenizer(unknown, truncation=True, max_length=self.max_length)["input_ids"]
            self._ids.update(zip(unknown, ids, strict=True))
        rows = [self._ids[caption] for caption in captions]
        longest = max(map(len, rows))
        return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])

    def videos(self, clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch without labels."""
        names = [name for name in clips[0] if name.startswith(("video_", "pixel_values"))]
        frames = max(clip["video_mask"].shape[0] for clip in clips)
        batch = {
            name: torch.stack([clip[name] if name == "video_words" else _fill(clip[name], frames) for clip in clips])
            for name in names
        }
        pixels = batch.get("pixel_values_videos")
        if pixels is not None and pixels.dtype == torch.uint8:
            video_processor = self.processor.video_processor
            mean = torch.tensor(video_processor.image_mean).view(-1, 1, 1)
            std = torch.tensor(video_processor.image_std).view(-1, 1, 1)
            batch["pixel_values_videos"] = (pixels.float() * video_processor.rescale_factor - mean) / std
        return batch


def _fill(tensor: torch.Tensor, frames: int) -> torch.Tensor:
    missing = frames - tensor.shape[0]
    return tensor if missing == 0 else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
