"""The command `vidcap`.

Status 0 on success, 2 on wrong usage, 1 on a failure that is explained in one line, 130 when interrupted, 141 where
nobody reads on. A traceback appears with `--debug` or `VIDCAP_DEBUG=1` only. Results go to the standard output, all
else to the standard error.
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
from .commands.compare import add_compare_command
from .commands.data_prepare import add_data_commands
from .commands.evaluate import add_evaluate_command
from .commands.family_options import add_family_options
from .commands.match import add_match_commands
from .commands.option_types import whole
from .commands.push import add_push_command
from .files import ESCAPES
from .messages import as_options


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
    if sys.stdout is None:
        print("vidcap: error: the standard output is closed", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPES)  # a file's name need not be UTF-8, nor a terminal
    debug = bool(os.environ.get("VIDCAP_DEBUG"))
    try:
        # Heeded as torch is imported. Threads that spin while they wait for one another take the cores from those that
        # read clips, and beside another busy process one clip would take seconds (docs/log.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        if argv[:1] == ["train"]:
            from .training.run import main as train

            return train(argv[1:], "vidcap train")
        arguments = build_parser().parse_args(argv)
        debug |= arguments.debug
        if check := getattr(arguments, "check", None):
            check(arguments)
        if not debug:
            when_loaded(_quieten)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # of `| head`: nobody reads on, also not what Python would write when it ends
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
    """The commands and their options; packages of extras are imported when a command runs.

    Args:
        parser_class: Class of all parsers, whose `error` decides what becomes of wrong usage.
    """
    parser = parser_class(prog="vidcap", description="Small video-captioning models: train, evaluate, share, run.")
    parser.add_argument("--version", action="version", version=f"vidcap {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    device = parser_class(add_help=False)
    device.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is any"
    )
    device.add_argument(
        "--backend",
        choices=("auto", "torch", "openvino"),
        default="auto",
        help="engine that runs the backbone; openvino is an extra [auto: openvino where it is installed and the CPU "
        "has instructions for bf16, else torch]",
    )
    device.add_argument("--batch_size", type=whole, default=16, metavar="N", help="clips taken at once [16]")
    reader = parser_class(add_help=False, parents=[device])
    reader.add_argument("--model", required=True, metavar="DIR_OR_ID", help="model folder, or Hub id user/name")
    generation = parser_class(add_help=False)
    generation.add_argument("--num_beams", type=whole, metavar="N", help="beams of the search [the model's own]")
    generation.add_argument("--max_new_tokens", type=whole, metavar="N", help="longest caption [the model's own]")
    add_family_options(generation)

    caption = add_caption_command(commands, [reader, generation], parser_class)
    evaluate = add_evaluate_command(commands, [device, generation], parser_class)
    add_compare_command(commands)

    classify, search = add_match_commands(commands, [reader])
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
    for split, count in (("train", 2000), ("validation", 100), ("test", 512)):
        default, harder = (None, "; 3000 with --hard") if split == "train" else (count, "")
        demo.add_argument(f"--{split}", type=int, default=default, metavar="N", help=f"clips [{count}{harder}]")
    demo.add_argument("--seed", type=int, default=0, help="[0]")
    demo.add_argument("--size", type=int, default=64, metavar="PX", help="side of the frames [64]")
    demo.add_argument("--hard", action="store_true", help="12 actions, three in a row; 30%% of the orders in training")
    demo.set_defaults(run=_demo_data)

    push = add_push_command(commands)

    prepare = add_data_commands(commands, parser_class)
    add_cache_command(commands, parser_class)

    for command in (caption, evaluate, classify, search, doctor, demo, push, onnx, prepare):
        command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _quieten() -> None:
    """The libraries' progress bars and warnings are not for people who only want captions."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _explain(error: Exception) -> str:
    """One line for the user; several where the error is a list of files."""
    # Its error exists only where the module was imported; to import it here would need packages of an extra.
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
    return f"unexpected {type(error).__name__}: {message} (VIDCAP_DEBUG=1 shows where)"


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
