"""Rows of WebDataset tars: `KEY.mp4` beside `KEY.txt` or `KEY.json`.

Guarantees: the clips of one tar may be of different types; files that are neither the clip nor its captions, such as
sounds and pictures beside it, are not read. Without the clips, `captions_only`, they are skipped in the tar too.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from .file_names import CLIPS
from .sources import CAPTION_COLUMNS, COMMON_FORM, VIDEO_COLUMNS, Columns, DatasetError, Rows, caption_row, choose
from .tables import decode_text

FORM = 1  # raise when the same tars give other rows: `datasets` would return stored ones
TYPES = tuple(suffix[1:] for suffix in CLIPS)  # moving ones first: a picture beside a clip is not the clip
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


def load_tars(files: list[Path], *, streaming: bool, columns: Columns, captions_only: bool = False) -> Rows:
    """Rows of the common form; each file of a stream is a shard.

    Raises:
        DatasetError: Here, or when a stream is read: if a file is damaged, or a row lacks clip or captions.
    """
    others = {name: datasets.Value("string") for name in columns.others}
    features = datasets.Features({**COMMON_FORM, **others})
    arguments = {"files": list(map(str, files)), "columns": columns, "captions_only": captions_only}
    if streaming:
        if captions_only:
            features = datasets.Features({"captions": COMMON_FORM["captions"]})
        return datasets.IterableDataset.from_generator(_read, features=features, gen_kwargs=arguments)
    state = str([(path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    try:
        return datasets.Dataset.from_generator(
            _read, features=features, gen_kwargs=arguments | {"state": f"{FORM} {state}"}, writer_batch_size=100
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _read(files: list[str], columns: Columns, captions_only: bool, state: str = "") -> Iterator[dict[str, Any]]:
    count = 0
    for file in files:
        try:
            with tarfile.open(file) as tar:
                for key, members in _samples(tar):
                    count += 1
                    yield _row(tar, f"{file}, {key}", key, members, columns, captions_only)
        except (tarfile.TarError, EOFError) as error:
            raise DatasetError(f"{file}: not a tar, or a damaged one ({error})") from error
    if state and not count:  # one shard of a stream may be empty
        raise DatasetError(f"{files[0]}: holds no clips")


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Key and members, by what follows the key, of consecutive files of one key."""
    current = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        match = _MEMBER.fullmatch(member.name)
        if match is None or not member.isfile():
            continue
        if match[1] != current and members:
            yield current, members
            members = {}
        current = match[1]
        members[match[2].lower()] = member
    if members:
        yield current, members


def _row(
    tar: tarfile.TarFile,
    where: str,
    key: str,
    members: dict[str, tarfile.TarInfo],
    columns: Columns,
    captions_only: bool,
) -> dict[str, Any]:
    def content(name: str) -> bytes:
        file = tar.extractfile(members[name])
        assert file is not None  # it is a regular file
        return file.read()

    record: dict[str, Any] = {}
    if "json" in members:
        try:
            record = json.loads(decode_text(content("json"), f"{where}.json"))
        except json.JSONDecodeError as error:
            raise DatasetError(f"{where}.json: not JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{where}.json: not an object")
    texts = [name for name in CAPTION_COLUMNS if name in members]
    known = texts or [name for name in CAPTION_COLUMNS if record.get(name) is not None]
    names = [name for name in (*members, *record) if name.rpartition(".")[2] not in TYPES]
    caption = choose(columns.caption, names, known, where, "caption_column", "captions")
    inside = caption not in members
    captions = record[caption] if inside else decode_text(content(caption), f"{where}.{caption}").strip()
    row = caption_row(
        {**{name: value for name, value in record.items() if name not in CAPTION_COLUMNS}, "captions": captions},
        where,
        others=columns.others,
    )
    if captions_only:
        return {"captions": row["captions"]}
    clips = sorted(
        (name for name in members if name.rpartition(".")[2] in TYPES),
        key=lambda name: (name not in VIDEO_COLUMNS, TYPES.index(name.rpartition(".")[2])),
    )
    clip = choose(columns.video, list(members), clips, where, "video_column", "clips")
    return row | {"video": {"path": None, "bytes": content(clip)}, "file_name": row["file_name"] or key}
