"""Saving a captioner with the code that loads it without this package, and loading it.

Guarantees: a saved folder is complete, wherever the model came from (the package, a folder, the Hub by remote code),
and refers to no code but that beside it; weights are read from safetensors and nothing is unpickled. Limitations: the
card, and the proof that a folder loads, are left to the installed package.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .blocks_vidcap import INFERENCE_ONLY

CHECKSUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
TASK = "video-captioning"
PIPELINE = "pipeline_vidcap.VideoCaptioningPipeline"
MODEL_CLASSES = ("AutoModel", "AutoModelForImageTextToText")
# Options of `from_pretrained` that locate a file.
LOCATION = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def check_weight_names(folder: str | os.PathLike[str]) -> None:
    """Raise a `ValueError` if a folder holds a pickled adapter, or its index names files outside it."""
    if Path(folder, "adapter_model.bin").is_file():
        raise ValueError(
            f"{folder}: adapter_model.bin is a pickle, which is not loaded; save the adapter as safetensors by peft"
        )
    path = Path(folder, SAFE_WEIGHTS_INDEX_NAME)
    if not path.is_file():
        return
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a valid index of weights; download the model again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{path}: names {name!r}, which is not a safetensors file beside it; use another copy of the model"
            )


def write_checksums(folder: str | os.PathLike[str], pattern: str = "model*.safetensors") -> None:
    """Write the checksums of a folder's files that match, by default its weights, so that changes are detected."""
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(Path(folder).glob(pattern))]
    Path(folder, CHECKSUMS).write_text("".join(sums), encoding="utf-8")


def check_checksums(name: str | os.PathLike[str], **location) -> None:
    """Compare the weights of a model with the checksums saved with them, if any.

    Args:
        name: A folder, or the id of a repository whose weights are in the cache.
        location: `revision`, `subfolder`, `cache_dir`, `token` and the like, as for `from_pretrained`.

    Raises:
        ValueError: If a file differs from the one that was saved.
    """
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(name, CHECKSUMS, **location, **optional)
    if path is None:
        return  # saved before version 0.2, or by another program
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        entry = re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+\.safetensors)", line)
        if entry is None:
            raise ValueError(
                f"{path}: damaged, {line[:80]!r} is not a checksum of weights; save or download the model again"
            )
        # Weights that were just loaded are in the cache; those of another form (`variant`) may not be.
        cached = {**location, **optional, "local_files_only": True, "force_download": False}
        weights = cached_file(name, entry[2], **cached)
        if weights is not None and sha256_of(weights) != entry[1]:
            raise ValueError(
                f"{weights}: changed since it was saved, its SHA-256 differs from the one in {CHECKSUMS}; download "
                f"the model again, or remove {CHECKSUMS} if the change was intended"
            )


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pop_hub_options(kwargs: dict[str, Any], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Remove and return the options of `save_pretrained` that are for `push_to_hub`.

    By default the repository has the folder's name.
    """
    names = ("repo_id", "commit_message", "private", "create_pr")
    given = {name: kwargs.pop(name) for name in names if name in kwargs}
    return {"repo_id": Path(folder).name, "token": kwargs.get("token"), **given}


class VideoCaptionSaving(PreTrainedModel):
    """Saving and loading, for all models of this family."""

    model_tags = [TASK, "vidcap", "custom_code"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args, **kwargs) -> Any:
        """As in transformers, but from safetensors only; pickles and changed weights are refused.

        Raises:
            ValueError: If `use_safetensors=False` asks for pickles, the index of the shards names files outside the
                folder, or the weights differ from those that were saved.
            OSError: If there are no safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors=False: this model is read from safetensors only; leave it out")
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        check_weight_names(folder)
        location = {name: kwargs[name] for name in LOCATION if kwargs.get(name) is not None}
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **{**kwargs, "use_safetensors": True})
        if pretrained_model_name_or_path is not None:
            check_checksums(pretrained_model_name_or_path, **location)
        return model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """As in transformers, with the code of model and pipeline and the references to it for the Auto classes.

        Weights of an earlier save in the other form (one file, or shards) are removed, since they would be loaded
        instead.

        Raises:
            ValueError: If `vidcap.inference.backends` replaced a part of the model for inference.
        """
        if any(getattr(module, INFERENCE_ONLY, False) for module in self.modules()):
            raise ValueError(
                "the backbone was replaced by a copy for inference (use_fast_backbone), which cannot be saved: load "
                "the model again and save that"
            )
        hub_options = pop_hub_options(kwargs, save_directory)
        forms = [Path(save_directory, name) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)]
        before = [_modification_time(path) for path in forms]
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        written = [
            _modification_time(path) not in (None, earlier) for path, earlier in zip(forms, before, strict=True)
        ]
        if is_main_process and any(written):
            forms[written.index(False)].unlink(missing_ok=True)
        if is_main_process and not getattr(self, "_hf_peft_config_loaded", False):
            custom_object_save(self, save_directory)
            path = Path(save_directory, CONFIG_NAME)
            config = {**json.loads(path.read_text(encoding="utf-8")), **self._code_references()}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            write_checksums(save_directory)
        if push_to_hub:
            self.push_to_hub(**hub_options)

    def _code_references(self) -> dict[str, Any]:
        pipeline = {"impl": PIPELINE, "pt": ["AutoModel"], "type": "multimodal"}
        classes = {"AutoConfig": _reference(type(self.config)), **dict.fromkeys(MODEL_CLASSES, _reference(type(self)))}
        return {"auto_map": classes, "custom_pipelines": {TASK: pipeline}}


def _modification_time(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _reference(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
