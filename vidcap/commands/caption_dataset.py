"""`vidcap caption --dataset`: a split -> captions in shards, by several processes.

A shard holds the captions of consecutive clips. Processes started by `torchrun` divide the shards among themselves.
Clips on disk are named by their path relative to the shards; clips that come as bytes are stored with their captions,
as Parquet.

Guarantees: a shard appears when it is complete, so that each clip is captioned exactly once, even if the command is
interrupted and given again with another number of processes. Captions of another data set, model or search are not
mixed in, since a file records what the captions were made from.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from modeling_vidcap.saving_vidcap import sha256_of
from processing.clips.rows import load_clips
from processing.clips.sources import Columns, DatasetError

from ..files import json_lines, public_name, write_atomically
from ..inference.reading import readable_clips
from ..inference.subtitles import CaptionedClip
from .captioner_options import open_captioner

FACTS = "captions.json"
UNREADABLE, WORDLESS = "unreadable", "wordless"  # folders with lists of clips without a caption
OPTIONS = (  # those that influence the captions, or the file that they are in
    *("split", "shard_size", "video_column", "caption_column", "num_frames", "max_frame_pixels", "max_clip_frames"),
    *("snap_to_keyframes", "skip_loop_filter"),
    *("captions", "num_beams", "max_new_tokens", "sample", "temperature", "top_p", "length_penalty"),
    *("similarity_weight", "memory_weight", "guidance_scale", "ban", "include", "prompt", "dtype"),
)


def run(arguments: argparse.Namespace) -> int:
    """Caption the missing shards; status 1 if a clip is unreadable."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    columns = Columns(arguments.video_column, arguments.caption_column)
    rows = load_clips(arguments.dataset, arguments.split, columns=columns)
    captioner, options = open_captioner(arguments)
    folder, size = arguments.output, arguments.shard_size
    folder.mkdir(exist_ok=True)
    check_facts(folder, caption_facts(arguments, rows))

    shards = range((len(rows) + size - 1) // size)
    mine = [shard for shard in shards if shard % world_size == rank]
    names = {shard: f"{arguments.split}-{shard:05d}-of-{len(shards):05d}" for shard in mine}
    missing = [shard for shard in mine if not (folder / f"{names[shard]}.done").exists()]
    print(f"process {rank}: {len(missing)} of {len(mine)} shards to do", file=sys.stderr)
    for shard in missing:
        part = rows.select(range(shard * size, min(len(rows), (shard + 1) * size)))
        results = [CaptionedClip(row["file_name"], source=row["video"]) for row in part]
        clips = readable_clips(results, captioner.video_processor, names[shard], batch_size=arguments.batch_size)
        captions = captioner.caption_with_scores(clips, batch_size=arguments.batch_size, **options)
        readable = [result for result in results if result.error is None]
        for result, candidates in zip(readable, captions, strict=True):
            result.captions = [candidate for candidate in candidates if candidate.text]
        write_shard(folder, names[shard], results)
    unreadable, wordless = (
        sum(len(path.read_text().splitlines()) for path in (folder / kind).glob("*.jsonl"))
        for kind in (UNREADABLE, WORDLESS)
    )
    if rank == 0 and unreadable:
        print(f"vidcap: {unreadable} clips cannot be read; {folder / UNREADABLE} lists them", file=sys.stderr)
    if rank == 0 and wordless:
        print(f"vidcap: {wordless} clips got an empty caption; {folder / WORDLESS} lists them", file=sys.stderr)
    return 1 if unreadable else 0


def caption_facts(arguments: argparse.Namespace, rows: datasets.Dataset) -> dict[str, Any]:
    """Data set, model and options of the captions.

    Names and hashes stand for data set and model, so that these may be moved but not changed.
    """
    return {
        "clips": len(rows),
        "dataset": _hash_of_rows(rows),
        "model": public_name(arguments.model),
        "weights": _hash_of_model(arguments.model),
        **{name: getattr(arguments, name) for name in OPTIONS},
    }


def _hash_of_rows(rows: datasets.Dataset) -> str:
    """Hash of names and captions; names such as `0001.mp4` recur."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["file_name", "captions"]):
        digest.update(json.dumps([Path(row["file_name"]).name, row["captions"]]).encode())
    return digest.hexdigest()[:16]


def _hash_of_model(model: str) -> str | None:
    """Hash of the weights and configs in a folder; a Hub id needs none."""
    if not os.path.isdir(model):
        return None
    digest = hashlib.sha256()
    for path in sorted(file for file in Path(model).iterdir() if file.suffix in (".json", ".safetensors")):
        if path.name.endswith(("config.json", ".safetensors")):
            digest.update(f"{path.name} {sha256_of(path)}".encode())
    return digest.hexdigest()[:16]


def check_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Record what the captions are made from, or check existing captions.

    Raises:
        DatasetError: If they were not, or the folder holds other files.
    """
    path = folder / FACTS
    if not path.exists():
        # A name with a dot may be that of a file which another process is writing.
        if foreign := next((path for path in folder.iterdir() if not path.name.startswith(".")), None):
            raise DatasetError(f"{folder} holds {foreign.name}, which is no file of captions; name another --output")
        write_atomically(path, json.dumps(facts, indent=1))
        return
    before = json.loads(path.read_text())
    if differing := [name for name in facts if before.get(name) != facts[name]]:
        name = differing[0]
        raise DatasetError(
            f"{folder} holds captions of another run ({name} {before.get(name)!r}, now {facts[name]!r}); name another "
            "--output"
        )


def write_shard(folder: Path, name: str, results: Sequence[CaptionedClip]) -> None:
    """Write the captions of a shard, and mark it as done."""
    rows = [_row(result, folder) for result in results if result.captions]
    broken = [{"file_name": clip.file, "reason": clip.error} for clip in results if clip.error is not None]
    wordless = [{"file_name": clip.file} for clip in results if clip.error is None and not clip.captions]
    for kind, without in ((UNREADABLE, broken), (WORDLESS, wordless)):
        if without:
            (folder / kind).mkdir(exist_ok=True)
            write_atomically(folder / kind / f"{name}.jsonl", json_lines(without))
    if rows and "video" in rows[0]:
        partial = folder / f".{name}.parquet"
        datasets.Dataset.from_list(rows).to_parquet(partial)
        os.replace(partial, folder / f"{name}.parquet")
    elif rows:
        write_atomically(folder / f"{name}.jsonl", json_lines(rows))
    (folder / f"{name}.done").touch()


def _row(result: CaptionedClip, folder: Path) -> dict[str, Any]:
    best = result.captions[0]
    row: dict[str, Any] = {
        "file_name": result.file,
        "captions": [caption.text for caption in result.captions],
        "mean_log_probability": best.mean_log_probability,
        "novelty": best.novelty,
    }
    if result.source["bytes"] is not None:
        return {**row, "video": result.source}
    return {**row, "path": os.path.relpath(result.source["path"], folder)}
