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
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_vidcap import VideoCaptionConfig
from modeling_vidcap.saving_vidcap import check_weight_names
from processing.support.trusted import ForeignCodeError, load_pretrained

from ..adapters import FAMILIES, CaptionAdapter, UnsupportedModelError, family_of


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
    device = _find_device(device)
    name = os.fspath(name)
    if is_path(name) or os.path.isdir(name):
        _check_folder(Path(name))
    config = _load("configuration", name, AutoConfig.from_pretrained)
    _check_type(name, config.model_type)
    processor = _load("processor", name, AutoProcessor.from_pretrained)
    return _load_model(name, AutoModel, config=config).to(device), processor


def load_any_captioner(name: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """Loads a captioner of any family.

    Args:
        name: A model folder, or a Hub id `user/name`; only an id touches the network.
        device: As for [`load_captioner`].
        dtype: Precision of another family's weights, such as `"bfloat16"`; `"auto"` is that of the checkpoint.

    Returns:
        A model of this package and its processor, or a [`CaptionAdapter`] in the place of both.

    Raises:
        ModelError: As by [`load_captioner`], or if there is no adapter for its type.
    """
    name = os.fspath(name)
    if is_path(name) or os.path.isdir(name):
        model_type = _read_type(Path(name))
    else:
        model_type = _load("configuration", name, AutoConfig.from_pretrained).model_type
    if model_type == VideoCaptionConfig.model_type:
        if dtype != "auto":
            raise ModelError(f"--dtype {dtype} is for models of other families: leave it out")
        return load_captioner(name, device=device)
    try:
        family = family_of(model_type, name)
    except UnsupportedModelError as error:
        raise ModelError(str(error)) from error
    device = _find_device(device)
    try:
        processor = _load("processor", name, family.load_processor)
        model = _load_model(name, family.auto_class, dtype=dtype, use_safetensors=True)
        adapter: CaptionAdapter = family(model.to(device), processor)
    except ModelError:
        raise
    except ValueError as error:  # an adapter's, which names model and reason
        raise ModelError(str(error)) from error
    return adapter, adapter


def _find_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("no CUDA device is usable; choose --device cpu")
    return device


def _load_model(name: str, auto_class: Any, **kwargs: Any) -> Any:
    model, info = _load("weights", name, auto_class.from_pretrained, output_loading_info=True, **kwargs)
    if model.config.model_type == VideoCaptionConfig.model_type and info["unexpected_keys"]:
        unknown = sorted(info["unexpected_keys"])
        raise ModelError(
            f"{name}: the model has no place for {len(unknown)} of the tensors, such as {unknown[0]}: its weights are "
            "those of another config.json"
        )
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"{name}: the weights do not fill the model; missing are {wrong[0]} and {len(wrong) - 1} more"
        )
    return model.eval()


def _read_type(folder: Path) -> str | None:
    """The model's type, and what from_pretrained would report at length, or as a Hub id it could not find."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give the output folder of a training run, or a Hub id user/name")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: no config.json, so this is no model; give the output folder of a training run")
    try:
        return json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config}: damaged, it is not a JSON object") from error


def _check_folder(folder: Path) -> None:
    """Whether a folder holds all of a model of this package."""
    _check_type(str(folder), _read_type(folder))
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


def _check_type(name: str, model_type: str | None) -> None:
    if model_type != VideoCaptionConfig.model_type:
        only = "; this one can caption and be evaluated only" if model_type in FAMILIES else ""
        raise ModelError(
            f"{name} is a model of type {model_type}: pass one of type vidcap, as `vidcap train` makes it{only}"
        )


def check_compares(model: Any, name: str) -> None:
    """Raises a `ModelError` if a captioner has no common space of clips and texts."""
    if model.config.contrastive_weight == 0:
        raise ModelError(
            f"{name} was trained with --contrastive_weight 0, so it cannot compare clips and texts; train with a "
            "weight above 0"
        )


def _load(part: str, name: str, from_pretrained: Any, **kwargs: Any) -> Any:
    try:
        return load_pretrained(from_pretrained, name, **kwargs)
    except ForeignCodeError as error:
        raise ModelError(str(error)) from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].removeprefix(f"{name}: ")
        raise ModelError(f"{name}: its {part} cannot be loaded: {reason}") from error
