"""What a run leaves behind beside its weights: how well it does, and what it was made of and how."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.evaluate import Evaluation, coverage_of, evaluate_model, peak_rss_mb
from ..evaluation.report.clip_pictures import ReportExample
from ..evaluation.report.curves import plot_history
from ..evaluation.report.errors import word_facts
from ..evaluation.report.report import write_report
from ..inference.captioning import ModelCaptioner
from .arguments.data_arguments import DataArguments
from .arguments.model_arguments import ModelArguments
from .arguments.training_arguments import VideoCaptionTrainingArguments, changed_arguments
from .clips import TrainingClips
from .data import public_name, public_names
from .run_facts import run_facts

logger = logging.getLogger("vidcap")
RUN_FILES = ("report.json", "report.html", "training_curve.png", "training_log.jsonl")
SOURCES = ("backbone", "tokenizer", "text_embeddings", "decoder", "model_name_or_path")  # may name local folders


def evaluate_on_test(model: Any, processor: Any, clips: TrainingClips, captions: Sequence[str]) -> Evaluation:
    """Scores on the test split, with its coverage; an empty evaluation where there is no such split.

    Args:
        captions: Those of the training clips.
    """
    rows = clips.sources.test
    if rows is None:
        logger.info(f"no {clips.data.test_split} split: the report holds no scores")
        return Evaluation({}, [], [])
    test = clips.test(rows)
    found = evaluate_model(ModelCaptioner(model, processor), test, train_captions=captions)
    return dataclasses.replace(found, report=found.report | {"coverage": coverage_of(rows, test)})


def report_of_run(
    data: DataArguments,
    model_args: ModelArguments,
    args: VideoCaptionTrainingArguments,
    given: set[str],
    *,
    clips: TrainingClips,
    captions: Sequence[str],
    model: Any,
    evaluation: Evaluation,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """`report.json`: the evaluation, and what the model was made of and how.

    Args:
        given: Names of the options that were given.
        captions: Those of the training clips.
        facts: Further ones, such as the number of steps and the seconds it took.
    """
    arguments = shareable_arguments(data, model_args, args)
    return {
        **evaluation.report,
        **facts,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": model.num_parameters(),
        "skipped_clips": clips.skipped,
        "data_sets": clips.sources.facts(),
        "words": word_facts(captions, evaluation.predictions, evaluation.report.get("grounding")),
        "arguments": arguments,
        **run_facts(given, arguments, processes=args.world_size),
    }


def shareable_arguments(
    data: DataArguments, model_args: ModelArguments, args: VideoCaptionTrainingArguments
) -> dict[str, Any]:
    """The arguments without secrets and without paths of the machine; those of training that are not the defaults."""
    return {
        **dataclasses.asdict(data),
        "dataset": public_names(data.dataset),
        "feature_cache": None,
        "text_corpus": public_name(data.text_corpus),
        **dataclasses.asdict(model_args),
        **{name: public_name(getattr(model_args, name)) for name in SOURCES},
        **changed_arguments(args),
    }


def remove_reports(directory: Path) -> None:
    """Removes what [`write_run`] wrote of an earlier run, whose model has been replaced."""
    for name in RUN_FILES:
        (directory / name).unlink(missing_ok=True)


def write_run(
    directory: Path, report: dict[str, Any], examples: Sequence[ReportExample], history: list[dict[str, Any]]
) -> None:
    """Writes `report.json` and `.html`, the curve of the training and its log."""
    write_report(directory, report, examples=examples, history=history)
    _, _, curve, log = (directory / name for name in RUN_FILES)
    plot_history(history, curve)
    log.write_text("".join(json.dumps(entry) + "\n" for entry in history))
