"""A model folder or Hub id -> a captioner, or a one-line error.

Guarantees: a path never becomes a request to the Hub; weights that do not fill the model are refused, since a model
with random layers still writes fluent sentences.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from modeling_vidcap.saving_vidcap import check_weight_names
from processing import VideoCaptionProcessor
from processing.support.trusted import ForeignCodeError, load_pretrained

from ..adapters import FAMILIES, UnsupportedModelError, family_of
from ..captioner import Captioner
from .captioning import ModelCaptioner


class ModelError(ValueError):
    """A model that cannot be used; the message is one line."""


def is_path(name: str) -> bool:
    """Whether `name` is a local folder rather than a Hub id `user/name`."""
    user, slash, model = name.partition("/")
    return name.startswith((".", "~")) or "\\" in name or "/" in model or not (user and model) or os.path.isdir(user)


def load_captioner(
    name: str | os.PathLike[str], *, device: str = "auto"
) -> tuple[VideoCaptionForConditionalGeneration, VideoCaptionProcessor]:
    """Load a trained model and its processor.

    Args:
        name: A model folder, or a Hub id `user/name`; only an id causes requests.
        device: `"cpu"`, `"cuda"`, or `"auto"`: the GPU if there is one.

    Returns:
        The model in evaluation mode, on `device`, and its processor.

    Raises:
        ModelError: If the model is missing, incomplete, damaged or of another type, or there is no such device.
    """
    device = _find_device(device)
    name = os.fspath(name)
    if is_path(name) or os.path.isdir(name):
        _check_folder(Path(name))
    config = _load("configuration", name, AutoConfig.from_pretrained)
    _check_type(name, config.model_type)
    processor = _load("processor", name, AutoProcessor.from_pretrained)
    return _load_model(name, AutoModel, config=config).to(device), processor


def load_any_captioner(name: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto") -> Captioner:
    """Load a captioner of any family.

    Args:
        name: A model folder, or a Hub id `user/name`; only an id causes requests.
        device: As for [`load_captioner`].
        dtype: Precision of another family's weights, such as `"bfloat16"`; `"auto"`: that of the checkpoint.

    Raises:
        ModelError: As in [`load_captioner`], or if there is no adapter for the type of the model.
    """
    name = os.fspath(name)
    if is_path(name) or os.path.isdir(name):
        model_type = _read_type(Path(name))
    else:
        model_type = _load("configuration", name, AutoConfig.from_pretrained).model_type
    if model_type == VideoCaptionConfig.model_type:
        if dtype != "auto":
            raise ModelError(f"dtype={dtype} is for models of other families: leave it out")
        return ModelCaptioner(*load_captioner(name, device=device))
    try:
        family = family_of(model_type, name)
    except UnsupportedModelError as error:
        raise ModelError(str(error)) from error
    device = _find_device(device)
    try:
        processor = _load("processor", name, family.load_processor)
        model = _load_model(name, family.auto_class, dtype=dtype, use_safetensors=True)
        return family(model.to(device), processor)
    except ModelError:
        raise
    except ValueError as error:  # from the adapter, with model and reason
        raise ModelError(str(error)) from error


def _find_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device=cuda: no GPU is usable; set device=cpu")
    return device


def _load_model(name: str, auto_class: type, **kwargs) -> Any:
    loader: Any = auto_class
    model, info = _load("weights", name, loader.from_pretrained, output_loading_info=True, **kwargs)
    if model.config.model_type == VideoCaptionConfig.model_type and info["unexpected_keys"]:
        unknown = sorted(info["unexpected_keys"])
        raise ModelError(
            f"{name}: the model has no place for {len(unknown)} of the tensors, such as {unknown[0]}: weights and "
            "config.json belong to different models; save both again"
        )
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"{name}: the weights do not fill the model, {wrong[0]} and {len(wrong) - 1} more are missing or of "
            "another shape; save or download the model again"
        )
    return model.eval()


def _read_type(folder: Path) -> str | None:
    """The model's type; problems are reported in one line, and not as those of a Hub id, as by from_pretrained."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; name the output folder of a training run, or a Hub id user/name")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: no config.json in this folder; name the output folder of a training run")
    try:
        return json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config}: damaged, not a JSON object; save or download the model again") from error


def _check_folder(folder: Path) -> None:
    """Raise a `ModelError` unless a folder holds a complete model of this package."""
    _check_type(str(folder), _read_type(folder))
    for file in ("processor_config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: no {file}; save the processor there with processor.save_pretrained")
    try:
        check_weight_names(folder)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise ModelError(f"{folder}: {pickles[0]} is a pickle, which is not loaded; save it as safetensors")
        raise ModelError(f"{folder}: no model.safetensors; resume the training, which did not export a model")


def _check_type(name: str, model_type: str | None) -> None:
    if model_type != VideoCaptionConfig.model_type:
        limit = "; this one can only caption and be evaluated" if model_type in FAMILIES else ""
        raise ModelError(
            f"{name} is a model of type {model_type}: pass one of type vidcap, such as one made by `vidcap train`"
            f"{limit}"
        )


def check_compares(model: VideoCaptionForConditionalGeneration, name: str) -> None:
    """Raise a `ModelError` if a captioner cannot compare clips and texts."""
    if model.config.contrastive_weight == 0:
        raise ModelError(
            f"{name} cannot compare clips and texts, since it was trained with contrastive_weight=0; train with a "
            "weight above 0"
        )


def _load(part: str, name: str, from_pretrained: Callable[..., Any], **kwargs) -> Any:
    try:
        return load_pretrained(from_pretrained, name, **kwargs)
    except ForeignCodeError as error:
        raise ModelError(str(error)) from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].removeprefix(f"{name}: ")
        raise ModelError(f"{name}: its {part} cannot be loaded: {reason}") from error
