"""The command `vidcap`.

Status 0 on success, 2 on wrong usage, 1 on a failure that is explained in one line, 130 when interrupted. A traceback
appears with `--debug` or `VIDCAP_DEBUG=1` only. Results go to the standard output, all else to the standard error.
"""

import argparse
import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import __version__
from .adapters.options import add_family_options
from .commands_cache import add_cache_command
from .commands_compare import add_compare_command
from .commands_data import add_data_commands
from .commands_evaluate import add_evaluate_command
from .commands_push import add_push_command
from .files import output_mistake, within_data_set
from .option_types import checked, whole


class _Parser(argparse.ArgumentParser):
    """Errors on one line, without the usage of thirty options above them; options are never abbreviated."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: With status 2 on wrong usage, 0 after `--help` and `--version`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    debug = bool(os.environ.get("VIDCAP_DEBUG"))
    try:
        if argv[:1] == ["train"]:
            from train_hf import main as train

            return train(argv[1:], "vidcap train")
        arguments = build_parser().parse_args(argv)
        debug |= arguments.debug
        if check := getattr(arguments, "check", None):
            check(arguments)
        if not debug:
            _quieten()
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("vidcap: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"vidcap: error: {_explain(error)}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options; what a command needs is imported when it runs."""
    parser = _Parser(prog="vidcap", description="Small video-captioning models: train, evaluate, share, run.")
    parser.add_argument("--version", action="version", version=f"vidcap {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    device = _Parser(add_help=False)
    device.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is any"
    )
    device.add_argument(
        "--backend",
        choices=("torch", "openvino"),
        default="torch",
        help="what runs the backbone; openvino, an extra, is faster on many CPUs [torch]",
    )
    device.add_argument("--batch_size", type=whole, default=16, metavar="N", help="clips taken at once [16]")
    reader = _Parser(add_help=False, parents=[device])
    reader.add_argument("--model", required=True, metavar="DIR_OR_ID", help="model folder, or Hub id user/name")
    generation = _Parser(add_help=False)
    generation.add_argument("--num_beams", type=whole, metavar="N", help="beams of the search [the model's own]")
    generation.add_argument("--max_new_tokens", type=whole, metavar="N", help="longest caption [the model's own]")
    add_family_options(generation)

    caption = commands.add_parser(
        "caption",
        parents=[reader, generation],
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
        type=_number("a number above 0", lambda value: value > 0),
        metavar="X",
        help="of --sample: below 1 likelier words, above 1 rarer ones [1]",
    )
    search_group.add_argument(
        "--top_p",
        type=_number("a number above 0, up to 1", lambda value: 0 < value <= 1),
        metavar="P",
        help="of --sample: draw from the likeliest words that make up this probability [1]",
    )
    search_group.add_argument(
        "--length_penalty",
        type=_number("a number"),
        metavar="X",
        help="of beams: above 1 longer captions, below 1 shorter ones [the model's own]",
    )
    search_group.add_argument(
        "--similarity_weight",
        type=_number("a number of at least 0", lambda value: value >= 0),
        metavar="W",
        help="of beams: how much their likeness to the clip counts beside their probability [the model's own]",
    )
    search_group.add_argument(
        "--guidance_scale",
        type=_number("a number of at least 1", lambda value: value >= 1),
        metavar="S",
        help="above 1: away from what the model would say without the video [the model's own]",
    )
    search_group.add_argument("--ban", nargs="+", default=[], metavar="WORD", help="words that no caption may hold")
    search_group.add_argument(
        "--include", action="append", default=[], metavar="PHRASE", help="a phrase that each caption holds; repeatable"
    )
    caption.set_defaults(run=_caption, check=_check_caption)

    evaluate = add_evaluate_command(commands, [device, generation], _Parser)
    add_compare_command(commands)

    classify = commands.add_parser(
        "classify",
        parents=[reader],
        help="say which of some texts fits a clip",
        description="Zero-shot classification: give each clip the text that is nearest to it. The texts should read "
        "like the captions of training.",
    )
    classify.add_argument("clips", nargs="+", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    classify.add_argument("--labels", nargs="+", required=True, metavar="TEXT", help="texts to choose from")
    classify.add_argument("--format", choices=("text", "json"), default="text", help="json: all scores [text]")
    classify.set_defaults(run=_classify)

    search = commands.add_parser(
        "search", parents=[reader], help="find clips by a text", description="Sort clips by how well a text fits them."
    )
    search.add_argument("text", help="what to look for, worded like the captions of training")
    search.add_argument("clips", nargs="+", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    search.add_argument("--top", type=whole, default=10, metavar="N", help="how many to print [10]")
    search.add_argument("--format", choices=("text", "json"), default="text", help="[text]")
    search.set_defaults(run=_search)

    onnx = commands.add_parser(
        "export-onnx",
        help="write a model as ONNX graphs",
        description="Write encoder and decoder as ONNX graphs, for places without torch, and compare them with the "
        "model. Needs the extra onnx.",
    )
    onnx.add_argument("--model", required=True, metavar="DIR_OR_ID", help="model folder, or Hub id user/name")
    onnx.add_argument(
        "--output",
        type=Path,
        required=True,
        dest="output_folder",
        metavar="DIR",
        help="folder, created where needed",
    )
    onnx.set_defaults(run=_export_onnx)

    commands.add_parser("train", help="train a model; see vidcap train --help")

    doctor = commands.add_parser("doctor", help="what is installed, what decodes, what is missing")
    doctor.add_argument("--format", choices=("text", "json"), default="text", help="[text]")
    doctor.set_defaults(run=_doctor)

    demo = commands.add_parser("demo-data", help="draw a captioned data set to try things on")
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    for split, count in (("train", 3000), ("validation", 100), ("test", 512)):
        demo.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"clips [{count}]")
    demo.add_argument("--seed", type=int, default=0, help="[0]")
    demo.add_argument("--size", type=int, default=64, metavar="PX", help="side of the frames [64]")
    demo.add_argument("--hard", action="store_true", help="12 actions, three in a row; 30%% of the orders in training")
    demo.set_defaults(run=_demo_data)

    push = add_push_command(commands)

    prepare = add_data_commands(commands, _Parser)
    add_cache_command(commands, _Parser)

    for command in (caption, evaluate, classify, search, doctor, demo, push, onnx, prepare):
        command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _number(kind: str, fits: Callable[[float], bool] = math.isfinite) -> Callable[[str], float]:
    """Reads a finite number that `fits`; `kind` says which ones do."""
    return lambda text: checked(text, kind, float, fits)


def _check_caption(arguments: argparse.Namespace) -> None:
    """Mistakes that would otherwise show after minutes of work."""
    if arguments.dataset is not None:
        _check_whole(arguments)
        return
    parser = _Parser(prog="vidcap caption")
    for name in ("split", "shard_size", "video_column", "caption_column"):
        if getattr(arguments, name) is not None:
            parser.error(f"--{name} is for a whole data set: name it by --dataset, or leave --{name} out")
    if not arguments.clips:
        parser.error("name clips, or a --dataset (clips stand ahead of --ban, which takes all words behind it)")
    if arguments.format in ("vtt", "srt") and len(arguments.clips) > 1:
        parser.error(f"--format {arguments.format} takes one clip, got {len(arguments.clips)}")
    if mistake := output_mistake({"--output": arguments.output}, {"a clip": arguments.clips}):
        parser.error(mistake)
    _check_search(arguments)


def _check_whole(arguments: argparse.Namespace) -> None:
    """What `vidcap caption --dataset` needs and what it cannot do; fills in what was left out."""
    parser = _Parser(prog="vidcap caption")
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
    _check_search(arguments)


def _check_search(arguments: argparse.Namespace) -> None:
    """Options of `vidcap caption` that contradict each other."""
    parser = _Parser(prog="vidcap caption")
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


def _quieten() -> None:
    """The libraries' progress bars and warnings are not for people who only want captions."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _explain(error: Exception) -> str:
    """One line for the user; several where the error is a list of files."""
    # Its error exists only where the module was imported; to import it here would need packages of an extra.
    data = sys.modules.get("processing.sources")
    if data is not None and isinstance(error, data.DatasetError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{message}; run: pip install 'vidcap[train,evaluate]'"
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)) and message:
        return message
    return f"unexpected {type(error).__name__}: {message} (VIDCAP_DEBUG=1 shows where)"


def _caption(arguments: argparse.Namespace) -> int:
    if arguments.dataset is not None:
        from .commands_caption_dataset import run as run_dataset

        return run_dataset(arguments)
    from .commands_caption import run

    return run(arguments)


def _export_onnx(arguments: argparse.Namespace) -> int:
    from .onnx_export import run

    return run(arguments)


def _classify(arguments: argparse.Namespace) -> int:
    from .commands_match import classify

    return classify(arguments)


def _search(arguments: argparse.Namespace) -> int:
    from .commands_match import search

    return search(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    import json

    from .doctor import diagnose

    diagnosis = diagnose()
    as_json = arguments.format == "json"
    print(json.dumps(diagnosis.as_dict(), indent=2) if as_json else diagnosis.as_text(), end="\n" if as_json else "")
    return 1 if diagnosis.problems else 0


def _demo_data(arguments: argparse.Namespace) -> int:
    from .demo_data import generate_demo_data

    counts = generate_demo_data(
        arguments.folder,
        train=arguments.train,
        validation=arguments.validation,
        test=arguments.test,
        seed=arguments.seed,
        size=arguments.size,
        hard=arguments.hard,
    )
    print(f"{arguments.folder}: {', '.join(f'{count} {split}' for split, count in counts.items())} clips")
    return 0
