"""Checkpoints that are whole or absent, and the search for the one to go on from.

A checkpoint is written beside the others under a name that nobody looks for, gets a list of its files with their
hashes, and appears by rename. So a kill or a full disk leaves the checkpoints that were there; what was damaged later
is noticed by its hash and passed over, saying so. Nothing is pickled but optimizer and random states, which the
Trainer reads with `weights_only=True`.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerCallback

from modeling_vidcap.saving_vidcap import sha256_of

from ..ranks import from_first_rank
from .sharded_weights import ShardedWeightsMixin

logger = logging.getLogger(__name__)
MANIFEST = "checkpoint.json"  # the last file of a checkpoint to be written
STAGING, LEAVING = ".checkpoint-being-written", ".checkpoint-being-removed"
NAME = re.compile(r"checkpoint-(\d+)")
# Arguments that make no difference to the weights.
INDIFFERENT = re.compile(
    "output_dir|resume_from_checkpoint|decoding_workers|disable_tqdm|bf16|mixed_precision|run_name|"
    "(feature_cache|hub|push|report|log|save|dataloader|trackio|ddp|torch_compile|local_rank).*"
)


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest: the hash of every file, and `facts`."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    _write(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What [`seal`] wrote; empty where there is none."""
    path = Path(folder, MANIFEST)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def damage(folder: Path) -> str | None:
    """Why no run can go on from a checkpoint, if anything."""
    if read_manifest(folder).get("model_alone"):
        return "it holds the model alone (--save_only_model), from which no run can go on"
    try:
        files = read_manifest(folder)["files"]
        return next(
            (f"{name} is damaged" for name, digest in files.items() if sha256_of(folder / name) != digest), None
        )
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def checkpoints(directory: str | Path) -> list[Path]:
    """All of them, the newest first."""
    found = [path for path in Path(directory).glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (read_manifest(path).get("written", 0), path.stat().st_mtime), reverse=True)


def rotate(directory: str | Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints beyond `limit`, but neither the newest nor the best."""
    if not limit:
        return
    newest, *others = checkpoints(directory)
    kept = None if best is None else Path(best).resolve()  # it may be written in another way
    spared = [path for path in others if path.resolve() == kept]
    removable = [path for path in others if path.resolve() != kept]
    for path in removable[max(0, limit - 1 - len(spared)) :]:
        remove(path)


def remove(folder: Path) -> None:
    """Takes a checkpoint's name away first, so that no half of it can be taken for the whole."""
    leaving = folder.with_name(LEAVING)
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(folder, leaving)
    shutil.rmtree(leaving)


def find_unfinished(directory: str | Path, settings: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint of a run with these settings that has not come to its end.

    Damaged ones are passed over with a warning. If the newest that is whole is of a finished run, or of one with other
    settings (which is warned of), there is none to go on from, whatever lies behind it.
    """
    for path in checkpoints(directory):
        if (reason := damage(path)) is not None:
            logger.warning(f"{path} is passed over: {reason}")
            continue
        manifest = read_manifest(path)
        if manifest.get("finished"):
            return None
        before = manifest.get("settings", {})
        if differing := sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name)):
            name = differing[0]
            logger.warning(
                f"{path} is not gone on from: it is of a run with another {name} ({before.get(name)}, now "
                f"{settings.get(name)}); --resume_from_checkpoint {path} would"
            )
            return None
        return path
    return None


def find_last(directory: str | Path) -> Path:
    """The newest whole checkpoint, whatever its settings.

    Raises:
        ValueError: If there is none.
    """
    for path in checkpoints(directory):
        if (reason := damage(path)) is None:
            return path
        logger.warning(f"{path} is passed over: {reason}")
    raise ValueError(f"{directory}: no whole checkpoint to resume from; leave out --resume_from_checkpoint")


def run_settings(arguments: Any, others: dict[str, Any], captions: Sequence[str]) -> dict[str, Any]:
    """What a run must have in common with a checkpoint to go on from it: the arguments that make a difference to the
    weights (`arguments`, a dataclass, and `others` by name), and the captions."""
    values = {**others, **{each.name: getattr(arguments, each.name) for each in dataclasses.fields(arguments)}}
    simple = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float | str | bool | list | None) and not INDIFFERENT.fullmatch(name)
    }
    return {**simple, "captions": hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]}


def checkpoint_to_resume(directory: str | Path, wanted: str | None, settings: dict[str, Any]) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` asks for; by default that of an interrupted run of the same
    settings, if any.

    Raises:
        ValueError: If what was asked for is not there or damaged.
    """
    if wanted is None:
        found = find_unfinished(directory, settings)
    elif wanted.lower() in ("false", "no"):
        found = None
    elif wanted.lower() in ("true", "last"):
        found = find_last(directory)
    elif not Path(wanted).is_dir():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no such folder; give a checkpoint-N, last, or no")
    elif not Path(wanted, MANIFEST).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint of train_hf.py, it has no {MANIFEST}")
    elif (reason := damage(Path(wanted))) is not None:
        raise ValueError(f"--resume_from_checkpoint {wanted}: {reason}")
    else:
        found = Path(wanted)
    if found is not None:
        logger.info(f"going on from {found} (--resume_from_checkpoint no begins anew)")
    return found


def mark_finished(directory: str | Path) -> None:
    """Notes in every checkpoint that its run came to its end, so that the same command begins a new one."""
    for path in checkpoints(directory):
        if manifest := read_manifest(path):
            _write(path / MANIFEST, {**manifest, "finished": True})


def check_fits(model: torch.nn.Module, folder: str | Path) -> None:
    """Raises a `ValueError` that names what the model has and the checkpoint's weights lack, or the reverse."""
    stored: dict[str, list[int]] = {}
    for path in Path(folder).glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    wrong = [
        *(f"{name} is missing" for name in own if name not in stored and name not in tied),
        *(f"{name} is unknown to the model" for name in stored if name not in own),
        *(
            f"{name} has shape {stored[name]}, not {own[name]}"
            for name in own
            if stored.get(name, own[name]) != own[name]
        ),
    ]
    if wrong:
        raise ValueError(f"{folder} does not fit the model: {wrong[0]} ({len(wrong)} such weights)")


class SaveEvery(TrainerCallback):
    """Has a checkpoint written at least every so many minutes, whatever else asks for one."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.saved = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        elapsed = from_first_rank(time.perf_counter() - self.saved, args.device)
        control.should_save |= elapsed >= self.seconds

    def on_save(self, args, state, control, **kwargs) -> None:
        self.saved = time.perf_counter()


class SafeCheckpointsMixin(ShardedWeightsMixin):
    """Writes checkpoints as described above; to be named ahead of a `Trainer`.

    `settings` is what a run must have in common with a checkpoint to go on from it unasked.
    """

    settings: dict[str, Any]
    _staging = False

    def manifest(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {"settings": self.settings, "step": self.state.global_step, "written": time.time()}

    def _get_output_dir(self, trial: Any) -> str:
        directory = super()._get_output_dir(trial)
        return os.path.join(directory, STAGING) if self._staging else directory

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staged, final = directory / STAGING / name, directory / name
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
            best = self.state.best_model_checkpoint
            if best is not None and Path(best) == staged:  # as strings "./x" and "x" would differ
                self.state.best_model_checkpoint = str(final)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))  # now that the name is the final one
                seal(staged, self.manifest())
                _flush(staged)
                if final.exists():
                    remove(final)
                os.replace(staged, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(staged.parent, ignore_errors=True)
            free = shutil.disk_usage(directory).free / 2**20
            last = next((f"; the same command goes on from {path}" for path in checkpoints(directory)), "")
            raise OSError(f"{final} could not be written: {error} ({free:.0f} MB are free){last}") from error
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            staged.parent.rmdir()
            rotate(directory, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: what goes to the Hub is the finished model, checked, and none of the pickles beside it."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        # The Trainer's own would write some backbones' weights under the names of their first release, which it does
        # not read when it resumes, and its arguments as a pickle.
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model) if state_dict is None else self._whole(state_dict)
        assert isinstance(model, PreTrainedModel) and folder is not None
        model.save_pretrained(folder, save_original_format=False)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            check_fits(self.model if model is None else model, resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with explain_refused_pickle(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_refused_pickle(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def explain_refused_pickle(checkpoint: str | None) -> Iterator[None]:
    """Says in one line that a pickle was refused, by `weights_only=True`, before anything in it ran."""
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"{checkpoint}: its optimizer or random state holds more than tensors and was not loaded; "
            "--resume_from_checkpoint no begins anew"
        ) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, path)


def _flush(folder: Path) -> None:
    """Makes sure that files are on the disk before their folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
