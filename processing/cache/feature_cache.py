"""Decoded clips on disk: uint8 frames, or the features of a frozen backbone.

Each clip has one safetensors file, named by the clip's content, in a folder named by everything else that shapes it
(preprocessing, backbone weights, grid), which its `settings.json` lists. Files appear by rename, so that neither a
crash nor a second writer leaves half a file; one that is damaged later is made anew. `upkeep.py` keeps the cache
small, `names.py` finds clips whose files are gone.
"""

import copy
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..support.progress import track
from ..video_io_vidcap import VideoDecodeError, check_regular, describe_source, frame_files
from .names import CacheRecord, captions_hash, find_clips, name_of, write_names
from .upkeep import SUFFIX, CacheFullError, Claim, SizeLimit, replacing

if TYPE_CHECKING:  # importing transformers takes seconds
    from ..video_processing_vidcap import VideoCaptionVideoProcessor

logger = logging.getLogger(__name__)
SETTINGS = "settings.json"
Clip = dict[str, Any]  # {"path", "bytes"}
Result = TypeVar("Result")


class FillResult(NamedTuple):
    """The outcome of reading each clip, by the index of the clip."""

    digests: dict[int, str]  # content hashes of stored clips
    broken: dict[int, str]  # why other clips cannot be read


def default_cache_folder() -> Path:
    """`$VIDCAP_CACHE`, or `vidcap` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VIDCAP_CACHE") or Path(home) / "vidcap")


def content_hash(clip: Clip) -> str:
    """SHA-256 of the clip's bytes; for a folder of images, of their names and hashes.

    Raises:
        VideoDecodeError: If it cannot be read, or is neither a file nor a folder of images.
    """
    if clip["bytes"] is not None:
        return hashlib.sha256(clip["bytes"]).hexdigest()
    try:
        if os.path.isdir(clip["path"]):
            frames = [[path.name, _file_hash(path)] for path in frame_files(clip["path"])]
            return hashlib.sha256(json.dumps(frames).encode()).hexdigest()
        return _file_hash(clip["path"])
    except OSError as error:
        raise VideoDecodeError(str(clip["path"]), error.strerror or str(error)) from error


def _file_hash(path: str | Path) -> str:
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 over the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def in_threads(
    function: Callable[[int], Result], indices: Sequence[int], description: str, workers: int
) -> list[Result]:
    """`function` of each index, in threads that compute on one core each, with progress."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            results = pool.map(function, indices)
            return list(track(results, description, total=len(indices)))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def folder_name(described: dict[str, Any]) -> str:
    """The name of the folder for clips with these settings."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def write_clip(path: Path, tensors: dict[str, torch.Tensor], limit: SizeLimit | None = None) -> None:
    """Write a clip's file, complete or not at all.

    Raises:
        CacheFullError: If there is no room, or the disk cannot be written to.
    """
    try:
        with replacing(path) as unfinished:
            save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished)
            if limit is not None:
                limit.make_room(os.path.getsize(unfinished))
    except (OSError, SafetensorError) as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: Exception) -> CacheFullError:
    reason = " ".join(str(error).split())
    free = next((shutil.disk_usage(parent).free for parent in (folder, *folder.parents) if parent.exists()), 0)
    return CacheFullError(
        f"cannot write to the feature cache {folder}: {reason} ({free / 2**20:.0f} MB free); make room, or choose "
        "another folder by feature_cache=FOLDER; finished clips are kept"
    )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Record how the clips of a folder were made, unless that was done before."""
    path = folder / SETTINGS
    if not path.exists():
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


class EncodesElsewhere:
    """Stand-in for `encode` in a process that was sent a [`ClipCache`] without the network, to read stored clips."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("features are computed only in the process that opened the cache")


class ClipCache:
    """Clips as tensors, decoded once.

    Args:
        folder: Root of the cache, shared between runs.
        video_processor: Decodes and resizes.
        encode: A frozen backbone, `(1, T, C, H, W)` normalised pixels -> `(1, T, N, D)` features, stored as float16;
            it may be pickled as [`EncodesElsewhere`]. By default the frames themselves are stored, as uint8, for the
            collator to normalise.
        backbone: The module behind `encode`, whose weights name the folder.
        settings: Anything else that shapes the features, such as the grid.
        workers: Threads that decode and encode one clip each, on a core each; by default one per core.
        limit: Bytes that the whole cache may take.
        about: The backbone's name for people, under `backbone`; it does not shape the folder's name.
    """

    def __init__(
        self,
        folder: str | Path,
        video_processor: "VideoCaptionVideoProcessor",
        *,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        backbone: torch.nn.Module | None = None,
        settings: dict[str, Any] | None = None,
        workers: int | None = None,
        limit: int | None = None,
        about: dict[str, Any] | None = None,
    ):
        self.video_processor = video_processor
        self.encode = encode
        self.workers = workers or os.cpu_count() or 1
        self.options = {} if encode else {"do_rescale": False, "do_normalize": False}
        self._root = Path(folder)
        self._described: dict[str, Any] = {
            "backbone": weights_hash(backbone) if backbone is not None else None,
            "settings": settings or {},
        }
        self._hashes: dict[str, str] = {}
        self._unknown: dict[str, str] = {}  # why the clip of a missing file is unknown
        self.limit = None if limit is None else SizeLimit(self._root, limit)
        self.about = about or {}
        self.folder = self._open()

    def with_frames(self, num_frames: int) -> "ClipCache":
        """The same cache with `num_frames` frames per clip, in a folder of its own."""
        other = copy.copy(self)
        other.video_processor = copy.deepcopy(self.video_processor)
        other.video_processor.num_frames = num_frames
        other.folder = other._open()
        return other

    def mirrored(self) -> "ClipCache":
        """The same cache with mirrored frames, in a folder of its own."""
        other = copy.copy(self)
        other._described = {**self._described, "mirrored": True}
        other.folder = other._open()
        return other

    def _open(self) -> Path:
        options = self.video_processor.to_dict()
        for unimportant in ("auto_map", "decoding_threads"):
            options.pop(unimportant, None)
        for faster in ("skip_loop_filter", "snap_to_keyframes"):
            if not options.get(faster):  # folders from before these options existed keep their names
                options.pop(faster, None)
        described = {"processor": options, "options": self.options, **self._described}
        described = json.loads(json.dumps(described, default=str))  # as it will be read back
        folder = self._root / folder_name(described)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        self.writable = os.access(folder, os.W_OK)  # otherwise it cannot be pruned either
        if self.writable:
            self._claim = Claim(folder)
            write_settings(folder, {"described": described, "about": self.about})
        return folder

    def path(self, clip: Clip) -> Path:
        """The path of a clip's tensors, stored or not."""
        return self._path(self.digest(clip))

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{SUFFIX}"

    def digest(self, clip: Clip) -> str:
        """The hash of a clip's content; a file is hashed once per run, on the assumption that it does not change.

        Raises:
            VideoDecodeError: If the file cannot be read.
        """
        if clip["bytes"] is not None:
            return content_hash(clip)
        if clip["path"] in self._unknown:
            raise VideoDecodeError(clip["path"], self._unknown[clip["path"]])
        if clip["path"] not in self._hashes:
            self._hashes[clip["path"]] = content_hash(clip)
        return self._hashes[clip["path"]]

    def recognise(self, paths: Sequence[str | None], captions: Sequence[Sequence[str]]) -> int:
        """Look up the clips of missing files; return how many are known.

        Args:
            paths: Path of each clip, `None` for clips that come as bytes.
            captions: Captions of each clip.
        """
        missing = {
            path: (name_of(path), captions_hash(of_clip))
            for path, of_clip in zip(paths, captions, strict=True)
            if path is not None and not os.path.exists(path)
        }
        if not missing:
            return 0
        clips, self._unknown = find_clips(self._root, missing)
        self._hashes.update(clips)
        return len(clips)

    def remember(self, paths: Sequence[str | None], captions: Sequence[Sequence[str]]) -> None:
        """Record the clips of these files, for [`recognise`] when the files are gone."""
        if not os.access(self._root, os.W_OK):
            return
        write_names(
            self._root,
            (
                CacheRecord(name_of(path), captions_hash(of_clip), self._hashes[path])
                for path, of_clip in zip(paths, captions, strict=True)
                if path is not None and path in self._hashes and os.path.exists(path)
            ),
        )

    def load(self, clip: Clip) -> dict[str, torch.Tensor]:
        """The clip's tensors; decodes and stores them if they are missing.

        Raises:
            VideoDecodeError: If it has to be decoded and cannot be.
        """
        digest = self.digest(clip)
        if (tensors := self.stored(digest)) is not None:
            return tensors
        path = self._path(digest)
        self._store(path, self._decode(clip))
        return load_file(path)

    def stored(self, digest: str) -> dict[str, torch.Tensor] | None:
        """The stored tensors of the clip with this content, if intact."""
        path = self._path(digest)
        try:
            return load_file(path)
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            logger.warning(f"{path} is damaged ({error}); reading the clip again")
            return None

    def holds(self, digest: str) -> bool:
        """Whether the clip with this content is stored; renews the time of its last use."""
        path = self._path(digest)
        if not self.writable:
            return path.is_file()
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def fill(self, clips: Sequence[Clip], description: str, indices: Sequence[int] | None = None) -> FillResult:
        """Decode and store the clips that are missing, with progress.

        Args:
            clips: Indexed one by one, so that no more are in memory than there are workers.
            description: Shown beside the progress.
            indices: Clips to fill in; by default all.
        """
        indices = range(len(clips)) if indices is None else indices
        if not indices:
            return FillResult({}, {})

        def ensure(index: int) -> tuple[str | None, str | None]:
            clip = clips[index]
            try:
                digest = self.digest(clip)
                if not self.holds(digest):
                    self._store(self._path(digest), self._decode(clip))
            except VideoDecodeError as error:
                return None, str(error)
            return digest, None

        results = in_threads(ensure, indices, description, self.workers)
        digests = {index: digest for index, (digest, _) in zip(indices, results, strict=True) if digest is not None}
        broken = {index: reason for index, (_, reason) in zip(indices, results, strict=True) if reason is not None}
        return FillResult(digests, broken)

    def _decode(self, clip: Clip) -> dict[str, torch.Tensor]:
        if isinstance(self.encode, EncodesElsewhere):
            raise ValueError(
                f"{describe_source(clip)}: its features are gone from {self.folder}, and workers of a data loader "
                "cannot compute them; start again, with dataloader_num_workers=0 if that fails too"
            )
        if clip["bytes"] is None and clip["path"] in self._hashes and not os.path.exists(clip["path"]):
            raise VideoDecodeError(
                clip["path"],
                f"no such file, and the cache knows the clip but does not hold it in {self.folder.name}, the folder "
                "for this backbone and preprocessing",
            )
        batch = self.video_processor(clip, return_tensors="pt", **self.options)
        tensors = {name: value[0] for name, value in batch.items()}
        if self._described.get("mirrored"):
            tensors["pixel_values_videos"] = tensors["pixel_values_videos"].flip(-1)
        if self.encode is None:
            return tensors
        real = tensors["video_mask"].bool()  # nobody needs features of padding
        return {name: value[real] for name, value in tensors.items()}

    def _store(self, path: Path, decoded: dict[str, torch.Tensor]) -> None:
        tensors = dict(decoded)
        if self.encode is not None:
            pixels = tensors.pop("pixel_values_videos")
            tensors["video_features"] = self.encode(pixels[None])[0].to(torch.float16)
        write_clip(path, tensors, self.limit)
