"""A captioner set up by the options of a command line."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from modeling_vidcap.settings_vidcap import check_guidance, check_memory, check_phrases, check_similarity

from ..light.loading import open_light

if TYPE_CHECKING:
    from ..captioner import Captioner

DTYPES = ("auto", "bfloat16", "float16", "float32")


def add_family_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vidcap caption` and `vidcap evaluate` for models of other families."""
    group = parser.add_argument_group("models of other families", "GIT, VisionEncoderDecoder and chat models")
    group.add_argument("--prompt", metavar="TEXT", help="prompt for a chat model [one that asks for a sentence]")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights [the checkpoint's]")


def load_for_command(arguments: argparse.Namespace) -> "Captioner":
    """Load `arguments.model`, with frames and prompt set by the command line.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For an option that the model does not have, before any clip is read.
    """
    from ..inference.loading import load_any_captioner

    captioner = load_any_captioner(arguments.model, device=arguments.device, dtype=arguments.dtype)
    captioner.check_options(vars(arguments), prefix="--")
    captioner.configure(num_frames=arguments.num_frames, prompt=arguments.prompt)
    return captioner


def open_captioner(arguments: argparse.Namespace) -> "tuple[Captioner, dict[str, Any]]":
    """Load a captioner and set it up.

    Returns:
        The captioner and the options of the caption search.

    Raises:
        ModelError: If the model cannot be used.
        ValueError: For options that do not suit the model, before any clip is read.
    """
    from ..inference.captioning import ModelCaptioner

    light = open_light(arguments)
    captioner = load_for_command(arguments) if light is None else ModelCaptioner(*light)
    captioner.use_backend(arguments.backend)
    apply_reading_options(captioner.video_processor, arguments)
    return captioner, generation_options(arguments) | caption_options(arguments, captioner)


def apply_reading_options(video_processor: object, arguments: argparse.Namespace) -> None:
    """Set a video processor to the command line's options of reading."""
    for name in ("num_frames", "max_frame_pixels", "max_clip_frames", "snap_to_keyframes", "skip_loop_filter"):
        if (value := getattr(arguments, name)) is not None:
            setattr(video_processor, name, value)


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command line's options for `generate`; the model's own generation config supplies the rest."""
    options = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens")}
    return {name: value for name, value in options.items() if value is not None}


def caption_options(arguments: argparse.Namespace, captioner: "Captioner") -> dict[str, Any]:
    """Options of the caption search that `vidcap caption` alone has.

    Raises:
        ValueError: For options that do not suit the model, before any clip is read.
    """
    from ..inference.captioning import token_forms

    names = ("guidance_scale", "length_penalty", "similarity_weight", "memory_weight", "temperature", "top_p")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    check_guidance(captioner.config, arguments.guidance_scale)
    check_similarity(captioner.config, arguments.similarity_weight)
    check_memory(captioner.config, arguments.memory_weight)
    beams = arguments.num_beams or max(captioner.generation_config.num_beams or 1, arguments.captions)
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
            banned += token_forms(captioner.tokenizer, word)
        except ValueError as error:
            print(f"vidcap: warning: --ban {word!r}: {error}, so nothing needs to be banned", file=sys.stderr)
    if banned:
        options["bad_words_ids"] = banned
    phrases: list[list[list[int]]] = []
    limit = arguments.max_new_tokens or captioner.generation_config.max_new_tokens
    for phrase in arguments.include:
        try:
            phrases.append(token_forms(captioner.tokenizer, phrase))
            check_phrases(phrases, banned, limit)
        except ValueError as error:
            raise ValueError(f"--include {phrase!r}: {error}") from error
    return options | {"include": phrases}
