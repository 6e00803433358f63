"""The short help of a training, shown without importing torch."""

import argparse
from collections.abc import Sequence
from dataclasses import fields

from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .training_options import TrainingOptions

DESCRIPTION = (
    "Train a video captioner on captioned clips. The output folder then holds the model, its report and its card. "
    "The same command, given again after an interruption, continues from the last checkpoint."
)
USAGE = "%(prog)s [RECIPE.yaml] --dataset FOLDER_OR_ID --output_dir DIR [options]"
ALL_OPTIONS = "--help all shows every option, including those of transformers."
# Group -> options with their metavars; none for switches.
GROUPS: dict[str, dict[str, str | None]] = {
    "data": {
        "dataset": "FOLDER_OR_ID ...",
        "dataset_weights": "X ...",
        "caption_column": "NAME ...",
        "streaming": None,
        "skip_broken_clips": None,
        "augment": "PARTS",
        "feature_cache": "DIR",
    },
    "model": {
        "model_name_or_path": "DIR_OR_ID",
        "preset": "NAME",
        "backbone": "NAME_OR_ID",
        "decoder": "DIR_OR_ID",
        "lora": "PART ...",
        "num_frames": "N",
        "image_size": "PX ...",
    },
    "training": {
        "output_dir": "DIR",
        "recipe": "NAME",
        "max_train_minutes": "X",
        "num_train_epochs": "N",
        "per_device_train_batch_size": "N",
        "learning_rate": "X",
        "resume_from_checkpoint": "DIR",
        "seed": "N",
    },
    "evaluation": {"evaluations": "N", "max_validation_clips": "N", "early_stopping_patience": "N", "num_beams": "N"},
    "Hub and trackers": {"push_to_hub": None, "hub_model_id": "USER/NAME", "report_to": "NAME"},
}


def asks_for_help(argv: Sequence[str]) -> str | None:
    """Which help a command line asks for: `short`, `all`, or `None`."""
    for index, word in enumerate(argv):
        if word in ("-h", "--help"):
            return "all" if argv[index + 1 : index + 2] == ["all"] else "short"
        if word == "--help=all":
            return "all"
    return None


def short_help(program: str) -> str:
    """The help text of [`GROUPS`]."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage=USAGE,
        description=DESCRIPTION,
        epilog=ALL_OPTIONS,
        add_help=False,
    )
    declared = {
        each.name: each for each in (*fields(DataArguments), *fields(ModelArguments), *fields(TrainingOptions))
    }
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, metavar in options.items():
            text = declared[name].metadata["help"]
            if metavar is None:
                group.add_argument(f"--{name}", action="store_true", help=text)
            else:
                group.add_argument(f"--{name}", metavar=metavar, default=declared[name].default, help=text)
    return parser.format_help()
