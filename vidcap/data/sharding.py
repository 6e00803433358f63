"""Writes clips with captions as Parquet, WebDataset or a folder.

Guarantees: the same clips give the same bytes; files of at most the given size appear all together or not at all.

Limitations: a clip larger than a shard gets its own, larger shard.
"""

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from modeling_vidcap.saving_vidcap import sha256_of

SPLITS = ("train", "validation", "test")
ROW_GROUP_BYTES = 16 << 20  # held in memory by a reader at once
OWN_NAMES = re.compile(rf"(?:{'|'.join(SPLITS)})(?:-\d+-of-\d+\.parquet|-\d+\.tar)?")


@dataclass(frozen=True)
class Clip:
    """
    A clip of the finished data set.

    Args:
        path: The source file.
        file_name: Unique name in the data set.
        split: One of `SPLITS`.
        size: Size in bytes.
        sha256: Hash of the file.
        captions: At least one.
    """

    path: Path
    file_name: str
    split: str
    size: int
    sha256: str
    captions: tuple[str, ...]


def write_shards(clips: Sequence[Clip], folder: Path, form: str, shard_bytes: int) -> list[dict[str, Any]]:
    """Write the shards of all splits, replacing older ones.

    Args:
        clips: In the order of the data set.
        folder: Output folder.
        form: A key of `WRITERS`.
        shard_bytes: Limit for the clips of a shard.

    Returns:
        `file`, `clips`, `bytes` and `sha256` of each shard.

    Raises:
        ValueError: For a WebDataset with clips of several file types, since each suffix is a column of all rows there.
        OSError: If a file cannot be read or written.
    """
    kinds = sorted({Path(clip.file_name).suffix for clip in clips})
    if form == "webdataset" and len(kinds) > 1:
        raise ValueError(
            f"a WebDataset needs clips of one file type, but these are {', '.join(kinds)}; use --shards parquet"
        )
    shards = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".shards-") as scratch:
        for split in SPLITS:
            parts = _parts([clip for clip in clips if clip.split == split], shard_bytes if form != "folder" else None)
            for number, part in enumerate(parts):
                name = _name(form, split, number, len(parts))
                path = WRITERS[form](Path(scratch) / name, part)
                shards.append({"file": path.relative_to(scratch).as_posix(), "clips": len(part)} | size_and_hash(path))
        _remove_shards(folder)
        for path in sorted(Path(scratch).iterdir()):
            os.replace(path, folder / path.name)
    return shards


def _remove_shards(folder: Path) -> None:
    """Remove the shards of an earlier run, of any form."""
    for path in folder.iterdir():
        if OWN_NAMES.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def are_intact(shards: Sequence[dict[str, Any]], clips: Sequence[Clip], folder: Path, form: str) -> bool:
    """Whether the shards of an earlier run are unchanged; for a folder, whether the clips have their size."""
    for shard in shards:
        path = folder / shard["file"]
        if not path.is_file() or size_and_hash(path) != {key: shard[key] for key in ("bytes", "sha256")}:
            return False
    if form != "folder":
        return True
    copies = [(folder / clip.split / clip.file_name, clip.size) for clip in clips]
    return all(path.is_file() and path.stat().st_size == size for path, size in copies)


def size_and_hash(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _parts(clips: Sequence[Clip], most_bytes: int | None) -> list[list[Clip]]:
    """Group clips into parts of at most `most_bytes`."""
    parts: list[list[Clip]] = []
    room = 0
    for clip in clips:
        if not parts or (most_bytes is not None and clip.size > room):
            parts.append([])
            room = most_bytes or 0
        parts[-1].append(clip)
        room -= clip.size
    return parts


def _name(form: str, split: str, number: int, total: int) -> str:
    names = {"parquet": f"{split}-{number:05d}-of-{total:05d}.parquet", "webdataset": f"{split}-{number:06d}.tar"}
    return names.get(form, split)


def _write_parquet(path: Path, clips: Sequence[Clip]) -> Path:
    import pyarrow as pa  # imported here since, like `datasets`, it comes with an extra
    import pyarrow.parquet as pq
    from datasets import Features, List, Value, Video

    # `datasets` reads its features from the schema, so that the column loads as a `Video`.
    features = Features({"video": Video(), "file_name": Value("string"), "captions": List(Value("string"))})
    with pq.ParquetWriter(path, features.arrow_schema, compression="none", use_dictionary=False) as writer:
        for group in _parts(clips, ROW_GROUP_BYTES):
            rows = [
                {
                    "video": {"bytes": clip.path.read_bytes(), "path": clip.file_name},
                    "file_name": clip.file_name,
                    "captions": list(clip.captions),
                }
                for clip in group
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
    return path


def _write_tar(path: Path, clips: Sequence[Clip]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:  # TarInfo sets neither time nor owner
        for clip in clips:
            key = Path(clip.file_name).stem
            text = json.dumps({"captions": clip.captions, "file_name": clip.file_name}, ensure_ascii=False).encode()
            for name, content in ((clip.file_name, clip.path.read_bytes()), (f"{key}.json", text)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    return path


def _write_folder(folder: Path, clips: Sequence[Clip]) -> Path:
    folder.mkdir()
    for clip in clips:
        shutil.copyfile(clip.path, folder / clip.file_name)
    metadata = folder / "metadata.jsonl"
    lines = (
        json.dumps({"file_name": clip.file_name, "captions": clip.captions}, ensure_ascii=False) for clip in clips
    )
    metadata.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return metadata


WRITERS: dict[str, Callable[[Path, Sequence[Clip]], Path]] = {
    "parquet": _write_parquet,
    "webdataset": _write_tar,
    "folder": _write_folder,
}
