"""A captioner set up by the options of a command line."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from modeling_vidcap.settings_vidcap import check_guidance, check_phrases, check_similarity

from ..light.loading import open_light

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_vidcap import VideoCaptionForConditionalGeneration

    from ..adapters import CaptionAdapter
    from ..light.model import LightCaptioner
    from ..light.processor import LightTokenizer

    AnyCaptioner = VideoCaptionForConditionalGeneration | CaptionAdapter | LightCaptioner
    AnyTokenizer = PreTrainedTokenizerBase | LightTokenizer


DTYPES = ("auto", "bfloat16", "float16", "float32")


def add_family_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vidcap caption` and `vidcap evaluate` for models of other families."""
    group = parser.add_argument_group("models of other families", "GIT, VisionEncoderDecoder and chat models")
    group.add_argument("--prompt", metavar="TEXT", help="prompt for a chat model [one that asks for a sentence]")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights [the checkpoint's]")


def load_for_command(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Load `arguments.model`, with frames and prompt set by the command line.

    Returns:
        A model of this package and its processor, or an adapter in place of both.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For an option that the model does not have, before any clip is read.
    """
    from ..adapters.base import CaptionAdapter
    from ..inference.loading import load_any_captioner

    model, processor = load_any_captioner(arguments.model, device=arguments.device, dtype=arguments.dtype)
    if isinstance(model, CaptionAdapter):
        model.check_options(vars(arguments), prefix="--")
        if arguments.backend == "openvino":
            raise ValueError(f"--backend {arguments.backend} needs a model of `vidcap train`; leave it out")
        model.configure(num_frames=arguments.num_frames, prompt=arguments.prompt)
    elif arguments.prompt is not None:
        raise ValueError("--prompt needs a chat model, and this model is of `vidcap train`; leave it out")
    return model, processor


def open_captioner(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Load a captioner and its processor, and set them up.

    Returns:
        Captioner, processor and options of the caption search.

    Raises:
        ModelError: If the model cannot be used.
        ValueError: For options that do not suit the model, before any clip is read.
    """
    from ..inference.backends import use_fast_backbone
    from ..inference.captioning import is_adapter

    model, processor = open_light(arguments) or load_for_command(arguments)
    if not is_adapter(model):
        use_fast_backbone(model, processor, arguments.backend)
    apply_reading_options(processor.video_processor, arguments)
    return model, processor, generation_options(arguments) | caption_options(arguments, model, processor.tokenizer)


def apply_reading_options(video_processor: object, arguments: argparse.Namespace) -> None:
    """Set a video processor to the command line's options of reading."""
    for name in ("num_frames", "max_frame_pixels", "max_clip_frames", "snap_to_keyframes", "skip_loop_filter"):
        if (value := getattr(arguments, name)) is not None:
            setattr(video_processor, name, value)


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command line's options for `generate`; the model's own generation config supplies the rest."""
    options = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens")}
    return {name: value for name, value in options.items() if value is not None}


def caption_options(arguments: argparse.Namespace, model: "AnyCaptioner", tokenizer: "AnyTokenizer") -> dict[str, Any]:
    """Options of the caption search that `vidcap caption` alone has.

    Raises:
        ValueError: For options that do not suit the model, before any clip is read.
    """
    from ..inference.captioning import token_forms

    names = ("guidance_scale", "length_penalty", "similarity_weight", "temperature", "top_p")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    check_guidance(model.config, arguments.guidance_scale)
    check_similarity(model.config, arguments.similarity_weight)
    beams = arguments.num_beams or max(model.generation_config.num_beams or 1, arguments.captions)
    if arguments.sample:
        # transformers would sample from the 50 likeliest tokens; here `top_p` alone decides.
        options |= {"do_sample": True, "top_k": 0, "num_beams": 1}
    else:
        options["num_beams"] = beams
        for name in ("length_penalty", "similarity_weight"):
            if (value := getattr(arguments, name)) is not None and beams == 1:
                raise ValueError(
                    f"--{name} {value} ranks beams, and this model searches without beams; add --num_beams 4"
                )
    options["num_return_sequences"] = arguments.captions
    banned: list[list[int]] = []
    for word in arguments.ban:
        try:
            banned += token_forms(tokenizer, word)
        except ValueError as error:
            print(f"vidcap: warning: --ban {word!r}: {error}, so nothing needs to be banned", file=sys.stderr)
    if banned:
        options["bad_words_ids"] = banned
    phrases: list[list[list[int]]] = []
    limit = arguments.max_new_tokens or model.generation_config.max_new_tokens
    for phrase in arguments.include:
        try:
            phrases.append(token_forms(tokenizer, phrase))
            check_phrases(phrases, banned, limit)
        except ValueError as error:
            raise ValueError(f"--include {phrase!r}: {error}") from error
    return options | {"include": phrases}
