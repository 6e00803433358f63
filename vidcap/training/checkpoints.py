"""Checkpoints that are whole or absent, and resuming from them.

A checkpoint is written beside the others under a temporary name, gets a list of its files with their hashes, and
appears by rename.

Guarantees: a kill or a full disk leaves earlier checkpoints intact. Later damage is detected by hash, logged, and the
checkpoint is skipped. Only optimizer and random states are pickled (with FSDP also a copy of the weights), and they
are read with `weights_only=True`.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainingArguments

from modeling_vidcap.saving_vidcap import sha256_of

from ..ranks import from_first_rank

logger = logging.getLogger(__name__)
MANIFEST = "checkpoint.json"  # written last
STAGING, LEAVING = ".checkpoint-being-written", ".checkpoint-being-removed"
NAME = re.compile(r"checkpoint-(\d+)")
# Arguments without influence on the weights.
INDIFFERENT = re.compile(
    "output_dir|resume_from_checkpoint|decoding_workers|disable_tqdm|bf16|mixed_precision|run_name|"
    "(feature_cache|hub|push|report|log|save|dataloader|trackio|ddp|torch_compile|local_rank).*"
)


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest: the hash of every file, and `facts`."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    _write(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest that [`seal`] wrote, empty if there is none."""
    path = Path(folder, MANIFEST)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def find_damage(folder: Path) -> str | None:
    """Why no run can resume from a checkpoint; `None` if it is intact."""
    if read_manifest(folder).get("model_alone"):
        return "it holds the model alone (--save_only_model), without the state that resuming needs"
    try:
        files = read_manifest(folder)["files"]
        return next(
            (f"{name} is damaged" for name, digest in files.items() if sha256_of(folder / name) != digest), None
        )
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def checkpoints(directory: str | Path) -> list[Path]:
    """All checkpoints in a folder, the newest first."""
    paths = [path for path in Path(directory).glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: (read_manifest(path).get("written", 0), path.stat().st_mtime), reverse=True)


def prune(directory: str | Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints beyond `limit`, but neither the newest nor the best."""
    if not limit:
        return
    newest, *others = checkpoints(directory)
    kept = None if best is None else Path(best).resolve()  # one path can be written in several ways
    spared = [path for path in others if path.resolve() == kept]
    removable = [path for path in others if path.resolve() != kept]
    for path in removable[max(0, limit - 1 - len(spared)) :]:
        remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint, its name first, so that no half is loaded."""
    leaving = folder.with_name(LEAVING)
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(folder, leaving)
    shutil.rmtree(leaving)


def find_unfinished(directory: str | Path, settings: dict[str, Any]) -> Path | None:
    """The newest intact checkpoint, if it belongs to an unfinished run with these settings.

    Damaged checkpoints are skipped with a warning. If the newest intact one belongs to a finished run, or to a run
    with other settings (with a warning), older ones are not considered.
    """
    path = next(_intact(directory), None)
    if path is None:
        return None
    manifest = read_manifest(path)
    if manifest.get("finished"):
        return None
    before = manifest.get("settings", {})
    if differing := sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name)):
        name = differing[0]
        logger.warning(
            f"starting a new run instead of resuming from {path}: it was trained with another {name} "
            f"({before.get(name)}, now {settings.get(name)}); to resume all the same, add --resume_from_checkpoint "
            f"{path}"
        )
        return None
    return path


def find_last(directory: str | Path) -> Path:
    """The newest intact checkpoint, whatever its settings; a `ValueError` if there is none."""
    path = next(_intact(directory), None)
    if path is None:
        raise ValueError(f"{directory}: no intact checkpoint to resume from; leave out --resume_from_checkpoint")
    return path


def _intact(directory: str | Path) -> Iterator[Path]:
    for path in checkpoints(directory):
        if (reason := find_damage(path)) is None:
            yield path
        else:
            logger.warning(f"skipping {path}: {reason}")


def run_settings(arguments: TrainingArguments, others: dict[str, Any], captions: Sequence[str]) -> dict[str, Any]:
    """Settings that a run must share with a checkpoint to resume from it unasked.

    Args:
        arguments: Those that influence the weights are taken.
        others: Further arguments, by name.
        captions: Training captions, of which a hash is taken.
    """
    values = {**others, **{each.name: getattr(arguments, each.name) for each in dataclasses.fields(arguments)}}
    simple = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float | str | bool | list | None) and not INDIFFERENT.fullmatch(name)
    }
    return {**simple, "captions": hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]}


def checkpoint_to_resume(directory: str | Path, requested: str | None, settings: dict[str, Any]) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names; by default that of an interrupted run, if any.

    Args:
        directory: Output folder of the run.
        requested: Value of the option.
        settings: Those of this run, for the default.

    Raises:
        ValueError: If the requested checkpoint is missing or damaged.
    """
    option = f"--resume_from_checkpoint {requested}"
    if requested is None:
        path = find_unfinished(directory, settings)
    elif requested.lower() in ("false", "no"):
        path = None
    elif requested.lower() in ("true", "last"):
        path = find_last(directory)
    elif not Path(requested).is_dir():
        raise ValueError(f"{option}: no such folder; name a checkpoint-N, last, or no")
    elif not Path(requested, MANIFEST).is_file():
        raise ValueError(
            f"{option}: not a checkpoint of vidcap train, since it has no {MANIFEST}; name a checkpoint-N"
        )
    elif (reason := find_damage(Path(requested))) is not None:
        raise ValueError(f"{option}: {reason}; name another checkpoint-N, last, or no")
    else:
        path = Path(requested)
    if path is not None:
        logger.info(f"resuming from {path} (for a new run, add --resume_from_checkpoint no)")
    return path


def mark_finished(directory: str | Path) -> None:
    """Note in every checkpoint that its run is finished."""
    for path in checkpoints(directory):
        if manifest := read_manifest(path):
            _write(path / MANIFEST, {**manifest, "finished": True})


def check_fits(model: torch.nn.Module, folder: str | Path) -> None:
    """Refuse a checkpoint whose weights differ in name or shape."""
    stored: dict[str, list[int]] = {}
    for path in Path(folder).glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    differences = [
        *(f"{name} is missing" for name in shapes if name not in stored and name not in tied),
        *(f"{name} is unknown to the model" for name in stored if name not in shapes),
        *(
            f"{name} has shape {stored[name]}, not {shapes[name]}"
            for name in shapes
            if stored.get(name, shapes[name]) != shapes[name]
        ),
    ]
    if differences:
        raise ValueError(f"{folder} does not fit the model: {differences[0]} ({len(differences)} such weights)")


@contextmanager
def write_whole(
    final: Path, facts: Callable[[], dict[str, Any]], *, writes: bool, barrier: Callable[[], None]
) -> Iterator[Path]:
    """Give a folder for a checkpoint, which appears as `final` once complete.

    Args:
        facts: For the manifest.
        writes: Whether this rank seals the checkpoint.
        barrier: Waits for all ranks.

    Raises:
        OSError: If it cannot be written; then nothing is left of it.
    """
    staged = final.parent / STAGING / final.name
    if writes:
        shutil.rmtree(staged.parent, ignore_errors=True)
    barrier()
    try:
        yield staged
        barrier()
        if writes:
            seal(staged, facts())
            _flush(staged)
            if final.exists():
                remove(final)
            os.replace(staged, final)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staged.parent, ignore_errors=True)
        free = shutil.disk_usage(final.parent).free / 2**20
        last = next((f"; the same command resumes from {path}" for path in checkpoints(final.parent)), "")
        raise OSError(f"cannot write {final}: {error} ({free:.0f} MB are free){last}") from error
    barrier()
    if writes:
        staged.parent.rmdir()


class SaveEvery(TrainerCallback):
    """A callback that has a checkpoint written at least every so many minutes."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.saved = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        elapsed = from_first_rank(time.perf_counter() - self.saved, args.device)
        control.should_save |= elapsed >= self.seconds

    def on_save(self, args, state, control, **kwargs) -> None:
        self.saved = time.perf_counter()


@contextmanager
def explain_refused_pickle(checkpoint: str | Path | None) -> Iterator[None]:
    """Report in one line that `weights_only=True` refused a pickle."""
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"{checkpoint}: its optimizer or random state holds more than tensors and was not loaded; for a new run, "
            "add --resume_from_checkpoint no"
        ) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, path)


def _flush(folder: Path) -> None:
    """Make sure that files are on the disk before their folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
