"""A folder or Hub data set of captioned clips -> rows of one form, and rows -> tensors.

A row is `{"video": {"path", "bytes"}, "file_name", "captions": [...], "caption_reversed"?, "kind"?}`.
A local folder holds `train/metadata.jsonl`, `test/metadata.jsonl` and perhaps `validation/metadata.jsonl`, each line
with `file_name` and `caption`, or a list under `captions` or `references` (the `videofolder` form of `datasets`). Its
lines are read here, since their mistakes are to be named by file and line. Other forms are those of `sources.py`.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from .augmentation import ClipAugmentation
from .feature_cache import ClipCache, Filled
from .hub_files import OwnFiles, own_name
from .mixtures import Mixture
from .sources import (
    BUILDERS,
    GUESSED,
    HUB,
    Columns,
    DatasetError,
    caption_columns,
    caption_row,
    find_files,
    load_files,
    one_line,
    split_of_file,
    to_captions,
    to_common_form,
)

logger = logging.getLogger("vidcap")
MAX_KEPT_BYTES = 1 << 30  # of decoded clips that a data set holds in memory; the rest is read from the cache each time
ROWS_AT_ONCE = 16  # that may have to be copied, with the bytes of their clips
SOURCE_COLUMN = "source"  # of rows of several data sets: the number of each row's own
COMMON_FORM = datasets.Features(
    {
        "video": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")},
        "file_name": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "caption_reversed": datasets.Value("string"),
        "kind": datasets.Value("string"),
    }
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


def load_clips(
    dataset: str | Path,
    split: str,
    *,
    streaming: bool = False,
    columns: Columns = GUESSED,
    captions_only: bool = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """Loads one split as rows of the form above.

    Args:
        dataset: A local folder, one of the files of `sources.py`, or a Hub id; only an id touches the network.
        split: Its name, `train`, `validation` or `test`.
        streaming: Return an `IterableDataset`. Its clips may be files on the Hub, see [`fetched`].
        columns: Names of columns that are not to be guessed; the folder form has fixed ones, beside those to keep.
        captions_only: Of a stream: rows with nothing but `captions`, in the same order also after the same shuffle.
            No clip is fetched or, in Parquet, read; tars are passed over.

    Raises:
        DatasetError: If the folder, the split, a metadata line or a caption is missing or broken.
    """
    if captions_only:
        return _open(dataset, split, streaming=True, columns=columns, captions_only=True).select_columns(["captions"])
    return _open(dataset, split, streaming=streaming, columns=columns)


def _open(dataset: str | Path, split: str, *, streaming: bool, columns: Columns, captions_only: bool = False) -> Any:
    folder = Path(dataset)
    if folder.is_dir():
        if not (folder / split / "metadata.jsonl").is_file() and (files := find_files(folder, split)):
            return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
        rows = datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others)))
        return rows.to_iterable_dataset() if streaming else rows
    if files := find_files(folder, split):
        return load_files(files, streaming=streaming, columns=columns, captions_only=captions_only)
    if folder.is_file() and folder.suffix in BUILDERS:
        raise DatasetError(f"{dataset}: of a file of this name the split is {split_of_file(folder)}, not {split}")
    if folder.exists() or not HUB_ID.fullmatch(str(dataset)):
        raise DatasetError(
            f"{dataset}: no such folder; give a folder with {split}/metadata.jsonl, a file ({', '.join(BUILDERS)}), "
            "or a Hub id like user/name"
        )
    try:
        if _is_hub_folder(str(dataset), split):
            return _load_hub_folder(str(dataset), split, streaming=streaming, columns=columns)
        rows = datasets.load_dataset(str(dataset), split=split, streaming=streaming)
        if captions_only and rows.info.builder_name == "parquet":
            wanted = caption_columns(list(rows.column_names), columns, str(dataset))
            rows = datasets.load_dataset(str(dataset), split=split, streaming=True, columns=wanted)
    except DatasetError:
        raise
    except Exception as error:
        raise _out_of_reach(dataset, error) from error
    if captions_only:
        return to_captions(rows, str(dataset), columns=columns)
    return to_common_form(rows, str(dataset), columns=columns, check=OwnFiles(str(dataset)).check)


def has_split(dataset: str | Path, split: str) -> bool:
    """Whether a data set has that split."""
    folder = Path(dataset)
    if folder.is_dir():
        return (folder / split / "metadata.jsonl").is_file() or bool(find_files(folder, split))
    if folder.exists() or not HUB_ID.fullmatch(str(dataset)):
        return bool(find_files(folder, split))
    try:
        if _is_hub_folder(str(dataset), split):
            return True
        files = HfApi().list_repo_files(str(dataset), repo_type="dataset")
        if any(name.endswith("/metadata.jsonl") for name in files):
            return False
        return split in datasets.get_dataset_split_names(str(dataset))
    except Exception as error:
        raise _out_of_reach(dataset, error) from error


def _out_of_reach(dataset: str | Path, error: Exception) -> DatasetError:
    """What is said of whatever the Hub's client or `datasets` raises, which each have errors of their own."""
    return DatasetError(f"{dataset}: neither a local folder nor a Hub data set within reach ({one_line(error)})")


def _is_hub_folder(dataset: str, split: str) -> bool:
    return HfApi().file_exists(dataset, f"{split}/metadata.jsonl", repo_type="dataset")


def _load_hub_folder(
    dataset: str, split: str, *, streaming: bool, columns: Columns
) -> datasets.Dataset | datasets.IterableDataset:
    """A Hub repository in the folder form above; `datasets` itself would leave out its GIF and WebP files."""
    if not streaming:
        folder = Path(snapshot_download(dataset, repo_type="dataset", allow_patterns=f"{split}/*"))
        return datasets.Dataset.from_list(list(_read_metadata(folder, split, columns.others, hub=str(folder))))
    folder = Path(hf_hub_download(dataset, f"{split}/metadata.jsonl", repo_type="dataset")).parents[1]
    hub = f"{HUB}datasets/{dataset}@{folder.name}"  # of the same commit as the metadata
    return datasets.Dataset.from_list(
        list(_read_metadata(folder, split, columns.others, hub=hub))
    ).to_iterable_dataset()


def _read_metadata(
    folder: Path, split: str, others: tuple[str, ...] = (), *, hub: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a split; `hub` is where a data set of the Hub has its files, and must have all that it names."""
    path = folder / split / "metadata.jsonl"
    if not path.is_file():
        found = sorted(str(each.relative_to(folder)) for each in folder.glob("*/metadata.jsonl"))
        raise DatasetError(
            f"{folder}: no {split}/metadata.jsonl (found: {', '.join(found) or 'none'}); each of its lines holds a "
            f'"file_name" and a "caption"; {split}.csv, {split}.jsonl, {split}*.parquet and {split}*.tar would do, too'
        )
    count = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(f"{where}: not JSON ({error.msg})") from error
            if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
                raise DatasetError(f'{where}: no "file_name"')
            row = caption_row(record, where, others=others)
            name = record["file_name"]
            clip = str(path.parent / name) if hub is None else f"{hub}/{split}/{own_name(name, where)}"
            row["video"] = {"path": clip, "bytes": None}
            count += 1
            yield row
    if not count:
        raise DatasetError(f"{path}: no clips")


def split_off_validation(
    rows: datasets.Dataset, *, share: float = 0.05, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Takes a random `share` of the clips (at least one) off the training rows, for validation."""
    if len(rows) < 2:
        raise DatasetError(f"{len(rows)} training clip: at least 2 are needed, one of them for validation")
    parts = rows.train_test_split(test_size=max(1, round(share * len(rows))), seed=seed)
    return parts["train"], parts["test"]


def join_sources(parts: Sequence[datasets.Dataset | None]) -> datasets.Dataset:
    """Rows of several data sets, one behind the other, each with the number of its own under `source`; a part may be
    missing."""
    numbered = []
    for number, rows in enumerate(parts):
        if rows is not None:
            numbers = datasets.Dataset.from_dict(
                {SOURCE_COLUMN: [number] * len(rows)},
                features=datasets.Features({SOURCE_COLUMN: datasets.Value("int32")}),
            )
            alike = rows.select_columns(list(COMMON_FORM)).cast(COMMON_FORM)
            numbered.append(datasets.concatenate_datasets([alike, numbers], axis=1))
    return datasets.concatenate_datasets(numbered)


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
            gather: Returns what each of these says, such as `from_each_rank` of `modeling_vidcap.ranks`.

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
