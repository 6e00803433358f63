"""`vidcap caption`: clips -> captions on the standard output or in a file.

A clip that cannot be read is reported and left out; the others are captioned. Given up: captions before the last clip
is done.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import output_mistake, within_data_set, write_atomically
from ..inference.subtitles import FORMATS, CaptionedClip
from .captioner_options import open_captioner
from .option_types import number, whole


def add_caption_command(
    commands: Any, parents: Sequence[argparse.ArgumentParser], parser_class: type[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """Adds `caption` to the commands of `vidcap`.

    Args:
        commands: What `add_subparsers` of the main parser returned.
        parents: Parsers with the options of reading and generation.
        parser_class: The class of the parsers.
    """
    caption = commands.add_parser(
        "caption",
        parents=list(parents),
        help="caption videos",
        description="Caption videos and animated images, or a whole data set. A clip that cannot be read is reported, "
        "the others are captioned; the status is then 1.",
    )
    caption.add_argument("clips", nargs="*", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    caption.add_argument(
        "--format",
        choices=("text", "json", "vtt", "srt"),
        default="text",
        help="text: `CLIP: caption` lines; json: one list; vtt, srt: subtitles of a single clip [text]",
    )
    caption.add_argument("--output", type=Path, metavar="FILE", help="write there, not to the standard output")
    caption.add_argument("--num_frames", type=whole, metavar="N", help="frames taken of a clip [the model's own]")
    caption.add_argument("--max_frame_pixels", type=whole, metavar="N", help="refuse clips with larger frames")
    caption.add_argument("--max_clip_frames", type=whole, metavar="N", help="refuse clips with more frames")
    quickly = caption.add_argument_group("faster reading", "both change what is seen of a clip a little")
    quickly.add_argument(
        "--snap_to_keyframes",
        action="store_true",
        default=None,
        help="take the key frame near a frame in its place, where there is one: much faster for long videos",
    )
    quickly.add_argument(
        "--skip_loop_filter",
        action="store_true",
        default=None,
        help="decode H.264, HEVC, VP8 and VP9 without smoothing the edges of blocks",
    )
    data_set = caption.add_argument_group(
        "a whole data set", "torchrun deals it out to several processes; what is interrupted goes on when given again"
    )
    data_set.add_argument("--dataset", metavar="FOLDER_OR_ID", help="caption its clips; --output is then a folder")
    data_set.add_argument("--split", help="[train]")
    data_set.add_argument("--shard_size", type=whole, metavar="N", help="clips a file of captions [500]")
    data_set.add_argument("--video_column", metavar="NAME", help="column of the clips [recognised]")
    data_set.add_argument("--caption_column", metavar="NAME", help="column of their present captions [recognised]")
    search_group = caption.add_argument_group("which captions")
    search_group.add_argument("--captions", type=whole, default=1, metavar="N", help="captions a clip, best first [1]")
    search_group.add_argument("--sample", action="store_true", help="draw captions instead of searching the likeliest")
    search_group.add_argument(
        "--temperature",
        type=number("a number above 0", lambda value: value > 0),
        metavar="X",
        help="of --sample: below 1 likelier words, above 1 rarer ones [1]",
    )
    search_group.add_argument(
        "--top_p",
        type=number("a number above 0, up to 1", lambda value: 0 < value <= 1),
        metavar="P",
        help="of --sample: draw from the likeliest words that make up this probability [1]",
    )
    search_group.add_argument(
        "--length_penalty",
        type=number("a number"),
        metavar="X",
        help="of beams: above 1 longer captions, below 1 shorter ones [the model's own]",
    )
    search_group.add_argument(
        "--similarity_weight",
        type=number("a number of at least 0", lambda value: value >= 0),
        metavar="W",
        help="of beams: how much their likeness to the clip counts beside their probability [the model's own]",
    )
    search_group.add_argument(
        "--guidance_scale",
        type=number("a number of at least 1", lambda value: value >= 1),
        metavar="S",
        help="above 1: away from what the model would say without the video [the model's own]",
    )
    search_group.add_argument("--ban", nargs="+", default=[], metavar="WORD", help="words that no caption may hold")
    search_group.add_argument(
        "--include", action="append", default=[], metavar="PHRASE", help="a phrase that each caption holds; repeatable"
    )
    caption.set_defaults(run=run, check=lambda arguments: _check(arguments, parser_class(prog="vidcap caption")))
    return caption


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Mistakes that would otherwise show after minutes of work."""
    if arguments.dataset is not None:
        _check_whole(arguments, parser)
        return
    for name in ("split", "shard_size", "video_column", "caption_column"):
        if getattr(arguments, name) is not None:
            parser.error(f"--{name} is for a whole data set: name it by --dataset, or leave --{name} out")
    if not arguments.clips:
        parser.error("name clips, or a --dataset (clips stand ahead of --ban, which takes all words behind it)")
    if arguments.format in ("vtt", "srt") and len(arguments.clips) > 1:
        parser.error(f"--format {arguments.format} takes one clip, got {len(arguments.clips)}")
    if mistake := output_mistake({"--output": arguments.output}, {"a clip": arguments.clips}):
        parser.error(mistake)
    _check_search(arguments, parser)


def _check_whole(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """What `vidcap caption --dataset` needs and what it cannot do; fills in what was left out."""
    if arguments.clips:
        parser.error(f"{arguments.clips[0]}: clips are named one by one, or by --dataset: leave one of them out")
    if arguments.format != "text":
        parser.error(f"--format {arguments.format} is for single clips; a --dataset gets files of captions")
    folder = arguments.output
    if folder is None or (folder.exists() and not folder.is_dir()):
        parser.error("--dataset needs an --output folder for the captions")
    if within_data_set(folder, arguments.dataset):
        parser.error(f"--output {folder} lies within the data set; name a folder elsewhere")
    arguments.split = arguments.split or "train"
    arguments.shard_size = arguments.shard_size or 500
    _check_search(arguments, parser)


def _check_search(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Options of `vidcap caption` that contradict each other."""
    beams, captions = arguments.num_beams, arguments.captions
    for word in arguments.ban:
        if os.path.isfile(word) or "://" in word:
            parser.error(f"--ban {word} is a clip, not a word: name clips ahead of --ban")
    if arguments.sample:
        if beams is not None and beams > 1:
            parser.error(f"--num_beams {beams} searches and --sample draws: leave one of them out")
        for name in ("length_penalty", "similarity_weight"):
            if (value := getattr(arguments, name)) is not None:
                parser.error(f"--{name} {value} weighs beams: leave it or --sample out")
        if arguments.include:
            parser.error("--include puts a phrase into the likeliest caption: leave it or --sample out")
    else:
        for name in ("temperature", "top_p"):
            if (value := getattr(arguments, name)) is not None:
                parser.error(f"--{name} {value} is for drawn captions: add --sample, or leave it out")
        if beams is not None and captions > beams:
            parser.error(f"--captions {captions} needs as many --num_beams, got {beams}: raise it, or add --sample")
    if arguments.include and captions > 1:
        parser.error(f"--include gives one caption a clip, got --captions {captions}: leave one of them out")


def run(arguments: argparse.Namespace) -> int:
    """Captions `arguments.clips`, or a whole data set; the status is 1 if a clip could not be read."""
    if arguments.dataset is not None:
        from .caption_dataset import run as run_dataset  # which needs the extra train

        return run_dataset(arguments)
    results = [CaptionedClip(clip) for clip in arguments.clips]
    read = caption_results(arguments, results)
    if read or arguments.format == "json":
        text = FORMATS[arguments.format](results)
        if arguments.output is None:
            sys.stdout.write(text)
        else:
            write_atomically(arguments.output, text)
    return 0 if len(read) == len(results) else 1


def caption_results(arguments: argparse.Namespace, results: list[CaptionedClip]) -> list[CaptionedClip]:
    """Captions clips as the command line says, stores captions or errors in them, and returns the readable ones."""
    from ..inference.reading import readable_clips

    captioner, options = open_captioner(arguments)
    batch_size = arguments.batch_size
    reading: Any = {"batch_size": batch_size, "encode": captioner.clip_encoder()}
    clips = readable_clips(results, captioner.video_processor, "captioning", **reading)
    captions = captioner.caption_with_scores(clips, batch_size=batch_size, **options)
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
    return read
