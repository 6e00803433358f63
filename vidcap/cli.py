"""The command `vidcap`.

The status is 0 on success, 2 on wrong usage, 1 on a failure explained in one line, 130 when interrupted, and 141 when
the reader of the output has gone. A traceback appears only with `--debug` or `VIDCAP_DEBUG=1`. Results go to the
standard output, everything else to the standard error.
"""

import argparse
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from modeling_vidcap.registration import when_loaded

from . import __version__
from .commands.cache import add_cache_command
from .commands.caption import add_caption_command
from .commands.captioner_options import add_family_options
from .commands.compare import add_compare_command
from .commands.data_prepare import add_data_commands
from .commands.evaluate import add_evaluate_command
from .commands.match import add_match_commands
from .commands.options import add_batch_size_option, add_debug_option, add_device_option, add_model_option, whole
from .commands.push import add_push_command
from .files import ESCAPES
from .messages import as_options


class _Parser(argparse.ArgumentParser):
    """A parser with one-line errors and without abbreviated options."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: With status 2 on wrong usage, 0 after `--help` and `--version`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:
        print("vidcap: error: the standard output is closed", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPES)  # neither file names nor terminals need be UTF-8
    debug = bool(os.environ.get("VIDCAP_DEBUG"))
    try:
        # Read when torch is imported. Threads that spin while they wait for one another take the cores from those that
        # read clips; beside another busy process, one clip would take seconds (docs/log.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        if argv[:1] == ["train"]:
            from .training.main import main as train

            return train(argv[1:], "vidcap train")
        arguments = build_parser().parse_args(argv)
        debug |= getattr(arguments, "debug", False)
        if check := getattr(arguments, "check", None):
            check(arguments)
        if not debug:
            when_loaded(_quieten)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as from `| head`; Python must not write to the pipe at its end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("vidcap: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"vidcap: error: {as_options(_explain(error))}", file=sys.stderr)
        return 1


def build_parser(parser_class: type[argparse.ArgumentParser] = _Parser) -> argparse.ArgumentParser:
    """The commands and their options; a command imports packages of extras when it runs.

    Args:
        parser_class: Class of all parsers, whose `error` decides what becomes of wrong usage.
    """
    parser = parser_class(prog="vidcap", description="Small video-captioning models: train, evaluate, share, run.")
    parser.add_argument("--version", action="version", version=f"vidcap {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    device = parser_class(add_help=False)
    add_device_option(device)
    device.add_argument(
        "--backend",
        choices=("auto", "torch", "openvino"),
        default="auto",
        help="engine that runs the backbone; openvino needs its extra [auto: openvino if it is installed and the CPU "
        "has bf16 instructions, otherwise torch]",
    )
    add_batch_size_option(device)
    reader = parser_class(add_help=False, parents=[device])
    add_model_option(reader)
    generation = parser_class(add_help=False)
    generation.add_argument(
        "--num_beams", type=whole, metavar="N", help="beams of the caption search [the model's own]"
    )
    generation.add_argument(
        "--max_new_tokens", type=whole, metavar="N", help="tokens per caption, at most [the model's own]"
    )
    add_family_options(generation)

    caption = add_caption_command(commands, [reader, generation], parser_class)
    evaluate = add_evaluate_command(commands, [device, generation], parser_class)
    add_compare_command(commands)

    classify, search = add_match_commands(commands, [reader])
    onnx = commands.add_parser(
        "export-onnx",
        help="write a model as ONNX graphs",
        description="Write encoder and decoder as ONNX graphs, for use without torch, and compare their outputs with "
        "the model's. Needs the extra onnx.",
    )
    add_model_option(onnx)
    onnx.add_argument(
        "--output",
        type=Path,
        required=True,
        dest="output_folder",
        metavar="DIR",
        help="folder to write to, created if needed",
    )
    onnx.set_defaults(run=_export_onnx)

    commands.add_parser("train", help="train a model (options: vidcap train --help)")

    doctor = commands.add_parser(
        "doctor",
        help="check the installation",
        description="Check the installation: versions, which containers decode, devices, and what is missing. The "
        "status is 1 if there is a problem.",
    )
    doctor.add_argument("--format", choices=("text", "json"), default="text", help="format of the output [text]")
    doctor.set_defaults(run=_doctor)

    demo = commands.add_parser(
        "demo-data",
        help="draw a captioned data set to try things on",
        description="Draw a data set of short captioned clips whose figures perform actions.",
    )
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for the data set")
    for split, count in (("train", 2000), ("validation", 100), ("test", 512)):
        default, harder = (None, "; 3000 with --hard") if split == "train" else (count, "")
        text = f"clips of the {split} split [{count}{harder}]"
        demo.add_argument(f"--{split}", type=int, default=default, metavar="N", help=text)
    demo.add_argument("--seed", type=int, default=0, help="random seed [0]")
    demo.add_argument("--size", type=int, default=64, metavar="PX", help="side of the frames in pixels [64]")
    demo.add_argument(
        "--hard",
        action="store_true",
        help="draw from 12 actions, three per clip, with 30 %% of their orders in the train split",
    )
    demo.set_defaults(run=_demo_data)

    push = add_push_command(commands)

    prepare = add_data_commands(commands, parser_class)
    add_cache_command(commands, parser_class)

    for command in (caption, evaluate, classify, search, doctor, demo, push, onnx, prepare):
        add_debug_option(command)
    return parser


def _quieten() -> None:
    """Silence the libraries' warnings and progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _explain(error: Exception) -> str:
    """The error in one line; several for a list of files."""
    # A DatasetError exists only if its module was imported; importing it here would need packages of an extra.
    data = sys.modules.get("processing.clips.sources")
    if data is not None and isinstance(error, data.DatasetError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{message}; run: pip install 'vidcap[train,evaluate]'"
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)) and message:
        return message
    return f"unexpected {type(error).__name__}: {message} (for a traceback, set VIDCAP_DEBUG=1)"


def _export_onnx(arguments: argparse.Namespace) -> int:
    from .inference.onnx_export import run

    return run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    import json

    from .commands.doctor import diagnose

    diagnosis = diagnose()
    as_json = arguments.format == "json"
    print(json.dumps(diagnosis.as_dict(), indent=2) if as_json else diagnosis.as_text(), end="\n" if as_json else "")
    return 1 if diagnosis.problems else 0


def _demo_data(arguments: argparse.Namespace) -> int:
    from .demo.demo_data import generate_demo_data

    counts = generate_demo_data(
        arguments.folder,
        train=arguments.train if arguments.train is not None else 3000 if arguments.hard else 2000,
        validation=arguments.validation,
        test=arguments.test,
        seed=arguments.seed,
        size=arguments.size,
        hard=arguments.hard,
    )
    print(f"{arguments.folder}: {', '.join(f'{count} {split}' for split, count in counts.items())} clips")
    return 0
