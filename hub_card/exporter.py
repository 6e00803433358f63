"""A model and its processor -> one folder that loads anywhere, and the proof that it does.

Guarantees: the folder holds everything that the Auto classes and `pipeline` need, including the code, for people
without this package; it is written aside first, so that a failure leaves an earlier export intact; it holds no pickle;
a folder that fails its check is not pushed.
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
from typing import Any, TypedDict, Unpack

from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
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
# The only files that are ever uploaded.
UPLOADED = (
    *("config.json", "generation_config.json", PROCESSOR_NAME, "video_preprocessor_config.json", *WEIGHTS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
    *(f"*{CODE_SUFFIX}", "README.md", "report.json", "report.html", "training_curve.png"),
    *(f"{SAMPLES}/*{suffix}" for suffix in SAMPLE_SUFFIXES),
)


class ExportError(RuntimeError):
    """An exported folder that is incomplete or does not work; the message is the reason."""


class VerifyOptions(TypedDict, total=False):
    """Options of [`verify_export`]."""

    model: VideoCaptionForConditionalGeneration | None
    processor: VideoCaptionProcessor | None
    complete: bool
    trust_remote_code: bool


def export_model(
    model: VideoCaptionForConditionalGeneration,
    processor: VideoCaptionProcessor,
    directory: str | os.PathLike[str],
    *,
    facts: Mapping[str, Any] | None = None,
    samples: Mapping[str, str | os.PathLike[str] | bytes] | None = None,
    max_shard_size: int | str = "50GB",
) -> Path:
    """
    Write a folder from which the model loads anywhere: weights, configuration, processor, tokenizer, code and card.

    Files of an earlier export are replaced; other files, and sample clips that were changed since, stay.

    Args:
        model ([`VideoCaptionForConditionalGeneration`]): the model, on any device.
        processor ([`VideoCaptionProcessor`]): its processor.
        directory (`str` or `os.PathLike`): the folder, created where needed.
        facts (`Mapping`, *optional*): facts for the card, see [`model_card`].
        samples (`Mapping`, *optional*): clips to show (GIF, MP4, WebP), as files or bytes, by their names under
            `samples/`.
        max_shard_size (`int` or `str`, defaults to `"50GB"`): larger weights are split into files of this size.

    Returns:
        `Path`: the folder.

    Raises:
        `ExportError`: if the project's own code cannot be exported, or a sample's name is not a file name.
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
            raise ExportError(f"{sample!r} is not a name for a sample clip; pass name.gif, name.mp4 or name.webp")
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
        # The configuration comes last: without it, no loader takes the folder for a model.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            if path.is_dir():
                (directory / path.name).mkdir(exist_ok=True)
            for file in path.iterdir() if path.is_dir() else (path,):
                os.replace(file, directory / file.relative_to(folder))
    for pattern in (f"*{CODE_SUFFIX}", *WEIGHTS):  # weights in one file would hide those in several
        for path in directory.glob(pattern):
            if path.name not in written | code:
                path.unlink()
    return directory


def _remove_samples(folder: Path) -> None:
    """Remove the unchanged sample clips of an earlier export."""
    sums = folder / CHECKSUMS
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / Path(name).name  # a file of this folder, whatever the line says
        if path.is_file() and sha256_of(path) == digest:
            path.unlink()
    sums.unlink()


def code_files(classes: Iterable[type] = (*PART_CLASSES["model"], *PART_CLASSES["processor"])) -> list[Path]:
    """
    The files of this project that an exported folder carries: those of `classes` and all that they import, by name.

    Raises:
        `ExportError`: if two files have one name, or the name of one does not end in `_vidcap.py`.
    """
    entries = [Path(inspect.getfile(cls)) for cls in classes]
    files = {entry.resolve() for entry in entries}
    for entry in entries:
        files.update(Path(path).resolve() for path in get_relative_import_files(entry))
    by_name: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: path.name):
        if not path.name.endswith(CODE_SUFFIX):
            raise ExportError(f"{path.name} is exported; rename it to end in {CODE_SUFFIX}")
        if path.name in by_name:
            raise ExportError(f"{path} and {by_name[path.name]} would be one file of the export; rename one")
        by_name[path.name] = path
    return list(by_name.values())


def verify_export(
    directory: str | os.PathLike[str],
    *,
    model: VideoCaptionForConditionalGeneration | None = None,
    processor: VideoCaptionProcessor | None = None,
    complete: bool = True,
    trust_remote_code: bool = False,
) -> Path:
    """
    Prove that an exported folder loads without this package.

    A new process, which cannot import the package and is offline, loads the folder with `trust_remote_code=True` in
    every promised way and caption two synthetic clips. Its results must equal those of the model in memory.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        model ([`VideoCaptionForConditionalGeneration`], *optional*): the model in memory. Without model and processor,
            the folder is compared with itself, loaded here with the package.
        processor ([`VideoCaptionProcessor`], *optional*): its processor.
        complete (`bool`, defaults to `True`): refuse a folder that holds a model or a processor alone. Otherwise it is
            checked as far as possible: a model without a processor by its weights and its logits of made-up features.
        trust_remote_code (`bool`, defaults to `False`): run code in the folder that differs from that of this package.

    Returns:
        `Path`: the absolute path of the folder.

    Raises:
        `ExportError`: if it does not load or gives other results; the message names them.
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
        actual = json.loads(result.read_text(encoding="utf-8"))
    if actual["missing"]:
        raise ExportError(f"{directory}: the weights do not fit the model: {', '.join(actual['missing'][:5])}")
    if model is None and processor is None:
        with _no_progress_bars():
            expected, origin = probe(str(directory), trust_remote_code=False, parts=parts), "with it"
    else:
        with _without_autocast(model):
            expected, origin = measure(model, processor), "in memory"
    for key in ("classes", "tokens", "captions"):
        if key in expected and actual.get(key) != expected[key]:
            raise ExportError(f"{directory}: {key} without this package {actual.get(key)}, {origin} {expected[key]}")
    # Rounding differs between devices, and in 16 bits.
    tolerance = 1e-3 if model is None or model.dtype.itemsize > 2 else 5e-2
    for key in ("pixels", "logits"):
        pairs = list(zip(actual.get(key, []), expected.get(key, []), strict=True))
        if not all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in pairs):
            gap = max(abs(a - b) for a, b in pairs)
            raise ExportError(f"{directory}: {key} without this package differ by up to {gap:g} from those {origin}")
    return directory


def push_to_hub(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit: Mapping[str, Any] | None = None,
    force: bool = False,
    **verification: Unpack[VerifyOptions],
) -> str:
    """
    Upload an exported folder that passes [`verify_export`] as one commit.

    Checkpoints, pickles and other files that no model needs stay behind. The snippets of a card that was written
    before the model had a name get `repo_id`.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        private, token, commit, force: see [`upload_model`].
        **verification: options of [`verify_export`].

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if the folder is not an exported one, or fails the check.
        `ValueError`, `PushError`: see [`upload_model`].
    """
    directory = verify_export(directory, **verification)
    card = directory / "README.md"
    # The folder itself stays as it is.
    named = {card.name: name_card(card.read_bytes(), repo_id)} if card.is_file() else {}
    access: Any = {"private": private, "token": token, "commit": commit, "force": force}
    return upload_model(directory, repo_id, UPLOADED, contents=named, **access)


@contextmanager
def _without_autocast(model: VideoCaptionForConditionalGeneration | None) -> Iterator[None]:
    """Undo the autocast of accelerate, which lasts after a training but is not saved with the model."""
    attributes = {} if model is None else vars(model)
    wrapped, original = attributes.get("forward"), attributes.get("_original_forward")
    if original is None:
        yield
        return
    attributes["forward"] = original
    try:
        yield
    finally:
        attributes["forward"] = wrapped


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide progress bars, so that a failure stays one line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _exported(directory: str | os.PathLike[str], *, complete: bool = True) -> Path:
    """The absolute path of an exported folder whose files are complete, intact and its own; otherwise ExportError."""
    directory = Path(directory).resolve()
    missing = [] if complete or (directory / PROCESSOR_NAME).is_file() else [CONFIG_NAME]
    if complete or (directory / CONFIG_NAME).is_file():
        missing = [CONFIG_NAME, *([PROCESSOR_NAME] if complete else []), *_weights(directory)]
    if complete:
        missing.append(TOKENIZER_CONFIG_FILE)
    missing = [name for name in missing if not (directory / name).is_file()]
    if missing:
        raise ExportError(f"{directory} is not an exported folder: it has no {', '.join(missing)}; run export_model")
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):  # compares the header with the size
                pass
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path} is damaged ({error}); run export_model again") from error
    try:
        check_checksums(directory)
    except ValueError as error:
        raise ExportError(str(error)) from error
    for name in (CONFIG_NAME, PROCESSOR_NAME, TOKENIZER_CONFIG_FILE):
        for reference in _references(directory / name):
            module, _, _ = reference.partition(".")
            if not module.endswith(CODE_SUFFIX.removesuffix(".py")) or not (directory / f"{module}.py").is_file():
                raise ExportError(
                    f"{directory / name} names {reference}, which is foreign code; run export_model again"
                )
    return directory


def _weights(directory: Path) -> list[str]:
    """The weight files of a folder."""
    index = directory / SAFE_WEIGHTS_INDEX_NAME
    if (directory / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        return [SAFE_WEIGHTS_NAME]
    try:
        check_weight_names(directory)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))


def _references(path: Path) -> list[str]:
    """Every class that a configuration refers to, as `module.Class`."""
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_bytes())
        objects = [value for value in (content, *content.values()) if isinstance(value, dict)]
    except (ValueError, AttributeError) as error:
        raise ExportError(f"{path} is damaged: not a JSON object; run export_model again") from error
    references: list[Any] = []
    for part in objects:
        for value in (part.get("auto_map") or {}).values():
            references += value if isinstance(value, list) else [value]
        references += [task["impl"] for task in (part.get("custom_pipelines") or {}).values()]
    return [str(reference) for reference in references if reference is not None]


def _check_code(directory: Path, parts: list[str]) -> None:
    """Raise ExportError if a folder's code is not that of this package."""
    package_code = {path.name: path for path in code_files()}
    needed = {path.name for part in parts for path in code_files(PART_CLASSES[part])}
    for name in sorted(needed | {path.name for path in directory.glob(f"*{CODE_SUFFIX}")}):
        path = directory / name
        if not path.is_file() or name not in package_code or package_code[name].read_bytes() != path.read_bytes():
            raise ExportError(
                f"{path} is not the code of this version of vidcap; run export_model again, or pass "
                "trust_remote_code=True to run it"
            )


def backbone_name(config: VideoCaptionConfig) -> str:
    """The name of the backbone according to a configuration: its type, and its name in timm."""
    backbone = config.backbone_config
    if backbone is None:
        return {"cnn": "small_cnn", "s3d": "S3D"}[config.own_backbone]
    assert not isinstance(backbone, dict)
    options = backbone.to_dict()  # one of these holds the name of a timm model
    return f"{backbone.model_type} {options.get('backbone') or options.get('architecture') or ''}".strip()


def known_facts(model: VideoCaptionForConditionalGeneration) -> dict[str, Any]:
    """Facts for the card from the model itself."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_frames": model.config.num_frames,
        "backbone": backbone_name(model.config),
    }
