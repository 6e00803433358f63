"""A model folder or Hub id -> a captioner ready to run, or one clear sentence on why not.

A path never becomes a request to the Hub, and weights that do not fill the model are refused: a captioner with random
layers still writes fluent sentences.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig

from modeling_vidcap.saving_vidcap import check_weight_names

MODEL_TYPE = "vidcap"


class ModelError(ValueError):
    """A model that cannot be used, said in one line."""


def is_path(name: str) -> bool:
    """Whether `name` means a folder of this machine rather than a Hub id `user/name`."""
    user, slash, model = name.partition("/")
    return name.startswith((".", "~")) or "\\" in name or "/" in model or not (user and model) or os.path.isdir(user)


def load_captioner(name: str | os.PathLike[str], *, device: str = "auto") -> tuple[Any, Any]:
    """Loads a trained model and its processor.

    Args:
        name: A model folder, or a Hub id `user/name`; only an id touches the network.
        device: `"cpu"`, `"cuda"`, or `"auto"`: the GPU if there is one.

    Returns:
        The model in evaluation mode, on `device`, and its processor.

    Raises:
        ModelError: If it is missing, incomplete, damaged or of another type, or the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ModelError("no CUDA device is usable; choose --device cpu")
    name = os.fspath(name)
    if is_path(name) or os.path.isdir(name):
        _check_folder(Path(name))
    config = _load("configuration", name, AutoConfig.from_pretrained)
    _check_type(name, config)
    processor = _load("processor", name, AutoProcessor.from_pretrained)
    model, info = _load("weights", name, AutoModel.from_pretrained, config=config, output_loading_info=True)
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"{name}: the weights do not fill the model; missing are {wrong[0]} and {len(wrong) - 1} more"
        )
    return model.eval().to(device), processor


def _check_folder(folder: Path) -> None:
    """What from_pretrained would report at length, or as a Hub id it could not find."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give the output folder of a training run, or a Hub id user/name")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: no config.json, so this is no model; give the output folder of a training run")
    try:
        model_type = json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config}: damaged, it is not a JSON object") from error
    if model_type != MODEL_TYPE:
        raise ModelError(f"{folder}: a model of type {model_type!r}; one of type {MODEL_TYPE!r} is needed")
    for file in ("processor_config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: no {file}; save the processor there too, by processor.save_pretrained")
    try:
        check_weight_names(folder)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise ModelError(f"{folder}: {pickles[0]} is a pickle, which is not loaded; save it as safetensors")
        raise ModelError(f"{folder}: no model.safetensors; did training end before its first checkpoint?")


def _check_type(name: str, config: PreTrainedConfig) -> None:
    if config.model_type != MODEL_TYPE:
        raise ModelError(f"{name}: a model of type {config.model_type!r}; one of type {MODEL_TYPE!r} is needed")


def _load(part: str, name: str, from_pretrained: Any, **kwargs: Any) -> Any:
    try:
        return from_pretrained(name, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ModelError(f"{name}: its {part} cannot be loaded: {reason}") from error
