"""Selection and loading of the captioners that run without transformers.

Limitations: unusual models, files and options are left to transformers, which handles or refuses them; nothing is
reported here.
"""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_vidcap.settings_vidcap import VERSION, check_memory, check_similarity

if TYPE_CHECKING:
    from torch import nn

    from modeling_vidcap.configuration_vidcap import VideoCaptionConfig

    from .model import LightCaptioner
    from .processor import LightProcessor, LightTokenizer, LightVideoProcessor
    from .settings import SearchSettings

logger = logging.getLogger(__name__)

FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
# Files of weights beside those in WEIGHTS.
OTHER_WEIGHTS = ("adapter_config.json", "adapter_model.bin", "model.safetensors.index.json")

# Required values of options and files.
ARGUMENTS: dict[str, Any] = {
    "ban": [],
    "dataset": None,
    "dtype": "auto",
    "guidance_scale": None,
    "include": [],
    "prompt": None,
    "sample": False,
}
CONFIG = {
    "contrastive_type": "softmax",
    "decoder_config": None,
    "dtype": "float32",
    "encoder_window": None,
    "fusion": "cross_attention",
    "hidden_act": "gelu",
    "model_type": "vidcap",
    "tie_word_embeddings": True,
}
BACKBONE = {"features_only": True, "model_type": "timm_backbone", "num_channels": 3, "output_stride": None}
PREPARING = dict.fromkeys(("do_normalize", "do_pad", "do_rescale", "do_resize", "do_sample_frames"), True)
# Fields of a generation config that are used, and those that make no difference here.
SEARCHING = (
    *("decoder_start_token_id", "length_penalty", "max_new_tokens", "num_beams", "pad_token_id"),
    *("memory_weight", "similarity_weight", "suppress_tokens"),
)
IGNORED = ("bos_token_id", "eos_token_id", "transformers_version", "use_cache", "_from_model_config")
TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # which add nothing to a tokenizer.json


class NotLightError(Exception):
    """The reason why a captioner or an option needs transformers."""


def open_light(arguments: argparse.Namespace) -> "tuple[LightCaptioner, LightProcessor] | None":
    """The light captioner of `vidcap caption`, or `None` where transformers is needed.

    transformers is needed for unusual options ([`check_arguments`]), for models that are not a complete local folder
    ([`read_files`]), and for backbones and decoders other than our own or an EfficientNet-Lite ([`check_config`]).
    """
    try:
        check_arguments(arguments)
        files = read_files(Path(arguments.model))
        check_config(files["config.json"])
        return _load(Path(arguments.model), files)
    except NotLightError as reason:
        logger.debug("%s is run by transformers: %s", arguments.model, reason)
        return None


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise a [`NotLightError`] for an option that needs transformers."""
    _expect(ARGUMENTS, vars(arguments), "option")
    if arguments.backend == "openvino" or arguments.device == "cuda":
        raise NotLightError("option backend or device")
    import torch

    if arguments.device == "auto" and torch.cuda.is_available():
        raise NotLightError("there is a GPU")


def read_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON files of a model's folder by name.

    Raises:
        NotLightError: If it is incomplete or damaged, or has other weights.
    """
    if missing := [name for name in (*FILES, WEIGHTS) if not (folder / name).is_file()]:
        raise NotLightError(f"no {missing[0]}")
    if others := [name for name in OTHER_WEIGHTS if (folder / name).exists()]:
        raise NotLightError(f"{others[0]} is present")
    try:
        files = {name: json.loads((folder / name).read_bytes()) for name in FILES}
    except (OSError, ValueError) as error:
        raise NotLightError("a file cannot be read") from error
    if not all(isinstance(content, dict) for content in files.values()):
        raise NotLightError("a file is damaged")
    _check_weights(folder)
    return files


def check_config(config: Mapping[str, Any]) -> None:
    """Raise a [`NotLightError`] for an architecture that needs transformers, or a newer version."""
    from packaging.version import Version

    from .efficientnet import VARIANTS

    _expect(CONFIG, config, "config")
    if Version(config.get("vidcap_version", VERSION)).release[:2] > Version(VERSION).release[:2]:
        raise NotLightError("newer version")
    backbone = config.get("backbone_config")
    if backbone is None:
        _expect({"own_backbone": "cnn"}, config, "config")
        return
    _expect(BACKBONE, backbone, "backbone")
    if backbone.get("backbone") not in VARIANTS:
        raise NotLightError("backbone")


def _expect(required: Mapping[str, Any], given: Mapping[str, Any], kind: str) -> None:
    for name, value in required.items():
        if name not in given or given[name] != value:
            raise NotLightError(f"{kind} {name}")


def _check_weights(folder: Path) -> None:
    """Compare the weights with the checksum saved with them, if any."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return
    with open(folder / WEIGHTS, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if sums.read_text(encoding="utf-8", errors="replace").split() != [checksum, WEIGHTS]:
        raise NotLightError("the weights differ from those that were saved")


def _load(folder: Path, files: Mapping[str, dict[str, Any]]) -> "tuple[LightCaptioner, LightProcessor]":
    from safetensors import SafetensorError

    from .model import LightCaptioner
    from .processor import LightProcessor
    from .settings import LightConfig

    try:
        config = LightConfig.of(files["config.json"])
        settings = _search_settings(files["generation_config.json"], config)
        tokenizer = _tokenizer(folder, files["tokenizer_config.json"])
        processor = LightProcessor(_video_processor(files["processor_config.json"]), tokenizer)
        model = LightCaptioner(config, settings, _network(config))
        _fill(model, folder / WEIGHTS)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise NotLightError(f"{type(error).__name__}: {error}") from error
    return model.eval(), processor


def _fill(model: "nn.Module", path: Path) -> None:
    """Read the weights; raise a `RuntimeError` unless they are exactly those of the model."""
    from safetensors.torch import load_file

    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False)


def _network(config: "VideoCaptionConfig") -> "nn.Module | None":
    """The network of `backbone_config`; `None` for our own."""
    from .efficientnet import LiteBackbone

    backbone: Any = config.backbone_config
    return None if backbone is None else LiteBackbone(backbone.backbone, backbone.out_indices)


def _search_settings(content: Mapping[str, Any], config: "VideoCaptionConfig") -> "SearchSettings":
    from .settings import SearchSettings

    given = {name: value for name, value in content.items() if value is not None and value is not False}
    if unknown := sorted(set(given) - {*SEARCHING, *IGNORED}):
        raise NotLightError(f"generation config {unknown[0]}")
    check_similarity(config, given.get("similarity_weight"))
    check_memory(config, given.get("memory_weight"))
    ends = given["eos_token_id"]
    known = {name: given[name] for name in SEARCHING if name in given}
    return SearchSettings(eos_token_ids=[ends] if isinstance(ends, int) else ends, **known)


def _video_processor(content: Mapping[str, Any]) -> "LightVideoProcessor":
    from .processor import LightVideoProcessor

    _expect({"processor_class": "VideoCaptionProcessor"}, content, "processor")
    options = dict(content["video_processor"])
    _expect(PREPARING, options, "video processor")
    for name in (*PREPARING, "auto_map", "processor_class", "video_processor_type"):
        options.pop(name, None)
    return LightVideoProcessor(**options)


def _tokenizer(folder: Path, content: Mapping[str, Any]) -> "LightTokenizer":
    from tokenizers import Tokenizer

    from .processor import LightTokenizer

    if content.get("tokenizer_class") not in TOKENIZERS:
        raise NotLightError("tokenizer")
    tokenizer = Tokenizer.from_file(os.fspath(folder / "tokenizer.json"))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    named = {value for name, value in content.items() if name.endswith("_token")}
    if not named <= special:  # transformers would add them
        raise NotLightError("tokenizer")
    return LightTokenizer(tokenizer, clean_up=content.get("clean_up_tokenization_spaces", False))
