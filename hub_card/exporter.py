"""A model and its processor -> one folder that loads anywhere, and its upload.

Promises: the folder holds everything that the Auto classes and `pipeline` need, the code included, for people who do
not have this package; it is written aside first, so that a failure leaves an earlier export as it was; nothing in it
is a pickle. The code is found by following the imports of the public classes: a new file comes along by itself.

Given up: shards (weights up to 50 GB lie in one file), and the history of a repository.
"""

import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from modeling_vidcap import (
    TASK,
    VideoCaptionConfig,
    VideoCaptionForConditionalGeneration,
    VideoCaptioningPipeline,
)
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor

from . import probe as probe_module
from .card import model_card
from .probe import probe

AUTO_CLASSES: dict[str, type] = {
    "AutoConfig": VideoCaptionConfig,
    "AutoModel": VideoCaptionForConditionalGeneration,
    "AutoProcessor": VideoCaptionProcessor,
    "AutoVideoProcessor": VideoCaptionVideoProcessor,
}
CODE_SUFFIX = "_vidcap.py"
UPLOADED = ("*.safetensors", "*.json", "*.py", "*.md", "*.html", "*.png", "*.txt", "*.model", "*.jinja")


class ExportError(RuntimeError):
    """An exported folder that does not do what it should; the message is the reason."""


def export_model(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    directory: str | os.PathLike[str],
    *,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """
    Writes a folder from which the model loads anywhere: weights, configuration, processor, tokenizer, code and card.

    Other files in the folder stay; files of an earlier export are replaced.

    Args:
        model ([`VideoCaptionForConditionalGeneration`]): the model, on any device.
        processor ([`VideoCaptionProcessor`]): its processor.
        directory (`str` or `os.PathLike`): the folder, created where needed.
        facts (`Mapping`, *optional*): what the card may tell, see [`model_card`].

    Returns:
        `Path`: the folder.

    Raises:
        `ExportError`: if the project's own code cannot be exported.
        `OSError`: if the folder cannot be written.

    Example:

    ```python
    >>> export_model(model, processor, "my-captioner")
    >>> verify_export("my-captioner")
    >>> push_to_hub("my-captioner", "me/my-captioner")
    ```
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    code = code_files()
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as name:
        folder = Path(name)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        _add_code_references(folder)
        _forget_loading(folder / TOKENIZER_CONFIG_FILE)
        for path in code:
            shutil.copyfile(path, folder / path.name)
        (folder / "README.md").write_text(model_card({**_known(model), **(facts or {})}), encoding="utf-8")
        # The configuration comes last: without it, nothing takes the folder for a model.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            os.replace(path, directory / path.name)
    for path in directory.glob(f"*{CODE_SUFFIX}"):
        if path.name not in {each.name for each in code}:
            path.unlink()
    return directory


def code_files() -> list[Path]:
    """
    The files of this project that an exported folder carries.

    Returns:
        `list[Path]`: the files of the public classes and all that they import, in the order of their names.

    Raises:
        `ExportError`: if two files have one name, or the name of one does not end in `_vidcap.py`.
    """
    entries = [Path(inspect.getfile(each)) for each in (*AUTO_CLASSES.values(), VideoCaptioningPipeline)]
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


def verify_export(directory: str | os.PathLike[str]) -> None:
    """
    Proves that an exported folder loads without this package: a new process, which cannot import it and is offline,
    loads the folder with `trust_remote_code=True` in every promised way and captions two synthetic clips. The same
    folder, loaded here with the package, has to give the same captions and the same logits.

    Args:
        directory (`str` or `os.PathLike`): the folder.

    Raises:
        `ExportError`: if it does not load or gives something else; the message tells what.
    """
    directory = _exported(directory)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result.json")
        run = subprocess.run(
            [sys.executable, "-I", str(Path(probe_module.__file__).resolve()), str(directory), str(result)],
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
    expected = probe(str(directory), trust_remote_code=False)
    if found["missing"]:
        raise ExportError(f"{directory}: the weights do not fit the model: {', '.join(found['missing'][:5])}")
    for key in ("classes", "captions"):
        if found[key] != expected[key]:
            raise ExportError(f"{directory}: {key} without this package {found[key]}, with it {expected[key]}")
    pairs = list(zip(found["logits"], expected["logits"], strict=True))
    if not all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3) for a, b in pairs):
        gap = max(abs(a - b) for a, b in pairs)
        raise ExportError(f"{directory}: without this package the model's logits differ by up to {gap:g}")


def push_to_hub(
    directory: str | os.PathLike[str], repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """
    Uploads an exported folder; checkpoints and pickles that may lie in it stay behind.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        private (`bool`, *optional*): visibility of a new repository; by default what the account's settings say.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if the folder is not an exported one.
        `huggingface_hub.errors.HfHubHTTPError`: if the Hub refuses.
    """
    directory = _exported(directory)
    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=url.repo_id,
        folder_path=directory,
        commit_message="Upload a video captioner",
        allow_patterns=list(UPLOADED),
        ignore_patterns=["checkpoint-*", ".*"],
    )
    return str(url)


def _exported(directory: str | os.PathLike[str]) -> Path:
    """The absolute path of an exported folder, or ExportError."""
    directory = Path(directory).resolve()
    missing = [name for name in (CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_NAME) if not (directory / name).is_file()]
    if missing:
        raise ExportError(f"{directory} is not an exported folder, it has no {', '.join(missing)}: run export_model")
    return directory


def backbone_name(config: Any) -> str:
    """What the backbone is called, as far as a configuration tells: its type, and which one of timm."""
    backbone = config.backbone_config
    if backbone is None:
        return {"cnn": "small_cnn", "s3d": "S3D"}[config.own_backbone]
    options = backbone.to_dict()  # a model of timm has its name in one of these
    return f"{backbone.model_type} {options.get('backbone') or options.get('architecture') or ''}".strip()


def _known(model: PreTrainedModel) -> dict[str, Any]:
    """Facts for the card that the model itself knows."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_frames": model.config.num_frames,
        "backbone": backbone_name(model.config),
    }


def _add_code_references(folder: Path) -> None:
    """Writes into the configurations which class of which file loads them."""
    references = {name: _reference(each) for name, each in AUTO_CLASSES.items()}
    config = _read_json(folder / CONFIG_NAME)
    config["auto_map"] = references
    config["custom_pipelines"] = {
        TASK: {"impl": _reference(VideoCaptioningPipeline), "pt": ["AutoModel"], "type": "multimodal"}
    }
    _write_json(folder / CONFIG_NAME, config)
    processor = _read_json(folder / PROCESSOR_NAME)
    processor["auto_map"] = {"AutoProcessor": references["AutoProcessor"]}
    processor["video_processor"]["auto_map"] = {"AutoVideoProcessor": references["AutoVideoProcessor"]}
    _write_json(folder / PROCESSOR_NAME, processor)


def _forget_loading(path: Path) -> None:
    """A tokenizer that was loaded from a folder writes down how, which is of no use where the export goes."""
    config = _read_json(path)
    _write_json(path, {key: config[key] for key in config if key not in ("is_local", "local_files_only")})


def _reference(each: type) -> str:
    return f"{Path(inspect.getfile(each)).stem}.{each.__name__}"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
