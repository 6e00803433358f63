"""The command line of a training, and YAML files of the same names: what wins, and what is refused."""

import sysconfig
from argparse import Namespace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .presets import PRESETS
from .training_arguments import VideoCaptionTrainingArguments

CLONED = Path(__file__).resolve().parents[3] / "recipes"
RECIPES = CLONED if CLONED.is_dir() else Path(sysconfig.get_path("data"), "share", "vidcap", "recipes")


class _Parser(HfArgumentParser):
    """Errors on one line: argparse would print two hundred lines of usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


# Options that do nothing unless one of others is above 0 or given: a run that ignored them would surprise at its end.
# Set to 0 they ask for nothing.
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

# Options that do nothing beside others.
_EXCLUDES = {"max_vocab_size": ("tokenizer", "text_embeddings", "decoder")}

Arguments = tuple[DataArguments, ModelArguments, VideoCaptionTrainingArguments, set[str]]


def parse(argv: list[str], program: str = "train_hf.py") -> Arguments:
    """Command line, on top of a preset, on top of a YAML file given first or by --recipe; and the names that were
    given in any of these. `program` is what errors call the command."""
    parser = _Parser(
        [DataArguments, ModelArguments, VideoCaptionTrainingArguments],  # type: ignore[list-item]
        prog=program,
        allow_abbrev=False,
    )

    recipe, from_recipe = None, []
    if argv and argv[0].endswith((".yaml", ".yml")):
        recipe, argv = Path(argv[0]), argv[1:]
    elif name := _given(parser, argv).get("recipe"):
        recipe = RECIPES / f"{name}.yaml"
    if recipe is not None:
        if not recipe.is_file():
            names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
            parser.error(f"{recipe}: no such recipe; there are {names}")
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            parser.error(f"{recipe}: not a list of `name: value` lines")
        from_recipe = _options(settings)
    if preset := _given(parser, from_recipe + argv).get("preset"):
        if preset not in PRESETS:
            parser.error(f"--preset {preset}: there are {', '.join(PRESETS)}")
        sizes = _options(PRESETS[preset])
        # A preset of the recipe is what the recipe starts from; one of the command line replaces its sizes.
        from_recipe = from_recipe + sizes if "preset" in _given(parser, argv) else sizes + from_recipe
    argv = from_recipe + argv
    try:
        *arguments, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except ValueError as error:
        parser.error(" ".join(str(error).split()))
    if unknown:
        parser.error(f"unknown option: {' '.join(unknown)}")
    given = set(_given(parser, argv))
    if "do_train" in given and not arguments[2].do_train:
        parser.error("--do_train False: this command trains; vidcap evaluate scores a model that there is")
    values = {name: value for each in arguments for name, value in vars(each).items()}
    for name, needed in _NEEDS.items():
        if name in given and values[name] and not any(values[each] for each in needed):
            others = " or ".join(f"--{each}" for each in needed)
            parser.error(f"--{name} {values[name]} does nothing without {others}: set it, or leave --{name} out")
    for name, excluded in _EXCLUDES.items():
        if name in given and (other := next((each for each in excluded if values[each]), None)):
            parser.error(f"--{name} {values[name]} does nothing beside --{other}: leave one of them out")
    return (*arguments, given)  # type: ignore[return-value]


def _given(parser: HfArgumentParser, argv: list[str]) -> dict[str, Any]:
    """The values of the options that stand in `argv`, without any default."""
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
