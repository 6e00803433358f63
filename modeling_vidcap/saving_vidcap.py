"""A captioner <-> a folder or repository: the weights, and the code by which they load where this package is absent.

Promises: what is saved is complete, wherever the model came from (the package, a folder, the Hub by remote code), and
refers to no code but that beside it; weights are read from safetensors and nothing is unpickled. Given up: the card
and the proof that a folder loads, which are the installed package's part.
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

from .blocks_vidcap import RUNS_ONLY

CHECKSUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
TASK = "video-captioning"
PIPELINE = "pipeline_vidcap.VideoCaptioningPipeline"
MODEL_CLASSES = ("AutoModel", "AutoModelForImageTextToText")
# Which options of `from_pretrained` say where a file is.
WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def check_weight_names(folder: str | os.PathLike[str]) -> None:
    """Raises a `ValueError` if a folder holds a pickled adapter, or the index of its shards leads elsewhere."""
    if Path(folder, "adapter_model.bin").is_file():
        raise ValueError(
            f"{folder}: adapter_model.bin is a pickle, which is not loaded; save the adapter anew by peft"
        )
    path = Path(folder, SAFE_WEIGHTS_INDEX_NAME)
    if not path.is_file():
        return
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, it is no index of weights; download the model again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{path}: names {name!r}, which is no safetensors file beside it; take another model")


def write_checksums(folder: str | os.PathLike[str], pattern: str = "model*.safetensors") -> None:
    """Writes down what the files of a folder are that match, so that a damaged or changed one is told from what was
    saved; by default its weights."""
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(Path(folder).glob(pattern))]
    Path(folder, CHECKSUMS).write_text("".join(sums), encoding="utf-8")


def check_checksums(name: str | os.PathLike[str], **where: Any) -> None:
    """
    Compares the weights of a model with what was written down when they were saved, if anything was.

    Args:
        name (`str` or `os.PathLike`): a folder, or the id of a repository whose weights are in the cache.
        where: `revision`, `subfolder`, `cache_dir`, `token` and the like, as for `from_pretrained`.

    Raises:
        ValueError: If a file is not the one that was saved.
    """
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(name, CHECKSUMS, **where, **optional)
    if path is None:
        return  # a model of before version 0.2, or one that another program wrote
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+\.safetensors)", line)
        if found is None:
            raise ValueError(f"{path}: damaged, {line[:80]!r} names no weights; save or download the model again")
        # What was just loaded lies in the cache. Weights of another form (`variant`) may not.
        cached = {**where, **optional, "local_files_only": True, "force_download": False}
        weights = cached_file(name, found[2], **cached)
        if weights is not None and sha256_of(weights) != found[1]:
            raise ValueError(
                f"{weights}: not what was saved, its SHA-256 is another than in {CHECKSUMS}; download the model "
                f"again, or remove {CHECKSUMS} if the change was meant"
            )


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pop_hub_options(kwargs: dict[str, Any], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Takes out of the options of `save_pretrained` what is meant for `push_to_hub`; by default the repository has
    the folder's name."""
    names = ("repo_id", "commit_message", "private", "create_pr")
    given = {name: kwargs.pop(name) for name in names if name in kwargs}
    return {"repo_id": Path(folder).name, "token": kwargs.get("token"), **given}


class VideoCaptionSaving(PreTrainedModel):
    """How all models of this family are saved and loaded."""

    model_tags = [TASK, "vidcap", "custom_code"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, from safetensors only: a pickle in their place is refused, and so are changed weights.

        Raises:
            ValueError: If `use_safetensors=False` asks for pickles, the index of the shards leads elsewhere, or the
                weights are not those that were saved.
            OSError: If there are no safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors=False: this model is read from safetensors only; leave it out")
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        check_weight_names(folder)
        where = {name: kwargs[name] for name in WHERE if kwargs.get(name) is not None}
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **{**kwargs, "use_safetensors": True})
        if pretrained_model_name_or_path is not None:
            check_checksums(pretrained_model_name_or_path, **where)
        return model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers, with the code of model and pipeline, and what leads the Auto classes to it.

        Weights of an earlier save in another form (one file, or shards) go: they would be loaded in place of these.

        Raises:
            ValueError: If a part of the model was made to run only, by `vidcap.inference.backends`.
        """
        if any(getattr(each, RUNS_ONLY, False) for each in self.modules()):
            raise ValueError(
                "the backbone is a fast copy that can only run (use_fast_backbone): load the model anew and save that"
            )
        hub = pop_hub_options(kwargs, save_directory)
        forms = [Path(save_directory, name) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)]
        before = [_written_at(each) for each in forms]
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        written = [_written_at(each) not in (None, then) for each, then in zip(forms, before, strict=True)]
        if is_main_process and any(written):
            forms[written.index(False)].unlink(missing_ok=True)
        if is_main_process and not getattr(self, "_hf_peft_config_loaded", False):
            custom_object_save(self, save_directory)
            path = Path(save_directory, CONFIG_NAME)
            config = {**json.loads(path.read_text(encoding="utf-8")), **self._code_references()}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            write_checksums(save_directory)
        if push_to_hub:
            self.push_to_hub(**hub)

    def _code_references(self) -> dict[str, Any]:
        pipeline = {"impl": PIPELINE, "pt": ["AutoModel"], "type": "multimodal"}
        classes = {"AutoConfig": _reference(type(self.config)), **dict.fromkeys(MODEL_CLASSES, _reference(type(self)))}
        return {"auto_map": classes, "custom_pipelines": {TASK: pipeline}}


def _written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _reference(each: type) -> str:
    return f"{each.__module__.rpartition('.')[2]}.{each.__name__}"


__all__ = [
    "CHECKSUMS",
    "RUNS_ONLY",
    "TASK",
    "VideoCaptionSaving",
    "check_weight_names",
    "pop_hub_options",
    "sha256_of",
    "write_checksums",
]
