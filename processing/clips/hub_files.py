"""Files of data sets of the Hub: which of them a data set may name, and how they are fetched where they are needed.

It may name its own and no others of this machine: anybody can write one, and what it names is drawn into reports that
are shared. Paths are judged as they are written, after `.` and `..` are resolved, but without following symbolic
links, which the Hub's cache is made of. A local folder may name whatever its owner likes.
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


def own_name(name: str, where: str) -> str:
    """A file name as it is written in a data set of the Hub, resolved.

    Args:
        name: Relative to the folder of the split.
        where: What errors call its place.

    Raises:
        DatasetError: If it leads out of that folder.
    """
    resolved = posixpath.normpath(name.replace("\\", "/"))
    absolute = posixpath.isabs(resolved) or os.path.isabs(name) or os.path.splitdrive(name)[0]
    if absolute or "://" in name or resolved.split("/")[0] in (".", ".."):
        raise _foreign(name, where)
    return resolved


class OwnFiles:
    """The files that `datasets` gives for a data set of the Hub: in the cache, or where they are on the Hub.

    Args:
        dataset: Its id.
    """

    def __init__(self, dataset: str):
        cached = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=dataset, repo_type="dataset"))
        self.folders: Sequence[str] = [
            os.path.abspath(cached),
            str(datasets.config.EXTRACTED_DATASETS_PATH.absolute()),
        ]
        self.on_hub = re.compile(rf"datasets/{re.escape(dataset)}(@[^/]+)?/.+")

    def check(self, path: str, where: str) -> str:
        """The path, resolved, if it is one of these.

        Raises:
            DatasetError: If it is another.
        """
        if path.startswith(HUB):
            resolved = posixpath.normpath(path.removeprefix(HUB))
            if self.on_hub.fullmatch(resolved):
                return HUB + resolved
        else:
            resolved = os.path.normpath(path)
            if any(resolved.startswith(folder + os.sep) for folder in self.folders):
                return resolved
        raise _foreign(path, where)


def fetched(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip with its bytes, where it is a file on the Hub; any other as it is.

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
        f"{where}: {path!r:.200} is no file of this data set, and one of the Hub may name its own files only; if you "
        "trust it, download it and give its folder"
    )
