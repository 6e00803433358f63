"""`vidcap caption`: clips -> captions on the standard output or in a file.

Clips are decoded a little ahead of their batch, so that memory does not grow with their number. A clip that cannot be
read is reported and left out; the others are captioned. Given up: captions before the last clip is done.
"""

import argparse
import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tqdm.auto import tqdm

from modeling_vidcap.generation_vidcap import check_guidance, check_phrases, check_similarity
from processing import VideoDecodeError

from .adapters import CaptionAdapter
from .adapters.options import load_for_command
from .backends import use_fast_backbone
from .captioning import caption_clips_with_scores, token_forms
from .files import write_atomically
from .subtitles import FORMATS, CaptionedClip


def run(arguments: argparse.Namespace) -> int:
    """Captions `arguments.clips`; the status is 1 if one of them could not be read."""
    model, processor, options = open_captioner(arguments)
    results = [CaptionedClip(clip) for clip in arguments.clips]

    clips = readable_clips(results, processor.video_processor, "captioning")
    captions = caption_clips_with_scores(model, processor, clips, batch_size=arguments.batch_size, **options)
    read = [result for result in results if result.error is None]
    for result, found in zip(read, captions, strict=True):
        result.captions = found
        novelty = found[0].novelty
        if novelty is not None and novelty > 1:
            print(
                f"vidcap: warning: {result.file}: unlike the clips this model was trained on (novelty "
                f"{novelty:.1f}, usual is below 1); its caption is a guess",
                file=sys.stderr,
            )
    if read or arguments.format == "json":
        text = FORMATS[arguments.format](results)
        if arguments.output is None:
            sys.stdout.write(text)
        else:
            write_atomically(arguments.output, text)
    return 0 if len(read) == len(results) else 1


def open_captioner(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """The captioner and its processor, set to what the command line says, and the options of the search.

    Raises:
        ModelError: If it cannot be used.
        ValueError: For what cannot work with this model, before any clip is read.
    """
    model, processor = load_for_command(arguments)
    if not isinstance(model, CaptionAdapter):
        use_fast_backbone(model, processor, arguments.backend)
    apply_reading_options(processor.video_processor, arguments)
    return model, processor, generation_options(arguments) | caption_options(arguments, model, processor.tokenizer)


def apply_reading_options(video_processor: Any, arguments: argparse.Namespace) -> None:
    """Has the video processor read clips as the command line says."""
    for name in ("num_frames", "max_frame_pixels", "max_clip_frames"):
        if (value := getattr(arguments, name)) is not None:
            setattr(video_processor, name, value)


def readable_clips(
    results: Sequence[CaptionedClip], video_processor: Any, description: str, *, workers: int | None = None
) -> Iterator[dict[str, Any]]:
    """Reads clips in threads, ahead of what is made of them; gives them in order, reports those that cannot be read,
    and notes reason or duration in `results`.

    Args:
        workers: Clips read at the same time; by default one a core. Twice as many are kept waiting at most.
    """
    workers = min(workers or os.cpu_count() or 1, len(results))
    threads = video_processor.decoding_threads if len(results) > 1 else 0  # all cores for a clip that is alone
    ahead: deque[Future[Any]] = deque()
    waiting = iter(results)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for result in tqdm(results, description, unit="clip", disable=not sys.stderr.isatty()):
                for other in itertools.islice(waiting, 2 * workers - len(ahead)):
                    ahead.append(pool.submit(read_clip, other.source or other.file, video_processor, threads=threads))
                try:
                    item, result.seconds = ahead.popleft().result()
                except VideoDecodeError as error:
                    result.error = error.reason
                    tqdm.write(f"vidcap: error: {error}", file=sys.stderr)
                    continue
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def read_clip(source: Any, video_processor: Any, *, threads: int | None = None) -> tuple[dict[str, Any], float]:
    """Reads a clip as the video processor does, and tells its duration, which a processor's output does not hold.

    Args:
        source: Path or URL, or whatever else `decode_video` takes.
        video_processor: [`VideoCaptionVideoProcessor`].
        threads: That decode it, 0 for one a core; by default the processor's `decoding_threads`.

    Returns:
        `pixel_values_videos` `(T, 3, H, W)` as uint8, which the collator normalises, `video_mask` and `video_times`
        `(T,)`; and the duration in seconds.

    Raises:
        VideoDecodeError: If it cannot be read.
    """
    clip = video_processor.decode_clip(source, decoding_threads=threads)
    pixels = video_processor(
        clip.frames, do_sample_frames=False, do_rescale=False, do_normalize=False, input_data_format="channels_first"
    )["pixel_values_videos"]  # (1, T, 3, H, W)
    item = {"pixel_values_videos": pixels[0], "video_mask": clip.mask.long(), "video_times": clip.times}
    return item, clip.duration


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about `generate`; the rest is the model's own generation config."""
    options = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens")}
    return {name: value for name, value in options.items() if value is not None}


def caption_options(arguments: argparse.Namespace, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What `vidcap caption` alone says about the search.

    Raises:
        ValueError: For what cannot work with this model, before any clip is read.
    """
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
                raise ValueError(f"--{name} {value} weighs beams, and this model searches without: add --num_beams 4")
    options["num_return_sequences"] = arguments.captions
    banned: list[list[int]] = []
    for word in arguments.ban:
        try:
            banned += token_forms(tokenizer, word)
        except ValueError as error:
            print(f"vidcap: warning: --ban {word!r}: {error}, so nothing has to be banned", file=sys.stderr)
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
