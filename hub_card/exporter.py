"""A model and its processor -> one folder that loads anywhere, and the proof that it does.

Promises: the folder holds everything that the Auto classes and `pipeline` need, the code included, for people who do
not have this package; it is written aside first, so that a failure leaves an earlier export as it was; nothing in it
is a pickle; what does not verify is not pushed. The parts write themselves (`save_pretrained`): here they are put
together, with the card.
"""

import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
from modeling_vidcap.saving_vidcap import CHECKSUMS, check_checksums, check_weight_names, sha256_of, write_checksums
from processing import VideoCaptionProcessor

from . import probe as probe_module
from .card import model_card, name_card
from .probe import PARTS, measure, probe
from .upload import upload_model

PART_CLASSES = {
    "model": (VideoCaptionForConditionalGeneration, VideoCaptioningPipeline),
    "processor": (VideoCaptionProcessor,),
}
CODE_SUFFIX = "_vidcap.py"
SAMPLES = "samples"  # the folder of sample clips
SAMPLE_SUFFIXES = (".gif", ".mp4", ".webp")
WEIGHTS = ("model.safetensors", "model-*.safetensors", SAFE_WEIGHTS_INDEX_NAME, CHECKSUMS)
# All that is ever uploaded; whatever else lies in a folder stays there.
UPLOADED = (
    *("config.json", "generation_config.json", PROCESSOR_NAME, "video_preprocessor_config.json", *WEIGHTS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
    *(f"*{CODE_SUFFIX}", "README.md", "report.json", "report.html", "training_curve.png"),
    *(f"{SAMPLES}/*{suffix}" for suffix in SAMPLE_SUFFIXES),
)


class ExportError(RuntimeError):
    """An exported folder that does not do what it should; the message is the reason."""


def export_model(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    directory: str | os.PathLike[str],
    *,
    facts: Mapping[str, Any] | None = None,
    samples: Mapping[str, str | os.PathLike[str] | bytes] | None = None,
    max_shard_size: int | str = "50GB",
) -> Path:
    """
    Writes a folder from which the model loads anywhere: weights, configuration, processor, tokenizer, code and card.

    Other files in the folder stay; files of an earlier export are replaced, sample clips that were changed since stay.

    Args:
        model ([`VideoCaptionForConditionalGeneration`]): the model, on any device.
        processor ([`VideoCaptionProcessor`]): its processor.
        directory (`str` or `os.PathLike`): the folder, created where needed.
        facts (`Mapping`, *optional*): what the card may tell, see [`model_card`].
        samples (`Mapping`, *optional*): clips to show (GIF, MP4, WebP), files or their bytes, by the names that they
            get under `samples/`.
        max_shard_size (`int` or `str`, defaults to `"50GB"`): larger weights are split into files of this size.

    Returns:
        `Path`: the folder.

    Raises:
        `ExportError`: if the project's own code cannot be exported, or a sample's name is none of a file.
        `OSError`: if the folder cannot be written.

    Example:

    ```python
    >>> export_model(model, processor, "my-captioner")
    >>> verify_export("my-captioner", model=model, processor=processor)
    >>> push_to_hub("my-captioner", "me/my-captioner")
    ```
    """
    for sample in samples or {}:
        if Path(sample).suffix not in SAMPLE_SUFFIXES or Path(sample).name != sample:
            raise ExportError(f"{sample!r} is no name for a sample clip: name.gif, name.mp4 or name.webp is one")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    code = {path.name for path in code_files()}
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as name:
        folder = Path(name)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        known = {"name": directory.resolve().name, **known_facts(model)}
        (folder / "README.md").write_text(model_card({**known, **(facts or {})}), encoding="utf-8")
        for sample, content in (samples or {}).items():
            (folder / SAMPLES).mkdir(exist_ok=True)
            if isinstance(content, bytes):
                (folder / SAMPLES / sample).write_bytes(content)
            else:
                shutil.copyfile(content, folder / SAMPLES / sample)
        if samples:
            write_checksums(folder / SAMPLES, "*.*")
        written = {path.name for path in folder.iterdir()}
        _remove_samples(directory / SAMPLES)
        # The configuration comes last: without it, nothing takes the folder for a model.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            if path.is_dir():
                (directory / path.name).mkdir(exist_ok=True)
            for each in path.iterdir() if path.is_dir() else (path,):
                os.replace(each, directory / each.relative_to(folder))
    for pattern in (f"*{CODE_SUFFIX}", *WEIGHTS):  # weights in one file would hide those in several
        for path in directory.glob(pattern):
            if path.name not in written | code:
                path.unlink()
    return directory


def _remove_samples(folder: Path) -> None:
    """Removes the sample clips that an earlier export wrote, and that are still what it wrote."""
    sums = folder / CHECKSUMS
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / Path(name).name  # whatever the line says, a file of this folder
        if path.is_file() and sha256_of(path) == digest:
            path.unlink()
    sums.unlink()


def code_files(classes: Iterable[type] = (*PART_CLASSES["model"], *PART_CLASSES["processor"])) -> list[Path]:
    """
    The files of this project that an exported folder carries.

    Args:
        classes (`Iterable[type]`): the classes that it is to hold; by default all.

    Returns:
        `list[Path]`: the files of the public classes and all that they import, in the order of their names.

    Raises:
        `ExportError`: if two files have one name, or the name of one does not end in `_vidcap.py`.
    """
    entries = [Path(inspect.getfile(each)) for each in classes]
    files = {entry.resolve() for entry in entries}
    for entry in entries:
        files.update(Path(path).resolve() for path in get_relative_import_files(entry))
    by_name: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: path.name):
        if not path.name.endswith(CODE_SUFFIX):
            raise ExportError(f"{path.name} is exported: its name has to end in {CODE_SUFFIX}")
        if path.name in by_name:
            raise ExportError(f"{path} and {by_name[path.name]} have one name: exported files lie in one folder")
        by_name[path.name] = path
    return list(by_name.values())


def verify_export(
    directory: str | os.PathLike[str],
    *,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    complete: bool = True,
    trust_remote_code: bool = False,
) -> Path:
    """
    Proves that an exported folder loads without this package: a new process, which cannot import it and is offline,
    loads the folder with `trust_remote_code=True` in every promised way and captions two synthetic clips. What it
    gives has to be what the model in memory gives.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        model ([`VideoCaptionForConditionalGeneration`], *optional*): the model in memory; by default, and so the
            processor, what the folder gives where it is loaded here, with the package.
        processor ([`VideoCaptionProcessor`], *optional*): its processor.
        complete (`bool`, defaults to `True`): refuse a folder that holds a model or a processor alone. Otherwise, it
            is checked as far as it goes: of a model without a processor, weights and logits of made-up features.
        trust_remote_code (`bool`, defaults to `False`): run code in the folder that is not that of this package.

    Returns:
        `Path`: the absolute path of the folder.

    Raises:
        `ExportError`: if it does not load or gives something else; the message tells what.
    """
    directory = _exported(directory, complete=complete)
    parts = [
        part for part, name in zip(PARTS, (CONFIG_NAME, PROCESSOR_NAME), strict=True) if (directory / name).is_file()
    ]
    if not trust_remote_code:
        _check_code(directory, parts)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result.json")
        script = str(Path(probe_module.__file__).resolve())
        run = subprocess.run(
            [sys.executable, "-I", script, str(directory), str(result), *parts],
            cwd=scratch,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(scratch, "modules"))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            reason = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
            raise ExportError(f"{directory} does not load without this package: {reason[0]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if found["missing"]:
        raise ExportError(f"{directory}: the weights do not fit the model: {', '.join(found['missing'][:5])}")
    if model is None and processor is None:
        with _no_progress_bars():
            expected, there = probe(str(directory), trust_remote_code=False, parts=parts), "with it"
    else:
        with _without_autocast(model):
            expected, there = measure(model, processor), "in memory"
    for key in ("classes", "tokens", "captions"):
        if key in expected and found.get(key) != expected[key]:
            raise ExportError(f"{directory}: {key} without this package {found.get(key)}, {there} {expected[key]}")
    # Other devices, and 16 bits, round otherwise.
    loose = 1e-3 if model is None or model.dtype.itemsize > 2 else 5e-2
    for key in ("pixels", "logits"):
        pairs = list(zip(found.get(key, []), expected.get(key, []), strict=True))
        if not all(math.isclose(a, b, rel_tol=loose, abs_tol=loose) for a, b in pairs):
            gap = max(abs(a - b) for a, b in pairs)
            raise ExportError(f"{directory}: {key} without this package differ by up to {gap:g} from those {there}")
    return directory


def push_to_hub(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit: Mapping[str, Any] | None = None,
    force: bool = False,
    **verification: Any,
) -> str:
    """
    Uploads an exported folder as one commit once it has passed [`verify_export`]; checkpoints, pickles and whatever
    else no model needs stay behind. The snippets of a card that was written before the model had a name get `repo_id`.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        private, token, commit, force: see [`upload_model`].
        **verification: options of [`verify_export`].

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if the folder is not an exported one, or does not pass.
        `ValueError`, `PushError`: see [`upload_model`].
    """
    directory = verify_export(directory, **verification)
    card = directory / "README.md"
    # Its snippets get the name that the model has from here on; the folder stays as it is.
    named = {card.name: name_card(card.read_bytes(), repo_id)} if card.is_file() else {}
    access: Any = {"private": private, "token": token, "commit": commit, "force": force}
    return upload_model(directory, repo_id, UPLOADED, contents=named, **access)


@contextmanager
def _without_autocast(model: PreTrainedModel | None) -> Iterator[None]:
    """accelerate has a model that was trained with autocast go on rounding to 16 bits, which a saved one does not."""
    own = {} if model is None else vars(model)
    wrapped, original = own.get("forward"), own.get("_original_forward")
    if original is None:
        yield
        return
    own["forward"] = original
    try:
        yield
    finally:
        own["forward"] = wrapped


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """So that a failure stays one line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _exported(directory: str | os.PathLike[str], *, complete: bool = True) -> Path:
    """The absolute path of an exported folder that holds what it names and names nothing else, or ExportError."""
    directory = Path(directory).resolve()
    missing = [] if complete or (directory / PROCESSOR_NAME).is_file() else [CONFIG_NAME]
    if complete or (directory / CONFIG_NAME).is_file():
        missing = [CONFIG_NAME, *([PROCESSOR_NAME] if complete else []), *_weights(directory)]
    if complete:
        missing.append(TOKENIZER_CONFIG_FILE)
    missing = [name for name in missing if not (directory / name).is_file()]
    if missing:
        raise ExportError(f"{directory} is not an exported folder, it has no {', '.join(missing)}: run export_model")
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):  # which compares what the header says with the size
                pass
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path} is damaged ({error}): run export_model again") from error
    try:
        check_checksums(directory)
    except ValueError as error:
        raise ExportError(str(error)) from error
    for name in (CONFIG_NAME, PROCESSOR_NAME, TOKENIZER_CONFIG_FILE):
        for reference in _references(directory / name):
            module, _, _ = reference.partition(".")
            if not module.endswith(CODE_SUFFIX.removesuffix(".py")) or not (directory / f"{module}.py").is_file():
                raise ExportError(
                    f"{directory / name} names {reference}, which is foreign code: run export_model again"
                )
    return directory


def _weights(directory: Path) -> list[str]:
    """The weight files that a folder needs."""
    index = directory / SAFE_WEIGHTS_INDEX_NAME
    if (directory / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        return [SAFE_WEIGHTS_NAME]
    try:
        check_weight_names(directory)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))


def _references(path: Path) -> list[str]:
    """Every class that a configuration leads to, `module.Class`, wherever in it."""
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_bytes())
        nested = [each for each in (content, *content.values()) if isinstance(each, dict)]
    except (ValueError, AttributeError) as error:
        raise ExportError(f"{path}: damaged, it is not a JSON object") from error
    found: list[Any] = []
    for each in nested:
        for value in (each.get("auto_map") or {}).values():
            found += value if isinstance(value, list) else [value]
        found += [task["impl"] for task in (each.get("custom_pipelines") or {}).values()]
    return [str(each) for each in found if each is not None]


def _check_code(directory: Path, parts: list[str]) -> None:
    """Raises ExportError if a folder's code is not that of this package, and so is not to be run unasked."""
    own = {path.name: path for path in code_files()}
    needed = {path.name for part in parts for path in code_files(PART_CLASSES[part])}
    for name in sorted(needed | {path.name for path in directory.glob(f"*{CODE_SUFFIX}")}):
        path = directory / name
        if not path.is_file() or name not in own or own[name].read_bytes() != path.read_bytes():
            raise ExportError(
                f"{path} is not the code of this version of vidcap: run export_model again, or pass "
                "trust_remote_code=True to have it run"
            )


def backbone_name(config: Any) -> str:
    """What the backbone is called, as far as a configuration tells: its type, and which one of timm."""
    backbone = config.backbone_config
    if backbone is None:
        return {"cnn": "small_cnn", "s3d": "S3D"}[config.own_backbone]
    options = backbone.to_dict()  # a model of timm has its name in one of these
    return f"{backbone.model_type} {options.get('backbone') or options.get('architecture') or ''}".strip()


def known_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Facts for the card that the model itself knows."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_frames": model.config.num_frames,
        "backbone": backbone_name(model.config),
    }
