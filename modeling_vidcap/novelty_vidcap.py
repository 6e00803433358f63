"""How unlike anything in training a clip is: a captioner answers whatever it is shown, this says when to doubt it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

SHRINKAGE = 0.1  # towards equal variances: a covariance of few clips is hardly known in most directions
CALIBRATION_QUANTILE = 0.99  # of the validation clips count as alike


class TooFewClipsError(ValueError):
    """Not enough clips to tell what is usual."""


class VideoCaptionNovelty(nn.Module):
    """Mahalanobis distance of a clip's mean backbone features from those of the training clips
    (Lee et al. 2018, https://arxiv.org/abs/1807.03888, without classes), in units of what validation clips reach.

    Above 1 a clip is farther out than 99 % of the validation clips. Until
    [`fit`][VideoCaptionNovelty.fit] was called every value is 0.
    """

    mean: torch.Tensor
    precision: torch.Tensor
    limit: torch.Tensor

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        size = config.cell_features
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("precision", torch.zeros(size, size))
        self.register_buffer("limit", torch.ones(()))

    @property
    def fitted(self) -> bool:
        return bool(self.precision.any())

    @staticmethod
    def summarise(video_features: torch.Tensor, video_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T', N, D)` -> `(B, D)`: the mean over the cells of the real frames, given the mask `(B, T)`. T is a
        multiple of T', more than once where a clip encoder joins frames."""
        video_mask = video_mask.unflatten(1, (video_features.shape[1], -1)).amax(dim=-1)  # (B, T')
        weights = video_mask.float() / video_mask.sum(dim=1, keepdim=True)  # (B, T)
        return torch.einsum("btnd,bt->bd", video_features.float(), weights) / video_features.shape[2]

    def fit(self, training: Iterable[torch.Tensor], validation: Iterable[torch.Tensor]) -> None:
        """Learns what is usual from the summaries `(B, D)` of training clips, and how far out validation clips lie.

        Raises:
            ValueError: If there are fewer than 2 training clips or no validation clip.
        """
        size = len(self.mean)
        count, total, covariance = 0, torch.zeros(size).double(), torch.zeros(size, size).double()
        for summaries in training:  # summed up as they come, so that memory does not grow with the number of clips
            summaries = summaries.double()
            count += len(summaries)
            total += summaries.sum(dim=0)
            covariance.addmm_(summaries.T, summaries)
        held_out = torch.cat(list(validation) or [self.mean[None][:0]])
        if count < 2 or not len(held_out):
            raise TooFewClipsError(f"{count} training and {len(held_out)} validation clips: 2 and 1 are needed")
        mean = total / count
        covariance.addr_(mean, mean, alpha=-count).div_(count - 1)
        variance = covariance.diagonal().mean().clamp(min=1e-12)
        covariance.mul_(1 - SHRINKAGE).diagonal().add_(SHRINKAGE * variance)
        self.mean.copy_(mean)
        self.precision.copy_(torch.linalg.inv(covariance) / size)
        self.limit.fill_(1.0)
        self.limit.copy_(self(held_out.to(self.mean.device)).quantile(CALIBRATION_QUANTILE).clamp(min=1e-6))

    def forward(self, summaries: torch.Tensor) -> torch.Tensor:
        """`(B, D)` -> `(B,)`, see the class."""
        offsets = summaries.float() - self.mean.float()
        squares = torch.einsum("bd,de,be->b", offsets, self.precision.float(), offsets)
        return squares.clamp(min=0).sqrt() / self.limit.float()
