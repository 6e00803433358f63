"""A folder of the cache -> a data set repository on the Hub, and back.

A repository holds the clips of one backbone and one preprocessing, many per safetensors file, `settings.json`, which
describes them, `clips.parquet` (the file of each clip, and the name and captions by which rows of a data set find it)
and a card. It holds no pickle; files are checked before they are written, into a folder named by their settings, as in
a local cache.
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

FILE_BYTES = 256 * 2**20  # size of a file of clips
TABLE = "clips.parquet"
TENSORS = {"video_features", "pixel_values_videos", "video_mask", "video_times"}
CLIPS_FILE = re.compile(r"clips/\d{5}\.safetensors")


def folder_facts(folder: Path) -> dict[str, Any]:
    """The content and use of a folder of the cache."""
    path = folder / SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    clips = [entry for entry in entries(folder) if not entry.path.endswith(UNFINISHED)]
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
    """The folder of the cache whose name begins with `name`, or the only one.

    Raises:
        ValueError: If there is none, or several.
    """
    matches = [folder for folder in folders(root) if name is None or folder.name.startswith(name)]
    if len(matches) != 1:
        count = f"{len(matches)} folders" if matches else "no folder"
        named = f" whose name begins with {name}" if name is not None else ""
        raise ValueError(f"{root} has {count}{named}; choose one that `vidcap cache list` shows, by --folder")
    return matches[0]


def push_cache(root: Path, folder: Path, repo_id: str, *, private: bool | None = None) -> tuple[str, int]:
    """Upload a folder of the cache, in one commit.

    Returns:
        The address of the repository, and the number of clips in it.

    Raises:
        ValueError: If there is nothing to upload, or its settings are unknown.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    if not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} has no {SETTINGS}: an older version wrote it; use it once, then push again")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with Claim(folder):
        clips = sorted((clip for clip in entries(folder) if clip.path.endswith(SUFFIX)), key=lambda clip: clip.path)
        if not clips:
            raise ValueError(f"{folder} holds no clips; train or evaluate first")
        api = HfApi()
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        present = set(api.list_repo_files(url.repo_id, repo_type="dataset"))
        additions: list[CommitOperationAdd] = []
        file_of: dict[str, str] = {}
        for number, part in enumerate(track(list(_parts(clips)), "uploading", unit="file")):
            tensors: dict[str, torch.Tensor] = {}
            for clip in part:
                name = Path(clip.path).stem
                os.utime(clip.path)
                try:
                    tensors |= {f"{name}/{key}": value for key, value in load_file(clip.path).items()}
                except SafetensorError as error:
                    raise ValueError(f"{clip.path} is damaged ({error}); remove it") from error
                file_of[name] = f"clips/{number:05d}{SUFFIX}"
            addition = CommitOperationAdd(f"clips/{number:05d}{SUFFIX}", save(tensors))
            api.preupload_lfs_files(url.repo_id, [addition], repo_type="dataset")  # drops the content
            additions.append(addition)
    card = _card(url.repo_id, settings, len(clips), sum(clip.size for clip in clips))
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch, TABLE)
        _write_table(table, file_of, read_names(root))
        additions += [
            CommitOperationAdd(TABLE, table),
            CommitOperationAdd(SETTINGS, (folder / SETTINGS).read_bytes()),
            CommitOperationAdd("README.md", card.encode()),
        ]
        gone = {name for name in present if CLIPS_FILE.fullmatch(name)} - set(file_of.values())
        deletions = [CommitOperationDelete(name) for name in sorted(gone)]
        api.create_commit(
            url.repo_id,
            [*additions, *deletions],
            repo_type="dataset",
            commit_message=f"Upload the features of {len(clips)} clips",
        )
    return str(url), len(clips)


def pull_cache(root: Path, repo_id: str, *, limit: int | None = None) -> tuple[Path, int, int]:
    """Fetch the clips of a repository that the cache lacks; an interrupted call continues when repeated.

    Returns:
        The folder, the number of clips in the repository, and the number of new ones.

    Raises:
        ValueError: If it holds something other than [`push_cache`] uploads.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def fetch(name: str) -> Path:
            try:
                return Path(hf_hub_download(repo_id, name, repo_type="dataset", local_dir=scratch))
            except LocalEntryNotFoundError as error:
                raise ValueError(f"{repo_id}: the Hub cannot be reached, so {name} cannot be fetched") from error
            except EntryNotFoundError as error:
                raise ValueError(
                    f"{repo_id} has no {name}; it is not a cache uploaded by `vidcap cache push`"
                ) from error

        settings = json.loads(fetch(SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not isinstance(settings.get("described"), dict):
            raise ValueError(f"{repo_id}: {SETTINGS} does not describe its clips")
        file_of, names = _read_table(fetch(TABLE), repo_id)
        folder = root / folder_name(settings["described"])
        folder.mkdir(parents=True, exist_ok=True)
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
    """A refusal of the Hub, in one line."""
    status = error.response.status_code
    reason = error.server_message or error.response.reason_phrase
    if isinstance(error, RepositoryNotFoundError):
        reason = "no such data set, or a private one"
    hint = "; run `hf auth login` or set HF_TOKEN" if status in (401, 403, 404) else ""
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
    """The file of each clip, and the records of their names."""
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=["clip", "file", "name", "captions"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{repo_id}: {TABLE} cannot be read ({' '.join(str(error).split())})") from error
    for row in rows:
        # These become file names.
        if not CONTENT_HASH.fullmatch(str(row["clip"])) or not CLIPS_FILE.fullmatch(str(row["file"])):
            raise ValueError(
                f"{repo_id}: {TABLE} names {row['clip']!r:.80} in {row['file']!r:.80}, which is not a clip"
            )
    file_of = {row["clip"]: row["file"] for row in rows}
    return file_of, {CacheRecord(row["name"], row["captions"], row["clip"]) for row in rows if row["name"] is not None}


def _unpack(path: Path, clips: set[str], folder: Path, room: SizeLimit | None, name: str) -> None:
    """Write these clips from a file of a repository into a folder."""
    try:
        with safe_open(path, "pt") as file:
            keys: dict[str, list[str]] = defaultdict(list)
            for key in file.keys():  # noqa: SIM118
                clip, _, tensor = key.partition("/")
                if tensor not in TENSORS:
                    raise ValueError(f"{name} holds {key!r:.100}, which is not part of a clip")
                keys[clip].append(tensor)
            if absent := sorted(clips - keys.keys()):
                raise ValueError(f"{name} lacks {len(absent)} of its clips, such as {absent[0]}")
            for clip in sorted(clips):
                tensors: dict[str, torch.Tensor] = {key: file.get_tensor(f"{clip}/{key}") for key in keys[clip]}
                write_clip(folder / f"{clip}{SUFFIX}", tensors, room)
    except SafetensorError as error:
        raise ValueError(f"{name} is damaged ({error}); pull again") from error


def _facts(settings: dict[str, Any]) -> dict[str, Any]:
    """The main settings of a folder, for people."""
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
        frames = " of mirrored frames" if facts["mirrored"] else ""
        content = f"features (float16){frames} of the frozen backbone `{facts['backbone']}`"
        details = (
            f"- backbone: `{facts['backbone']}`, SHA-256 of its weights `{described['backbone']}`\n"
            f"- settings: `{json.dumps({k: v for k, v in described['settings'].items() if k != 'backbone'})}`\n"
        )
    else:
        content, details = "decoded frames (uint8), small copies of the clips", ""
    return f"""---
tags:
- vidcap
- video-captioning
configs:
- config_name: default
  data_files: {TABLE}
---

# {repo_id.rpartition("/")[2]}

{clips:,} clips as {content}, in the form that vidcap keeps to train and evaluate video captioners.

- clips: {clips:,} ({size / GB:.3g} GB)
{details}- preprocessing: {facts["num_frames"]} frames of {facts["frame_size"]} pixels; `{SETTINGS}` holds all settings

```bash
vidcap cache pull {repo_id}
```

Then `vidcap train` and `vidcap evaluate` with the same backbone and preprocessing find each clip by its content or,
without the videos, by its file name and captions in `metadata.jsonl`. `clips/*.safetensors` hold tensors named
`SHA256_OF_THE_FILE/video_features`, `/video_mask` and `/video_times`; `{TABLE}` lists them. Captions are not included,
and the licence is that of the original videos.
"""
