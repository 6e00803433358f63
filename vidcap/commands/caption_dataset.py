"""`vidcap caption --dataset`: every clip of a split -> a data set of captions, in shards, by any number of processes.

A shard holds the captions of clips that follow one another in the data set, appears when it is complete, and is made
by one process: with `torchrun` they deal the shards out among them. So each clip is captioned exactly once, also where
the command was interrupted and given again, with as many processes or others. Clips on disk are named by their path
relative to the shards; clips that come as bytes are stored with their captions, as Parquet. What the captions are of
and how they were made is written down, so that those of another run are not mixed in.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_vidcap.saving_vidcap import sha256_of
from processing.clips.rows import load_clips
from processing.clips.sources import Columns, DatasetError

from ..files import json_lines, public_name, write_atomically
from ..inference.reading import readable_clips
from ..inference.subtitles import CaptionedClip
from .captioner_options import open_captioner

FACTS = "captions.json"
UNREADABLE, WORDLESS = "unreadable", "wordless"  # folders of lists of clips that have no caption
OPTIONS = (  # what decides on the captions beside data set and model, or on which file they are in
    *("split", "shard_size", "video_column", "caption_column", "num_frames", "max_frame_pixels", "max_clip_frames"),
    *("snap_to_keyframes", "skip_loop_filter"),
    *("captions", "num_beams", "max_new_tokens", "sample", "temperature", "top_p", "length_penalty"),
    *("similarity_weight", "guidance_scale", "ban", "include", "prompt", "dtype"),
)


def run(arguments: argparse.Namespace) -> int:
    """Captions what is missing of the split; the status is 1 if a clip could not be read."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    columns = Columns(arguments.video_column, arguments.caption_column)
    rows = load_clips(arguments.dataset, arguments.split, columns=columns)
    captioner, options = open_captioner(arguments)
    folder, size = arguments.output, arguments.shard_size
    folder.mkdir(exist_ok=True)
    check_facts(folder, run_facts(arguments, rows))

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
        for result, found in zip([each for each in results if each.error is None], captions, strict=True):
            result.captions = [each for each in found if each.text]
        write_shard(folder, names[shard], results)
    unreadable, wordless = (
        sum(len(path.read_text().splitlines()) for path in (folder / kind).glob("*.jsonl"))
        for kind in (UNREADABLE, WORDLESS)
    )
    if rank == 0 and unreadable:
        print(f"vidcap: {unreadable} clips could not be read; see {folder / UNREADABLE}", file=sys.stderr)
    if rank == 0 and wordless:
        print(f"vidcap: for {wordless} clips the model wrote no word; see {folder / WORDLESS}", file=sys.stderr)
    return 1 if unreadable else 0


def run_facts(arguments: argparse.Namespace, rows: Any) -> dict[str, Any]:
    """What the shards are of, without a path of this machine: data set and model are told by names and hashes, so
    that they may be moved but not changed."""
    return {
        "clips": len(rows),
        "dataset": _hash_of_rows(rows),
        "model": public_name(arguments.model),
        "weights": _hash_of_model(arguments.model),
        **{name: getattr(arguments, name) for name in OPTIONS},
    }


def _hash_of_rows(rows: Any) -> str:
    """Of names and captions: names alone, such as `0001.mp4`, are those of many data sets."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["file_name", "captions"]):
        digest.update(json.dumps([Path(row["file_name"]).name, row["captions"]]).encode())
    return digest.hexdigest()[:16]


def _hash_of_model(model: str) -> str | None:
    """Of the weights and configs in a folder; a Hub id says what it means."""
    if not os.path.isdir(model):
        return None
    digest = hashlib.sha256()
    for path in sorted(each for each in Path(model).iterdir() if each.suffix in (".json", ".safetensors")):
        if path.name.endswith(("config.json", ".safetensors")):
            digest.update(f"{path.name} {sha256_of(path)}".encode())
    return digest.hexdigest()[:16]


def check_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Writes what the shards are of, or makes sure that those that are there are of the same.

    Raises:
        DatasetError: If they are of something else, or other files are there.
    """
    path = folder / FACTS
    if not path.exists():
        # What begins with a dot may be another process that writes them just now.
        if foreign := next((each for each in folder.iterdir() if not each.name.startswith(".")), None):
            raise DatasetError(f"{folder} holds other files than captions ({foreign.name}); name another --output")
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
    """The captions of a shard, the clips that have none, and at last the mark that it is done."""
    rows = [_row(result, folder) for result in results if result.captions]
    broken = [{"file_name": each.file, "reason": each.error} for each in results if each.error is not None]
    silent = [{"file_name": each.file} for each in results if each.error is None and not each.captions]
    for kind, without in ((UNREADABLE, broken), (WORDLESS, silent)):
        if without:
            (folder / kind).mkdir(exist_ok=True)
            write_atomically(folder / kind / f"{name}.jsonl", json_lines(without))
    if rows and "video" in rows[0]:
        import datasets

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
        "captions": [each.text for each in result.captions],
        "mean_log_probability": best.mean_log_probability,
        "novelty": best.novelty,
    }
    if result.source["bytes"] is not None:
        return {**row, "video": result.source}
    return {**row, "path": os.path.relpath(result.source["path"], folder)}
