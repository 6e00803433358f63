"""Decoded clips on disk: uint8 frames, or the features of a frozen backbone.

One safetensors file a clip, named by the clip's content and kept in a folder named by everything else that shapes it
(preprocessing, backbone weights, grid), which `settings.json` in it tells. Files appear by rename, so that a crash or
a second writer leaves no half one; one that was damaged later is made anew. How the cache is kept small is in
`cache_upkeep.py`, how clips are found whose files are gone in `cache_names.py`.
"""

import copy
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..support.progress import track
from ..video_io_vidcap import VideoDecodeError, check_regular, describe, frame_files
from .names import Known, captions_hash, find_clips, name_of, write_names
from .upkeep import SUFFIX, UNFINISHED, CacheFullError, Claim, Limit

logger = logging.getLogger("vidcap")
SETTINGS = "settings.json"
Clip = dict[str, Any]  # {"path", "bytes"}


class Filled(NamedTuple):
    """What became of clips, by their index."""

    digests: dict[int, str]  # hash of the content of those that are stored
    broken: dict[int, str]  # why the others cannot be read


def default_cache_folder() -> Path:
    """`$VIDCAP_CACHE`, or `vidcap` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VIDCAP_CACHE") or Path(home) / "vidcap")


def content_hash(clip: Clip) -> str:
    """SHA-256 of the clip's bytes; of a folder of images, of their names and hashes, frame by frame.

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


def _touch(path: Path) -> bool:
    """Whether a file is there; it is in use from now on."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def in_threads(function: Callable[[int], Any], indices: Sequence[int], description: str, workers: int) -> list[Any]:
    """`function` of each index, by threads that compute on a core each, with a line or bar of progress."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            results = pool.map(function, indices)
            return list(track(results, description, total=len(indices)))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def folder_name(described: dict[str, Any]) -> str:
    """The folder for clips that are made as described."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def write_clip(path: Path, tensors: dict[str, torch.Tensor], limit: Limit | None = None) -> None:
    """Writes a clip's file, which appears complete or not at all.

    Raises:
        CacheFullError: If there is no room for it, or the disk cannot be written to.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=UNFINISHED)
        os.close(handle)
        save_file({key: value.contiguous() for key, value in tensors.items()}, name)
        if limit is not None:
            limit.make_room(os.path.getsize(name))
        os.replace(name, path)
    except (OSError, SafetensorError) as error:
        raise CacheFullError(unwritable(path.parent, error)) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def unwritable(folder: Path, error: Exception) -> str:
    """Why a folder of the cache cannot be written to, and what to do."""
    reason = " ".join(str(error).split())
    free = next((shutil.disk_usage(each).free for each in (folder, *folder.parents) if each.exists()), 0)
    return (
        f"the feature cache {folder} cannot be written: {reason} ({free / 2**20:.0f} MB are free); clips done so far "
        "are kept: make room, or name another folder by --feature_cache"
    )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes down what a folder's clips are made of, unless that has been done."""
    path = folder / SETTINGS
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=folder, suffix=UNFINISHED)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(settings, file, indent=1, sort_keys=True)
    os.replace(name, path)


class EncodesElsewhere:
    """Stands for `encode` in a process that got a [`ClipCache`] from another one, without the network: there what is
    stored is read, and nothing made."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("features are computed in the process that opened the cache")


class ClipCache:
    """Clips as tensors, decoded once.

    Args:
        folder: Root of the cache, shared between runs.
        video_processor: Decodes and resizes.
        encode: A frozen backbone, `(1, T, C, H, W)` normalised pixels -> `(1, T, N, D)` features, which then
            are stored as float16; it may be pickled as [`EncodesElsewhere`]. Without it the frames themselves are
            stored as uint8; the collator normalises them.
        backbone: The module behind `encode`, whose weights name the folder.
        settings: Whatever else shapes the features, such as the grid.
        workers: Threads that decode and encode, one clip each; by default one a core. Each computes on its own core,
            which needs no waiting for one another as sharing every operation out would.
        limit: Bytes that all of the cache may take.
        about: What people call the backbone, under `backbone`; it does not count.
    """

    def __init__(
        self,
        folder: str | Path,
        video_processor: Any,
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
        self._unknown: dict[str, str] = {}  # why the clip of a missing file is not known
        self.limit = None if limit is None else Limit(self._root, limit)
        self.about = about or {}
        self.folder = self._open()

    def with_frames(self, num_frames: int) -> "ClipCache":
        """The same with `num_frames` frames of each clip, which lie in a folder of their own."""
        other = copy.copy(self)
        other.video_processor = copy.deepcopy(self.video_processor)
        other.video_processor.num_frames = num_frames
        other.folder = other._open()
        return other

    def mirrored(self) -> "ClipCache":
        """The same of mirrored frames, which lie in a folder of their own."""
        other = copy.copy(self)
        other._described = {**self._described, "mirrored": True}
        other.folder = other._open()
        return other

    def _open(self) -> Path:
        options = self.video_processor.to_dict()
        for unimportant in ("auto_map", "decoding_threads"):
            options.pop(unimportant, None)
        for faster in ("skip_loop_filter", "snap_to_keyframes"):
            if not options.get(faster):  # as it was before there was a choice
                options.pop(faster, None)
        described = {"processor": options, "options": self.options, **self._described}
        described = json.loads(json.dumps(described, default=str))  # as it will be read again
        folder = self._root / folder_name(described)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheFullError(unwritable(folder, error)) from error
        self.writable = os.access(folder, os.W_OK)  # what cannot be written to cannot be pruned either
        if self.writable:
            self._claim = Claim(folder)
            write_settings(folder, {"described": described, "about": self.about})
        return folder

    def path(self, clip: Clip) -> Path:
        """Where a clip's tensors are, or will be."""
        return self._path(self.digest(clip))

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{SUFFIX}"

    def digest(self, clip: Clip) -> str:
        """The hash of a clip's content; of a file it is taken once a run, since files are not expected to change while
        training.

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
        """Finds out which clips are meant by files that are not there; returns how many of them are known.

        Args:
            paths: `None` for clips that come as bytes.
            captions: Of each clip.
        """
        wanted = {
            path: (name_of(path), captions_hash(of_clip))
            for path, of_clip in zip(paths, captions, strict=True)
            if path is not None and not os.path.exists(path)
        }
        if not wanted:
            return 0
        found, self._unknown = find_clips(self._root, wanted)
        self._hashes.update(found)
        return len(found)

    def remember(self, paths: Sequence[str | None], captions: Sequence[Sequence[str]]) -> None:
        """Writes down which clips the files are, for a time when they are not there."""
        if not os.access(self._root, os.W_OK):
            return
        write_names(
            self._root,
            (
                Known(name_of(path), captions_hash(of_clip), self._hashes[path])
                for path, of_clip in zip(paths, captions, strict=True)
                if path is not None and path in self._hashes and os.path.exists(path)
            ),
        )

    def load(self, clip: Clip) -> dict[str, torch.Tensor]:
        """The clip's tensors; decodes it where they are not stored yet.

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
        """The tensors of the clip of this content, if they are here and whole."""
        path = self._path(digest)
        try:
            return load_file(path)
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            logger.warning(f"{path} is damaged ({error}): the clip is read again")
            return None

    def holds(self, digest: str) -> bool:
        """Whether there is a file for the clip of this content; it is in use from now on."""
        path = self._path(digest)
        return _touch(path) if self.writable else path.is_file()

    def fill(self, clips: Sequence[Clip], description: str, indices: Sequence[int] | None = None) -> Filled:
        """Decodes what is missing, and shows progress.

        Args:
            clips: Taken one by one, so that no more are in memory than there are workers.
            description: What is shown beside the progress.
            indices: Of those to look at; by default all.
        """
        indices = range(len(clips)) if indices is None else indices
        if not indices:
            return Filled({}, {})

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
        return Filled(
            digests, {i: reason for i, (_, reason) in zip(indices, results, strict=True) if reason is not None}
        )

    def _decode(self, clip: Clip) -> dict[str, torch.Tensor]:
        if isinstance(self.encode, EncodesElsewhere):
            raise ValueError(
                f"{describe(clip)}: its features are not in {self.folder} any more, and a data loader's worker cannot "
                "compute them; give the same command again, with --dataloader_num_workers 0 if it happens again"
            )
        if clip["bytes"] is None and clip["path"] in self._hashes and not os.path.exists(clip["path"]):
            raise VideoDecodeError(
                clip["path"],
                f"no such file, and the cache knows the clip but does not hold it in {self.folder.name}, that is for "
                "this backbone and way of reading clips",
            )
        batch = self.video_processor(clip, return_tensors="pt", **self.options)
        tensors = {name: value[0] for name, value in batch.items()}
        if self._described.get("mirrored"):
            tensors["pixel_values_videos"] = tensors["pixel_values_videos"].flip(-1)
        if self.encode is None:
            return tensors
        real = tensors["video_mask"].bool()  # nobody needs features of what fills up a short clip
        return {name: value[real] for name, value in tensors.items()}

    def _store(self, path: Path, decoded: dict[str, torch.Tensor]) -> None:
        tensors = dict(decoded)
        if self.encode is not None:
            pixels = tensors.pop("pixel_values_videos")
            tensors["video_features"] = self.encode(pixels[None])[0].to(torch.float16)
        write_clip(path, tensors, self.limit)
