"""`vidcap caption`: clips -> captions on the standard output or in a file.

Guarantees: a clip that cannot be read is reported and left out, and the others are captioned.

Limitations: no caption appears before the last clip is done.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import output_mistake, within_data_set, write_atomically
from ..inference.subtitles import FORMATS, CaptionedClip
from .captioner_options import open_captioner
from .options import add_column_options, number, whole

if TYPE_CHECKING:
    from .options import Subcommands


def add_caption_command(
    commands: "Subcommands", parents: Sequence[argparse.ArgumentParser], parser_class: type[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """Add `caption` to the commands; `parents` have options of reading and generation."""
    caption = commands.add_parser(
        "caption",
        parents=list(parents),
        help="caption videos",
        description="Caption videos and animated images, or a whole data set. A clip that cannot be read is reported, "
        "and the others are captioned; the status is then 1.",
    )
    caption.add_argument("clips", nargs="*", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    caption.add_argument(
        "--format",
        choices=("text", "json", "vtt", "srt"),
        default="text",
        help="format of the output; text: `CLIP: caption` lines; json: one list; vtt, srt: subtitles of one clip "
        "[text]",
    )
    caption.add_argument("--output", type=Path, metavar="FILE", help="file to write to [the standard output]")
    caption.add_argument("--num_frames", type=whole, metavar="N", help="frames to read per clip [the model's own]")
    caption.add_argument("--max_frame_pixels", type=whole, metavar="N", help="refuse clips with larger frames")
    caption.add_argument("--max_clip_frames", type=whole, metavar="N", help="refuse clips with more frames")
    faster = caption.add_argument_group("faster reading", "both options change the frames that are read slightly")
    faster.add_argument(
        "--snap_to_keyframes",
        action="store_true",
        default=None,
        help="read the nearest key frame in place of each frame, if there is one: much faster for long videos",
    )
    faster.add_argument(
        "--skip_loop_filter",
        action="store_true",
        default=None,
        help="decode H.264, HEVC, VP8 and VP9 without smoothing block edges",
    )
    data_set = caption.add_argument_group("a whole data set")
    data_set.add_argument(
        "--dataset", metavar="FOLDER_OR_ID", help="data set to caption; --output is then a folder of caption files"
    )
    data_set.add_argument("--split", help="split to caption [train]")
    data_set.add_argument("--shard_size", type=whole, metavar="N", help="clips per file of captions [500]")
    add_column_options(data_set)
    search_group = caption.add_argument_group("caption search")
    search_group.add_argument(
        "--captions", type=whole, default=1, metavar="N", help="captions per clip, best first [1]"
    )
    search_group.add_argument(
        "--sample", action="store_true", help="draw captions at random, not the most likely ones"
    )
    search_group.add_argument(
        "--temperature",
        type=number("a number above 0", lambda value: value > 0),
        metavar="X",
        help="temperature of --sample: below 1 for likelier words, above 1 for rarer ones [1]",
    )
    search_group.add_argument(
        "--top_p",
        type=number("a number above 0, up to 1", lambda value: 0 < value <= 1),
        metavar="P",
        help="probability covered by the likeliest words that --sample draws from [1]",
    )
    search_group.add_argument(
        "--length_penalty",
        type=number("a number"),
        metavar="X",
        help="length penalty of the beam search: above 1 for longer captions, below 1 for shorter ones [the model's "
        "own]",
    )
    search_group.add_argument(
        "--similarity_weight",
        type=number("a number of at least 0", lambda value: value >= 0),
        metavar="W",
        help="weight of the similarity to the clip in ranking beams [the model's own]",
    )
    search_group.add_argument(
        "--memory_weight",
        type=number("a number of at least 0", lambda value: value >= 0),
        metavar="W",
        help="weight of captions remembered from training; 0 for none [the model's own]",
    )
    search_group.add_argument(
        "--guidance_scale",
        type=number("a number of at least 1", lambda value: value >= 1),
        metavar="S",
        help="guidance away from captions written without the video, above 1 [the model's own]",
    )
    search_group.add_argument("--ban", nargs="+", default=[], metavar="WORD", help="words that no caption may contain")
    search_group.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PHRASE",
        help="phrase that every caption must contain; repeatable",
    )
    caption.set_defaults(run=run, check=lambda arguments: _check(arguments, parser_class(prog="vidcap caption")))
    return caption


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse mistakes that would otherwise show after minutes of work."""
    if arguments.dataset is not None:
        _check_whole(arguments, parser)
        return
    for name in ("split", "shard_size", "video_column", "caption_column"):
        if getattr(arguments, name) is not None:
            parser.error(f"--{name} needs a whole data set; add --dataset, or leave --{name} out")
    if not arguments.clips:
        parser.error("no clips to caption; name them before --ban, which takes all words after it, or add --dataset")
    if arguments.format in ("vtt", "srt") and len(arguments.clips) > 1:
        parser.error(f"--format {arguments.format} takes one clip, got {len(arguments.clips)}")
    if mistake := output_mistake({"--output": arguments.output}, {"a clip": arguments.clips}):
        parser.error(mistake)
    _check_search(arguments, parser)


def _check_whole(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse options that do not go with `--dataset`, and fill in defaults."""
    if arguments.clips:
        parser.error(f"{arguments.clips[0]} and --dataset {arguments.dataset} both name clips; leave one of them out")
    if arguments.format != "text":
        parser.error(f"--format {arguments.format} needs single clips; with --dataset, leave it out")
    folder = arguments.output
    if folder is None or (folder.exists() and not folder.is_dir()):
        parser.error("--dataset needs an --output folder for the captions")
    if within_data_set(folder, arguments.dataset):
        parser.error(f"--output {folder} lies within the data set; name a folder elsewhere")
    arguments.split = arguments.split or "train"
    arguments.shard_size = arguments.shard_size or 500
    _check_search(arguments, parser)


def _check_search(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse options of the caption search that contradict each other."""
    beams, captions = arguments.num_beams, arguments.captions
    for word in arguments.ban:
        if os.path.isfile(word) or "://" in word:
            parser.error(f"--ban {word} is a clip, not a word; name clips before --ban")
    if arguments.sample:
        if beams is not None and beams > 1:
            parser.error(f"--num_beams {beams} searches, but --sample draws; leave one of them out")
        for name in ("length_penalty", "similarity_weight", "memory_weight"):
            if (value := getattr(arguments, name)) is not None:
                parser.error(f"--{name} {value} ranks beams, but --sample draws; leave one of them out")
        if arguments.include:
            parser.error("--include searches the likeliest caption, but --sample draws; leave one of them out")
    else:
        for name in ("temperature", "top_p"):
            if (value := getattr(arguments, name)) is not None:
                parser.error(f"--{name} {value} needs drawn captions; add --sample, or leave it out")
        if beams is not None and captions > beams:
            parser.error(
                f"--captions {captions} needs at least as many --num_beams, got {beams}; raise it, or add --sample"
            )
    if arguments.include and captions > 1:
        parser.error(f"--include yields one caption per clip, but --captions is {captions}; leave one of them out")


def run(arguments: argparse.Namespace) -> int:
    """Caption clips or a data set; status 1 if one is unreadable."""
    if arguments.dataset is not None:
        from .caption_dataset import run as run_dataset  # needs the extra train

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
    """Caption clips as the command line says, store captions or errors in them, and return the readable ones."""
    from ..inference.reading import readable_clips

    captioner, options = open_captioner(arguments)
    batch_size = arguments.batch_size
    reading: Any = {"batch_size": batch_size, "encode": captioner.clip_encoder()}
    clips = readable_clips(results, captioner.video_processor, "captioning", **reading)
    captions = captioner.caption_with_scores(clips, batch_size=batch_size, **options)
    read = [result for result in results if result.error is None]
    for result, candidates in zip(read, captions, strict=True):
        result.captions = candidates
        novelty = candidates[0].novelty
        if novelty is not None and novelty > 1:
            print(
                f"vidcap: warning: {result.file}: unlike the clips this model was trained on (novelty {novelty:.1f}; "
                "usual clips are below 1), so its caption is a guess",
                file=sys.stderr,
            )
    return read
