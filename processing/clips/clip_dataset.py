"""Rows of captioned clips -> tensors, by way of the cache."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow.compute
import torch

from ..cache.feature_cache import ClipCache, FillResult
from .augmentation import ClipAugmentation
from .mixtures import Mixture
from .rows import SOURCE_COLUMN
from .sources import DatasetError

logger = logging.getLogger(__name__)
MAX_KEPT_BYTES = 1 << 30  # decoded clips that a data set holds in memory; the others are read from the cache each time
ROWS_AT_ONCE = 16  # rows that may have to be copied, with the bytes of their clips


class _Videos(Sequence[dict[str, Any]]):
    """The clips of rows, each read at its use."""

    def __init__(self, rows: datasets.Dataset):
        self.rows = rows.select_columns(["video"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]["video"]


@dataclass(frozen=True)
class _Processes:
    """The processes that fill a cache together, a share of the clips each."""

    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]

    def fill(self, cache: ClipCache, clips: _Videos, description: str, indices: Sequence[int]) -> FillResult:
        """Fill a cache; return the outcome for the clips of all processes."""
        filled = self._fill_share(cache, clips, description, indices[self.rank :: self.world_size])
        if self.world_size == 1:
            return filled
        # Other processes may write to the disk of another machine.
        missing = [index for index, digest in filled.digests.items() if not cache.holds(digest)]
        again = self._fill_share(cache, clips, description, missing)
        return FillResult(filled.digests, filled.broken | again.broken)

    def _fill_share(self, cache: ClipCache, clips: _Videos, description: str, share: Sequence[int]) -> FillResult:
        failure: Exception | None = None
        filled = FillResult({}, {})
        try:
            filled = cache.fill(clips, description, share)
        except Exception as error:  # raised below, once no other process waits for this one
            failure = error
        outcomes = self.gather((filled, failure and str(failure)))
        if failure is not None:
            raise failure
        for number, (_, reason) in enumerate(outcomes):
            if reason is not None:
                raise DatasetError(f"{description}: process {number} failed: {reason}")
        digests = {index: digest for part, _ in outcomes for index, digest in part.digests.items()}
        return FillResult(digests, {index: reason for part, _ in outcomes for index, reason in part.broken.items()})


class ClipDataset(torch.utils.data.Dataset):
    """Rows as tensors: `video_features` or `pixel_values_videos`, `video_mask`, `video_times`, without a batch axis.

    Features cannot be mirrored: where the augmentation mirrors clips, features of mirrored frames are kept as well.

    Args:
        rows: From [`load_clips`].
        cache: Keeps decoded clips as uint8 frames or as a frozen backbone's features.
        augmentation: For training: applied anew at each look at a clip; the cached clip stays as it was.
        mixture: The data sets of rows from [`join_sources`].

    Attributes:
        video_words: `(N, P)`, predictions of the clips' captions to give with the clips.

    Raises:
        ValueError: If `augmentation` needs pixels and the cache keeps features.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        cache: ClipCache,
        *,
        augmentation: ClipAugmentation | None = None,
        mixture: Mixture | None = None,
    ):
        if augmentation is not None and cache.encode is not None:
            augmentation.check_features()
        self.rows = rows
        self.cache = cache
        self.augmentation = augmentation
        self.mixture = mixture
        flips = augmentation is not None and augmentation.flip > 0 and cache.encode is not None
        self._mirrored = cache.mirrored() if flips else None
        self._mirrorable: frozenset[int] = frozenset()  # clips whose mirrored features `prepare` stored
        self._texts = rows  # captions and file names
        self._digests: dict[int, str] = {}  # of stored clips
        self._kept: dict[tuple[int, bool], dict[str, Any]] = {}
        self._kept_bytes = 0
        self.video_words: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def source_sizes(self) -> list[int]:
        """Number of clips from each source of the mixture."""
        if self.mixture is None:
            return []
        counts = Counter(self.rows[SOURCE_COLUMN])
        return [counts[number] for number in range(len(self.mixture.names))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.augmentation is None:
            return self._load(index)
        return self.augmentation(self._load(index, index in self._mirrorable and self.augmentation.draws_mirrored()))

    def _load(self, index: int, mirrored: bool = False) -> dict[str, Any]:
        if (index, mirrored) not in self._kept:
            cache = self._mirrored if mirrored and self._mirrored is not None else self.cache
            tensors = cache.stored(self._digests[index]) if index in self._digests else None
            if tensors is None:
                tensors = cache.load(self.rows[index]["video"])
            texts = self._texts[index]
            clip = {**tensors, "captions": texts["captions"], "file_name": texts["file_name"]}
            if self.video_words is not None:
                clip["video_words"] = self.video_words[index]
            size = sum(tensor.nbytes for tensor in tensors.values())
            if self._kept_bytes + size > MAX_KEPT_BYTES:
                return clip
            self._kept[index, mirrored] = clip
            self._kept_bytes += size
        return self._kept[index, mirrored]

    def prepare(
        self,
        description: str,
        *,
        on_broken: Callable[[str, str], None] | None = None,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> "ClipDataset":
        """Decode every clip that the cache lacks, and leave out broken ones.

        Args:
            description: Shown beside the progress.
            on_broken: Called with file name and reason of each broken clip; by default broken clips are an error that
                lists them all.
            rank, world_size: This process, and the number of those that all prepare these clips, a share each. All
                learn of all broken clips.
            gather: Returns the values of all processes, such as `from_each_rank` of `vidcap.ranks`.

        Raises:
            DatasetError: For broken clips, if no clip can be read, or if another process failed.
        """
        processes = _Processes(rank, world_size, gather)
        paths, captions = self._paths(), list(self.rows["captions"])
        if known := self.cache.recognise(paths, captions):
            logger.warning(f"{description}: {known} files are missing; taking their clips from the cache")
        self._digests, broken = processes.fill(self.cache, _Videos(self.rows), description, range(len(self)))
        broken |= self._prepare_mirrored(processes, description, paths, captions)
        self._texts = self.rows.select_columns(["captions", "file_name"])
        self.cache.remember(paths, captions)
        if not broken:
            return self
        self._report(broken, on_broken)
        return self._without(broken)

    def _paths(self) -> list[str | None]:
        """The files of the clips; `None` where a row holds the bytes, which are not read for this."""
        paths: list[str | None] = []
        for batch in self.rows.select_columns(["video"]).with_format("arrow").iter(ROWS_AT_ONCE):
            inside = pyarrow.compute.struct_field(batch["video"], "bytes").is_valid().to_pylist()
            named = pyarrow.compute.struct_field(batch["video"], "path").to_pylist()
            paths += [None if has_bytes else path for has_bytes, path in zip(inside, named, strict=True)]
        return paths

    def _prepare_mirrored(
        self, processes: _Processes, description: str, paths: list[str | None], captions: list[list[str]]
    ) -> dict[int, str]:
        """Store the features of mirrored clips, if the augmentation draws any; return why clips are broken."""
        mirrored = self._mirrored
        if self.augmentation is None or mirrored is None:
            return {}
        eligible = [index for index in self._digests if self.augmentation.can_mirror(captions[index])]
        possible = [
            index
            for index in eligible
            if (path := paths[index]) is None or os.path.exists(path) or mirrored.holds(self._digests[index])
        ]
        # Possible on every machine, so that all share the clips out alike.
        first, *others = processes.gather(possible)
        common = sorted(set(first).intersection(*others))
        if len(common) < len(eligible):
            count = len(eligible) - len(common)
            logger.warning(f"{description}: not mirroring {count} clips, because their files are missing")
        self._mirrorable = frozenset(common)
        return processes.fill(mirrored, _Videos(self.rows), f"{description}, mirrored", common).broken

    def _report(self, broken: dict[int, str], on_broken: Callable[[str, str], None] | None) -> None:
        if on_broken is None:
            listing = "\n".join(f"  {reason}" for _, reason in sorted(broken.items()))
            raise DatasetError(
                f"{len(broken)} of {len(self)} clips cannot be read; repair or remove them, or pass "
                f"skip_broken_clips=True:\n{listing}"
            )
        for index, reason in sorted(broken.items()):
            on_broken(self.rows[index]["file_name"], reason)
        if len(broken) == len(self):
            raise DatasetError(f"none of the {len(self)} clips can be read")

    def _without(self, broken: dict[int, str]) -> "ClipDataset":
        """The data set without broken clips."""
        readable = [index for index in range(len(self)) if index not in broken]
        clips = ClipDataset(
            self.rows.select(readable), self.cache, augmentation=self.augmentation, mixture=self.mixture
        )
        clips._texts = self._texts.select(readable)
        clips._digests = {new: self._digests[old] for new, old in enumerate(readable) if old in self._digests}
        clips._mirrorable = frozenset(new for new, old in enumerate(readable) if old in self._mirrorable)
        names = self.mixture.names if self.mixture is not None else ()
        for name, before, left in zip(names, self.source_sizes(), clips.source_sizes(), strict=True):
            if before and not left:
                raise DatasetError(f"{name}: none of the {before} clips can be read; leave this data set out")
        return clips
