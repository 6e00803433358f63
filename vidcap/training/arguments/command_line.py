"""Parsing of a training's command line, preset and recipe."""

import difflib
import sysconfig
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from transformers import HfArgumentParser

from .data_arguments import DataArguments
from .model_arguments import PRESETS, ModelArguments
from .short_help import DESCRIPTION, USAGE, asks_for_help
from .training_arguments import VideoCaptionTrainingArguments

CLONED = Path(__file__).resolve().parents[3] / "recipes"
RECIPES = CLONED if CLONED.is_dir() else Path(sysconfig.get_path("data"), "share", "vidcap", "recipes")

# Options without effect unless one of others is given and not 0: a run that ignored them would surprise at its end.
_NEEDS = {
    "self_critical_anchor": ("self_critical_samples",),
    "text_warmup_steps": ("text_corpus",),
    "contrastive_type": ("contrastive_weight",),
    "word_dropout_warmup": ("word_dropout",),
    "loss_warmup": ("contrastive_weight", "masked_word_weight", "scheduled_sampling"),
    "evaluations": ("max_train_minutes",),
    "processor_time": ("max_train_minutes",),
    "motion_floor": ("motion",),
    "freeze_embeddings": ("text_embeddings", "decoder"),
    "freeze_decoder": ("decoder",),
    "decoder_learning_rate": ("decoder", "model_name_or_path"),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
}
# Names of options in other trainers, without separators.
_ELSEWHERE = {
    "num_train_epochs": ("epoch", "epochs", "maxepochs", "numepochs"),
    "max_steps": ("steps", "iterations", "iters", "maxiters", "numsteps", "maxtrainsteps"),
    "per_device_train_batch_size": ("batch", "batchsize", "bs", "trainbatchsize"),
    "learning_rate": ("lr", "lr0"),
    "weight_decay": ("wd",),
    "dataset": ("data", "datadir", "dataroot", "datapath", "datasetname", "traindatadir"),
    "output_dir": ("out", "output", "outdir", "savedir"),
    "model_name_or_path": ("model", "pretrained", "weights", "pretrainedmodelnameorpath"),
    "decoding_workers": ("workers", "numworkers"),
    "image_size": ("imgsz", "resolution"),
    "num_frames": ("frames", "nframes"),
    "resume_from_checkpoint": ("resume",),
    "lr_scheduler_type": ("scheduler", "lrscheduler"),
    "warmup_steps": ("warmup",),
    "early_stopping_patience": ("patience",),
    "optim": ("optimizer",),
}
# Options without effect beside others.
_EXCLUDES = {"max_vocab_size": ("tokenizer", "text_embeddings", "decoder")}


class TrainOptions(NamedTuple):
    """Options of a training, by subject.

    Args:
        data: Where clips come from.
        model: Shape of the model.
        training: How it is trained.
        given: Names of the options that were given; the others have their defaults.
    """

    data: DataArguments
    model: ModelArguments
    training: VideoCaptionTrainingArguments
    given: frozenset[str]


class _Parser(HfArgumentParser):
    """A parser with one-line errors, without two hundred lines of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def parse(argv: list[str], program: str = "train_hf.py") -> TrainOptions:
    """Parse a command line, on top of a preset, on top of a recipe.

    Args:
        program: Name of the command in errors.

    Raises:
        SystemExit: With status 2 on wrong usage, 0 after `--help all`.
    """
    parser = _Parser(
        [DataArguments, ModelArguments, VideoCaptionTrainingArguments],  # type: ignore[list-item]
        prog=program,
        usage=USAGE,
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    if asks_for_help(argv):
        parser.print_help()
        parser.exit()
    argv = _with_recipe_and_preset(parser, argv)
    try:
        data, model, training, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except ValueError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unknown option: {' '.join(unknown)}{_suggestion(parser, unknown)}")
    options = TrainOptions(data, model, training, frozenset(_given(parser, argv)))
    if mistake := _contradiction(options):
        parser.error(mistake)
    return options


def _suggestion(parser: HfArgumentParser, unknown: list[str]) -> str:
    """A question for the option that the first unknown one may stand for; empty if none is near."""
    name = unknown[0].partition("=")[0].lstrip("-").replace("-", "_")
    letters = name.replace("_", "").lower()
    options = [action.dest for action in parser._actions]
    meant = [option for option, names in _ELSEWHERE.items() if letters in names]
    near = meant or difflib.get_close_matches(name.lower(), options, n=1, cutoff=0.75)
    return f"; did you mean --{near[0]}?" if near else ""


def _with_recipe_and_preset(parser: HfArgumentParser, argv: list[str]) -> list[str]:
    """The command line behind the options that its recipe and preset stand for."""
    recipe, from_recipe = None, []
    if argv and argv[0].endswith((".yaml", ".yml")):
        recipe, argv = Path(argv[0]), argv[1:]
    elif name := _given(parser, argv).get("recipe"):
        recipe = RECIPES / f"{name}.yaml"
    if recipe is not None:
        if not recipe.is_file():
            names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
            parser.error(f"{recipe}: no such recipe; --recipe takes {names}")
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            parser.error(f"{recipe}: not a list of `name: value` lines")
        from_recipe = _options(settings)
    if preset := _given(parser, from_recipe + argv).get("preset"):
        if preset not in PRESETS:
            parser.error(f"--preset {preset} must be one of {', '.join(PRESETS)}")
        sizes = _options(PRESETS[preset])
        # A recipe changes the sizes of its own preset; a preset on the command line replaces the recipe's sizes.
        from_recipe = from_recipe + sizes if "preset" in _given(parser, argv) else sizes + from_recipe
    return from_recipe + argv


def _contradiction(options: TrainOptions) -> str | None:
    """The first pair of options that do not go together, in a sentence."""
    given = options.given
    if "do_train" in given and not options.training.do_train:
        return "--do_train False: this command trains; to score a model, run vidcap evaluate"
    values = {name: value for part in options[:3] for name, value in vars(part).items()}
    for name, needed in _NEEDS.items():
        if name in given and values[name] and not any(values[other] for other in needed):
            others = " or ".join(f"--{other}" for other in needed)
            return f"--{name} {values[name]} has no effect without {others}: add it, or leave --{name} out"
    for name, excluded in _EXCLUDES.items():
        if name in given and (other := next((other for other in excluded if values[other]), None)):
            return f"--{name} {values[name]} has no effect beside --{other}: leave one of them out"
    return None


def _given(parser: HfArgumentParser, argv: list[str]) -> dict[str, Any]:
    """Values of the options in `argv`, without defaults."""
    absent = object()
    names = Namespace(**{action.dest: absent for action in parser._actions})
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    given, _ = parser.parse_known_args(argv, names)
    for action in required:
        action.required = True
    return {name: value for name, value in vars(given).items() if value is not absent}


def _options(settings: dict[str, Any]) -> list[str]:
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
