"""A folder of the cache -> a data set repository on the Hub, and back.

A repository holds the clips of one backbone and one way of reading clips, many to a safetensors file, `settings.json`,
which says what these are, `clips.parquet` (the file of each clip, and by which name and captions a row of a data set
finds it) and a card. Nothing in it is a pickle; what is pulled is checked before it is written, and names a folder by
the settings that it was made with, as a cache of one's own does.
"""

import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from processing.cache.feature_cache import SETTINGS, folder_name, write_clip, write_settings
from processing.cache.names import CONTENT_HASH, CacheRecord, read_names, write_names
from processing.cache.upkeep import GB, SUFFIX, UNFINISHED, Claim, Entry, SizeLimit, entries, folders, in_use_since
from processing.support.progress import track

FILE_BYTES = 256 * 2**20  # of clips in one file of a repository
TABLE = "clips.parquet"
TENSORS = {"video_features", "pixel_values_videos", "video_mask", "video_times"}
CLIPS_FILE = re.compile(r"clips/\d{5}\.safetensors")


def describe(folder: Path) -> dict[str, Any]:
    """What a folder of the cache holds."""
    path = folder / SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    clips = [each for each in entries(folder) if not each.path.endswith(UNFINISHED)]
    since = in_use_since(folder)
    return {
        "folder": folder.name,
        **(_facts(settings) if settings is not None else {"backbone": "unknown"}),
        "clips": len(clips),
        "gigabytes": sum(clip.size for clip in clips) / GB,
        "last_used": max((clip.used for clip in clips), default=0) / 1e9 or None,
        "in_use": since is not None,
    }


def choose_folder(root: Path, name: str | None) -> Path:
    """The folder of the cache whose name begins like that, or the only one.

    Raises:
        ValueError: If there is none, or several.
    """
    found = [each for each in folders(root) if name is None or each.name.startswith(name)]
    if len(found) != 1:
        what = f"{len(found)} folders" if found else "no folder"
        named = f" whose name begins with {name}" if name is not None else ""
        raise ValueError(f"{root} has {what}{named}; `vidcap cache list` shows them, --folder names one")
    return found[0]


def push_cache(root: Path, folder: Path, repo_id: str, *, private: bool | None = None) -> tuple[str, int]:
    """Uploads a folder of the cache, in one commit.

    Returns:
        The address of the repository, and the number of clips in it.

    Raises:
        ValueError: If there is nothing to upload, or it is not known what made it.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    if not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} has no {SETTINGS}: it is of an older version; use it once, and push then")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with Claim(folder):
        clips = sorted((each for each in entries(folder) if each.path.endswith(SUFFIX)), key=lambda each: each.path)
        if not clips:
            raise ValueError(f"{folder} holds no clips: train or evaluate first")
        api = HfApi()
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        there = set(api.list_repo_files(url.repo_id, repo_type="dataset"))
        additions: list[CommitOperationAdd] = []
        file_of: dict[str, str] = {}
        for number, part in enumerate(track(list(_parts(clips)), "uploading", unit="file")):
            tensors: dict[str, torch.Tensor] = {}
            for each in part:
                name = Path(each.path).stem
                os.utime(each.path)
                try:
                    tensors |= {f"{name}/{key}": value for key, value in load_file(each.path).items()}
                except SafetensorError as error:
                    raise ValueError(f"{each.path} is damaged ({error}): remove it") from error
                file_of[name] = f"clips/{number:05d}{SUFFIX}"
            addition = CommitOperationAdd(f"clips/{number:05d}{SUFFIX}", save(tensors))
            api.preupload_lfs_files(url.repo_id, [addition], repo_type="dataset")  # which then forgets the content
            additions.append(addition)
    card = _card(url.repo_id, settings, len(clips), sum(each.size for each in clips))
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch, TABLE)
        _write_table(table, file_of, read_names(root))
        additions += [
            CommitOperationAdd(TABLE, table),
            CommitOperationAdd(SETTINGS, (folder / SETTINGS).read_bytes()),
            CommitOperationAdd("README.md", card.encode()),
        ]
        gone = {name for name in there if CLIPS_FILE.fullmatch(name)} - set(file_of.values())
        deletions = [CommitOperationDelete(name) for name in sorted(gone)]
        api.create_commit(
            url.repo_id,
            [*additions, *deletions],
            repo_type="dataset",
            commit_message=f"Upload the features of {len(clips)} clips",
        )
    return str(url), len(clips)


def pull_cache(root: Path, repo_id: str, *, limit: int | None = None) -> tuple[Path, int, int]:
    """Fetches what a repository holds and the cache lacks. What was interrupted goes on when it is called again.

    Returns:
        The folder, the number of clips in the repository, and how many of them were new.

    Raises:
        ValueError: If it holds something else than [`push_cache`] uploads.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def fetch(name: str) -> Path:
            try:
                return Path(hf_hub_download(repo_id, name, repo_type="dataset", local_dir=scratch))
            except LocalEntryNotFoundError as error:
                raise ValueError(f"{repo_id}: the Hub is not within reach ({name} cannot be fetched)") from error
            except EntryNotFoundError as error:
                raise ValueError(
                    f"{repo_id} has no {name}: it is no cache that `vidcap cache push` uploaded"
                ) from error

        settings = json.loads(fetch(SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not isinstance(settings.get("described"), dict):
            raise ValueError(f"{repo_id}: {SETTINGS} does not say what its clips are made of")
        file_of, names = _read_table(fetch(TABLE), repo_id)
        folder = _made(root / folder_name(settings["described"]))
        with Claim(folder):
            write_settings(folder, {"described": settings["described"], "about": settings.get("about") or {}})
            room = None if limit is None else SizeLimit(root, limit)
            missing: dict[str, set[str]] = defaultdict(set)
            for clip, name in file_of.items():
                path = folder / f"{clip}{SUFFIX}"
                if path.is_file():
                    os.utime(path)
                else:
                    missing[name].add(clip)
            for name in track(sorted(missing), "fetching", unit="file"):
                path = fetch(name)
                _unpack(path, missing[name], folder, room, f"{repo_id}/{name}")
                path.unlink()
    write_names(root, names)
    return folder, len(file_of), sum(map(len, missing.values()))


def explain(error: HfHubHTTPError, repo_id: str) -> RuntimeError:
    """What the Hub refused, in one line."""
    status = error.response.status_code
    reason = error.server_message or error.response.reason_phrase
    if isinstance(error, RepositoryNotFoundError):
        reason = "no such data set, or it is private"
    hint = "; log in by `hf auth login`, or set HF_TOKEN" if status in (401, 403, 404) else ""
    return RuntimeError(f"the Hub refused {repo_id}: {status}, {reason.rstrip('.')}{hint}")


def _parts(clips: list[Entry]) -> Iterator[list[Entry]]:
    """The clips of each file."""
    part: list[Entry] = []
    size = 0
    for clip in clips:
        if part and size + clip.size > FILE_BYTES:
            yield part
            part, size = [], 0
        part.append(clip)
        size += clip.size
    yield part


def _write_table(path: Path, file_of: dict[str, str], names: set[CacheRecord]) -> None:
    import pyarrow
    import pyarrow.parquet

    named = {row.clip for row in names}
    rows: list[tuple[str | None, ...]] = [
        (row.clip, file_of[row.clip], row.name, row.captions) for row in sorted(names) if row.clip in file_of
    ]
    rows += [(clip, name, None, None) for clip, name in file_of.items() if clip not in named]
    columns = dict(zip(("clip", "file", "name", "captions"), map(list, zip(*rows, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _read_table(path: Path, repo_id: str) -> tuple[dict[str, str], set[CacheRecord]]:
    """By clip the file that holds it, and the names of clips."""
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=["clip", "file", "name", "captions"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{repo_id}: {TABLE} cannot be read ({' '.join(str(error).split())})") from error
    for row in rows:
        # They become names of files here.
        if not CONTENT_HASH.fullmatch(str(row["clip"])) or not CLIPS_FILE.fullmatch(str(row["file"])):
            raise ValueError(f"{repo_id}: {TABLE} names {row['clip']!r:.80} in {row['file']!r:.80}, no clip")
    file_of = {row["clip"]: row["file"] for row in rows}
    return file_of, {CacheRecord(row["name"], row["captions"], row["clip"]) for row in rows if row["name"] is not None}


def _unpack(path: Path, clips: set[str], folder: Path, room: SizeLimit | None, name: str) -> None:
    """Writes those of the clips in a file of a repository that are wanted."""
    try:
        with safe_open(path, "pt") as file:
            keys: dict[str, list[str]] = defaultdict(list)
            for key in file.keys():  # noqa: SIM118
                clip, _, tensor = key.partition("/")
                if tensor not in TENSORS:
                    raise ValueError(f"{name} holds {key!r:.100}, which is no part of a clip")
                keys[clip].append(tensor)
            if absent := sorted(clips - keys.keys()):
                raise ValueError(f"{name} lacks {len(absent)} of its clips, such as {absent[0]}")
            for clip in sorted(clips):
                tensors: dict[str, torch.Tensor] = {each: file.get_tensor(f"{clip}/{each}") for each in keys[clip]}
                write_clip(folder / f"{clip}{SUFFIX}", tensors, room)
    except SafetensorError as error:
        raise ValueError(f"{name} is damaged ({error}); give the command again") from error


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _facts(settings: dict[str, Any]) -> dict[str, Any]:
    """What people want to know of a folder's settings."""
    described, about = settings["described"], settings["about"]
    processor = described["processor"]
    size = processor.get("size") or {}
    features = described["backbone"] is not None
    return {
        "content": "features" if features else "frames",
        "backbone": (about.get("backbone") or "unknown") if features else None,
        "mirrored": described.get("mirrored", False),
        "num_frames": processor.get("num_frames"),
        "frame_size": f"{size.get('width')} x {size.get('height')}" if "width" in size else None,
    }


def _card(repo_id: str, settings: dict[str, Any], clips: int, size: int) -> str:
    facts = _facts(settings)
    described = settings["described"]
    if facts["content"] == "features":
        of = " of mirrored frames" if facts["mirrored"] else ""
        what = f"features (float16){of} of the frozen backbone `{facts['backbone']}`"
        more = (
            f"- backbone: `{facts['backbone']}`, SHA-256 of its weights `{described['backbone']}`\n"
            f"- settings: `{json.dumps({k: v for k, v in described['settings'].items() if k != 'backbone'})}`\n"
        )
    else:
        what, more = "decoded frames (uint8): the clips themselves, in small", ""
    return f"""---
tags:
- vidcap
- video-captioning
configs:
- config_name: default
  data_files: {TABLE}
---

# {repo_id.rpartition("/")[2]}

{clips:,} clips as {what}, as vidcap keeps them to train and evaluate video captioners.

- clips: {clips:,} ({size / GB:.3g} GB)
{more}- preprocessing: {facts["num_frames"]} frames of {facts["frame_size"]} pixels; all of it is in `{SETTINGS}`

```bash
vidcap cache pull {repo_id}
```

Then `vidcap train` and `vidcap evaluate` with the same backbone and preprocessing find each clip by its content or,
where the videos are not there, by its file name and captions in `metadata.jsonl`. `clips/*.safetensors` hold tensors
named `SHA256_OF_THE_FILE/video_features`, `/video_mask` and `/video_times`; `{TABLE}` lists them. There are no
captions here, and no licence but that of the videos that they are made of.
"""
