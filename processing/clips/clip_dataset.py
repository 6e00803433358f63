"""Rows of captioned clips -> tensors, by way of the cache."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import pyarrow.compute
import torch

from ..cache.feature_cache import ClipCache, Filled
from .augmentation import ClipAugmentation
from .mixtures import Mixture
from .rows import SOURCE_COLUMN
from .sources import DatasetError

logger = logging.getLogger("vidcap")
MAX_KEPT_BYTES = 1 << 30  # of decoded clips that a data set holds in memory; the rest is read from the cache each time
ROWS_AT_ONCE = 16  # that may have to be copied, with the bytes of their clips


class _Videos(Sequence[dict[str, Any]]):
    """The clips of rows, each read when it is asked for."""

    def __init__(self, rows: datasets.Dataset):
        self.rows = rows.select_columns(["video"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]["video"]


class ClipDataset(torch.utils.data.Dataset):
    """Rows as tensors: `video_features` or `pixel_values_videos`, `video_mask`, `video_times`, without a batch axis.

    Features cannot be mirrored: where the augmentation mirrors clips, those of mirrored frames are kept beside them.

    Args:
        rows: From [`load_clips`].
        cache: Where decoded clips are kept as uint8 frames or as a frozen backbone's features.
        augmentation: For training: applied anew each time a clip is asked for; what is kept stays as it was.
        mixture: Of rows from [`join_sources`]: what they are of.

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
        self._mirrorable: frozenset[int] = frozenset()  # what `prepare` found, and made mirrored features of
        self._texts: Any = rows  # captions and file names
        self._digests: dict[int, str] = {}  # of the clips that are known to be stored
        self._kept: dict[tuple[int, bool], dict[str, Any]] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def source_sizes(self) -> list[int]:
        """How many clips are of each source of the mixture."""
        counts = Counter(self.rows[SOURCE_COLUMN]) if self.mixture is not None else Counter()
        return [counts[number] for number in range(len(self.mixture.names if self.mixture is not None else ()))]

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
            size = sum(tensor.nbytes for tensor in tensors.values())
            if self._kept_bytes + size > MAX_KEPT_BYTES:
                return clip
            self._kept[index, mirrored] = clip
            self._kept_bytes += size
        return self._kept[index, mirrored]

    def _can_mirror(self, index: int, path: str | None) -> bool:
        """Whether features of the mirrored clip are there, or can be made."""
        assert self._mirrored is not None
        return path is None or os.path.exists(path) or self._mirrored.holds(self._digests[index])

    def _paths(self) -> list[str | None]:
        """The files of the clips; `None` where a row holds the bytes, which are not read for that."""
        paths: list[str | None] = []
        for batch in self.rows.select_columns(["video"]).with_format("arrow").iter(ROWS_AT_ONCE):
            inside = pyarrow.compute.struct_field(batch["video"], "bytes").is_valid().to_pylist()
            named = pyarrow.compute.struct_field(batch["video"], "path").to_pylist()
            paths += [None if bytes_there else path for bytes_there, path in zip(inside, named, strict=True)]
        return paths

    def _fill(
        self, cache: ClipCache, description: str, share: Sequence[int], gather: Callable[[Any], list[Any]]
    ) -> Filled:
        """Fills a cache with a share of the clips; returns what became of all shares."""
        failure: Exception | None = None
        filled = Filled({}, {})
        try:
            filled = cache.fill(_Videos(self.rows), description, share)
        except Exception as error:  # raised below, once no other process waits for this one
            failure = error
        every = gather((filled, failure and str(failure)))
        if failure is not None:
            raise failure
        for number, (_, reason) in enumerate(every):
            if reason is not None:
                raise DatasetError(f"{description}: process {number} failed: {reason}")
        digests = {index: digest for (part, _) in every for index, digest in part.digests.items()}
        return Filled(digests, {index: reason for (part, _) in every for index, reason in part.broken.items()})

    def prepare(
        self,
        description: str,
        *,
        on_broken: Callable[[str, str], None] | None = None,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], list[Any]] = lambda said: [said],
    ) -> "ClipDataset":
        """Decodes every clip that the cache lacks, and collects those that cannot be decoded.

        Args:
            description: What is shown beside the progress.
            on_broken: Called with file name and reason of each broken clip, which is then left out of the returned
                data set. Without it broken clips are an error that lists them all.
            rank, world_size: Of several processes, which all have to prepare these clips and decode a share of them
                each. All learn of all broken clips.
            gather: Returns what each of these says, such as `from_each_rank` of `vidcap.ranks`.

        Raises:
            DatasetError: For broken clips, if none is readable, or if another process failed.
        """
        paths, captions = self._paths(), list(self.rows["captions"])
        if known := self.cache.recognise(paths, captions):
            logger.warning(f"{description}: {known} files are not there; their clips are taken from the cache")

        def fill(cache: ClipCache, description: str, indices: Sequence[int]) -> Filled:
            filled = self._fill(cache, description, indices[rank::world_size], gather)
            if world_size == 1:
                return filled
            # Others may write to the disk of another machine.
            missing = [index for index, digest in filled.digests.items() if not cache.holds(digest)]
            again = self._fill(cache, description, missing, gather)
            return Filled(filled.digests, filled.broken | again.broken)

        self._digests, broken = fill(self.cache, description, range(len(self)))
        if self.augmentation is not None and self._mirrored is not None:
            wanted = [index for index in self._digests if self.augmentation.can_mirror(captions[index])]
            # On every machine, so that all share them out alike.
            each = gather([index for index in wanted if self._can_mirror(index, paths[index])])
            there = sorted(set(each[0]).intersection(*each))
            if len(there) < len(wanted):
                logger.warning(
                    f"{description}: {len(wanted) - len(there)} are not mirrored, as their files are not there"
                )
            broken |= fill(self._mirrored, f"{description}, mirrored", there).broken
            self._mirrorable = frozenset(there)
        self._texts = self.rows.select_columns(["captions", "file_name"])
        self.cache.remember(paths, captions)
        if not broken:
            return self
        reasons = [(self.rows[index]["file_name"], reason) for index, reason in sorted(broken.items())]
        if on_broken is None:
            listing = "\n".join(f"  {reason}" for _, reason in reasons)
            raise DatasetError(
                f"{len(reasons)} of {len(self)} clips cannot be read; mend or remove them, or pass "
                f"--skip_broken_clips:\n{listing}"
            )
        for file_name, reason in reasons:
            on_broken(file_name, reason)
        if len(broken) == len(self):
            raise DatasetError(f"none of the {len(self)} clips can be read")
        readable = [index for index in range(len(self)) if index not in broken]
        clips = ClipDataset(
            self.rows.select(readable), self.cache, augmentation=self.augmentation, mixture=self.mixture
        )
        clips._texts = self._texts.select(readable)
        clips._digests = {new: self._digests[old] for new, old in enumerate(readable) if old in self._digests}
        clips._mirrorable = frozenset(new for new, old in enumerate(readable) if old in self._mirrorable)
        if self.mixture is not None:
            for name, before, left in zip(self.mixture.names, self.source_sizes(), clips.source_sizes(), strict=True):
                if before and not left:
                    raise DatasetError(f"{name}: none of the {before} clips can be read; leave it out")
        return clips
