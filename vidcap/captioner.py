"""The interface of all captioners: models of this package, with or without transformers, and of other families."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from processing.support.progress import Progress

if TYPE_CHECKING:
    import torch

    from modeling_vidcap.settings_vidcap import Forms
    from processing.cache.feature_cache import ClipCache

Clip = dict[str, "torch.Tensor"]  # tensors by name; of a clip without a batch axis, of a batch with one
Change = Callable[[Clip], Clip]
Clips = Iterable[Clip] | Sized  # an iterable, or a `torch.utils.data.Dataset`


@dataclass
class ScoredCaption:
    """A caption with the model's confidence.

    Attributes:
        text: The caption.
        tokens: Its tokens as text, EOS included.
        log_probabilities: Natural logarithm of each token's probability, given the clip and the previous tokens: the
            model's own, whatever guidance, banned words or temperature did to the search.
        novelty: Distance of the clip from the training clips, see `VideoCaptionNovelty`; above 1 the caption is a
            guess. `None` for a model without this statistic.
    """

    text: str
    tokens: list[str]
    log_probabilities: list[float]
    novelty: float | None

    @property
    def probabilities(self) -> list[float]:
        """The probability of each token."""
        return [math.exp(value) for value in self.log_probabilities]

    @property
    def mean_log_probability(self) -> float:
        """The mean over the tokens, which is comparable between captions of any length."""
        return sum(self.log_probabilities) / max(1, len(self.log_probabilities))


class Captioner(Protocol):
    """A model with its processor.

    Attributes:
        model, processor: As loaded.
        gives_features: Whether the backbone's features and the encoder's output are accessible.
        left_out: Parts of an evaluation that are not possible, each with the reason.
    """

    model: Any
    processor: Any
    gives_features: bool

    @property
    def left_out(self) -> Mapping[str, str]: ...

    @property
    def config(self) -> Any: ...

    @property
    def generation_config(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def video_processor(self) -> Any: ...

    def num_parameters(self) -> int: ...

    def check_options(self, options: Mapping[str, Any], *, prefix: str = "") -> None:
        """Raise a `ValueError` for an option that this captioner does not have.

        Args:
            options: By name; `None` and empty lists count as not given.
            prefix: Precedes names in messages, such as `--`.
        """

    def configure(self, *, num_frames: int | None = None, prompt: str | None = None) -> None:
        """Set the frames read per clip, and the prompt."""

    def use_backend(self, backend: str) -> None:
        """Prepare for captioning with a backend of `vidcap.inference.backends`, where there is a choice."""

    def clip_encoder(self) -> Change | None:
        """A function from a clip's pixels to its features, for threads of one core each; `None` for whole batches."""

    def open_cache(
        self, *, folder: str | Path | None = None, backend: str = "auto", limit: float | None = None
    ) -> "ClipCache":
        """The cache for the clips of a data set, and preparation for captioning them."""

    def caption(
        self,
        clips: Clips,
        *,
        batch_size: int = 16,
        change: Change | None = None,
        progress: str | None = None,
        **generate_kwargs,
    ) -> list[str]:
        """Caption clips.

        Args:
            clips: Dicts of tensors without a batch axis, as from a `ClipDataset`; read batch by batch.
            change: Applied to each batch (by other families to each clip, as a batch of one) before captioning.
            progress: Label of a progress bar; default: no bar.
            generate_kwargs: For `generate`; default: the model's generation config.
        """

    def caption_with_scores(
        self, clips: Clips, *, batch_size: int = 16, include: "Sequence[Forms]" = (), **generate_kwargs
    ) -> list[list[ScoredCaption]]:
        """Captions with the probability of every token and the novelty of every clip.

        Args:
            include: Phrases that each caption must contain, see `generate_including` and `token_forms`.

        Returns:
            The `num_return_sequences` captions of each clip, best first: as ranked by the search, samples by their
            mean log-probability.
        """


def batches_of(
    clips: Clips, size: int, progress: str | None = None, *, prepare: Callable[[Clip], Clip] | None = None
) -> Iterator[tuple[Clip, ...]]:
    """Batches of clips, which are read batch by batch and each prepared as soon as it is read.

    Args:
        progress: Label of a progress bar; default: no bar.
        prepare: Applied to each clip.
    """
    items: Any = clips
    count = len(clips) if isinstance(clips, Sized) else None
    if count is not None:  # by index, since a `torch.utils.data.Dataset` need not be iterable
        items = map(items.__getitem__, range(count))
    items = iter(items if prepare is None else map(prepare, items))
    with Progress(progress or "", count, shown=progress is not None) as bar:
        while batch := tuple(itertools.islice(items, size)):
            yield batch
            bar.update(len(batch))


def best_first(captions: Iterable[ScoredCaption]) -> list[ScoredCaption]:
    """Captions by descending mean log-probability."""
    return sorted(captions, key=lambda caption: -caption.mean_log_probability)
