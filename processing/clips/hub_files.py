"""Files of Hub data sets: which files a data set may name, and how they are fetched.

It may name its own files only: anybody can publish one, and reports that are shared show the files that it names.
Paths are judged as written, after `.` and `..` are resolved, without following the symbolic links of which the Hub's
cache is made. A local folder may name any file.
"""

import os
import posixpath
import re
from collections.abc import Sequence
from typing import Any

import datasets
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.file_download import repo_folder_name

from ..video_io_vidcap import VideoDecodeError
from .sources import HUB, DatasetError


def resolve_name(name: str, where: str) -> str:
    """Resolve a file name from a Hub data set; a [`DatasetError`] if it leads out of the folder of its split."""
    resolved = posixpath.normpath(name.replace("\\", "/"))
    absolute = posixpath.isabs(resolved) or os.path.isabs(name) or os.path.splitdrive(name)[0]
    if absolute or "://" in name or resolved.split("/")[0] in (".", ".."):
        raise _foreign(name, where)
    return resolved


class OwnFiles:
    """The files that `datasets` gives for a Hub data set of this id, in the cache or on the Hub."""

    def __init__(self, dataset: str):
        cached = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=dataset, repo_type="dataset"))
        self.folders: Sequence[str] = [
            os.path.abspath(cached),
            str(datasets.config.EXTRACTED_DATASETS_PATH.absolute()),
        ]
        self.on_hub = re.compile(rf"datasets/{re.escape(dataset)}(@[^/]+)?/.+")

    def check(self, path: str, where: str) -> str:
        """The resolved path; a [`DatasetError`] if it is not one of these files."""
        if path.startswith(HUB):
            resolved = posixpath.normpath(path.removeprefix(HUB))
            if self.on_hub.fullmatch(resolved):
                return HUB + resolved
        else:
            resolved = os.path.normpath(path)
            if any(resolved.startswith(folder + os.sep) for folder in self.folders):
                return resolved
        raise _foreign(path, where)


def fetch_clip(clip: dict[str, Any]) -> dict[str, Any]:
    """Fetch the bytes of a clip on the Hub; return others unchanged.

    Raises:
        VideoDecodeError: If there is no such file.
    """
    path = clip["path"]
    if clip["bytes"] is not None or path is None or not path.startswith(HUB):
        return clip
    try:
        return {"path": path, "bytes": HfFileSystem().read_bytes(path)}
    except FileNotFoundError as error:
        raise VideoDecodeError(path, "no such file on the Hub") from error


def _foreign(path: str, where: str) -> DatasetError:
    return DatasetError(
        f"{where}: {path!r:.200} is not a file of this data set, and a Hub data set may name only its own; if you "
        "trust it, download it and pass the folder"
    )
