"""Options of the command line -> a captioner that is set to them; for every command that captions."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from modeling_vidcap.settings_vidcap import check_guidance, check_phrases, check_similarity

from ..light.loading import open_light
from .family_options import load_for_command

if TYPE_CHECKING:
    from ..captioner import Captioner


def open_captioner(arguments: argparse.Namespace) -> "tuple[Captioner, dict[str, Any]]":
    """The captioner, configured by the command line, and the options of the search.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For an option that does not work with this model, before any clip is read.
    """
    from ..inference.captioning import ModelCaptioner

    light = open_light(arguments)
    captioner = load_for_command(arguments) if light is None else ModelCaptioner(*light)
    captioner.use_backend(arguments.backend)
    apply_reading_options(captioner.video_processor, arguments)
    return captioner, generation_options(arguments) | caption_options(arguments, captioner)


def apply_reading_options(video_processor: Any, arguments: argparse.Namespace) -> None:
    """Has the video processor read clips as the command line says."""
    for name in ("num_frames", "max_frame_pixels", "max_clip_frames", "snap_to_keyframes", "skip_loop_filter"):
        if (value := getattr(arguments, name)) is not None:
            setattr(video_processor, name, value)


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about `generate`; the rest is the model's own generation config."""
    options = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens")}
    return {name: value for name, value in options.items() if value is not None}


def caption_options(arguments: argparse.Namespace, captioner: "Captioner") -> dict[str, Any]:
    """What `vidcap caption` alone says about the search.

    Raises:
        ValueError: For what cannot work with this model, before any clip is read.
    """
    from ..inference.captioning import token_forms

    names = ("guidance_scale", "length_penalty", "similarity_weight", "temperature", "top_p")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    check_guidance(captioner.config, arguments.guidance_scale)
    check_similarity(captioner.config, arguments.similarity_weight)
    beams = arguments.num_beams or max(captioner.generation_config.num_beams or 1, arguments.captions)
    if arguments.sample:
        # transformers would sample from the 50 likeliest tokens; here `top_p` alone decides.
        options |= {"do_sample": True, "top_k": 0, "num_beams": 1}
    else:
        options["num_beams"] = beams
        for name in ("length_penalty", "similarity_weight"):
            if (value := getattr(arguments, name)) is not None and beams == 1:
                raise ValueError(f"--{name} {value} weighs beams, and this model searches without: add --num_beams 4")
    options["num_return_sequences"] = arguments.captions
    banned: list[list[int]] = []
    for word in arguments.ban:
        try:
            banned += token_forms(captioner.tokenizer, word)
        except ValueError as error:
            print(f"vidcap: warning: --ban {word!r}: {error}, so nothing has to be banned", file=sys.stderr)
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
