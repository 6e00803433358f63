"""The report of a run: scores, and what the model was made of."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_vidcap import VideoCaptionForConditionalGeneration

from ..evaluation.evaluate import Evaluation, coverage_of, evaluate_model, peak_rss_mb
from ..evaluation.report.clip_pictures import ReportExample
from ..evaluation.report.curves import plot_history
from ..evaluation.report.errors import word_facts
from ..evaluation.report.report import write_report
from ..files import public_name
from ..inference.captioning import ModelCaptioner
from .arguments.training_arguments import changed_arguments
from .data import public_names
from .run_facts import run_facts
from .train_run import TrainRun

logger = logging.getLogger(__name__)
RUN_FILES = ("report.json", "report.html", "training_curve.png", "training_log.jsonl")
SOURCES = ("backbone", "tokenizer", "text_embeddings", "decoder", "model_name_or_path")  # may name local folders


def evaluate_on_test(run: TrainRun) -> Evaluation:
    """Scores on the test split; an empty evaluation without such a split."""
    rows = run.clips.sources.test
    if rows is None:
        logger.info(f"no {run.data.test_split} split: the report holds no scores")
        return Evaluation({}, [], [])
    test = run.clips.test(rows)
    captioner = ModelCaptioner(run.model, run.processor)
    evaluation = evaluate_model(captioner, test, train_captions=run.train_captions)
    return dataclasses.replace(evaluation, report=evaluation.report | {"coverage": coverage_of(rows, test)})


def report_of_run(run: TrainRun, evaluation: Evaluation, facts: dict[str, Any]) -> dict[str, Any]:
    """The content of `report.json`: the evaluation, and what the model was made of.

    Args:
        facts: Further facts, such as the number of steps and the seconds that they took.
    """
    arguments = shareable_arguments(run)
    words = word_facts(run.train_captions, evaluation.predictions, evaluation.report.get("grounding"))
    return {
        **evaluation.report,
        **facts,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": run.model.num_parameters(),
        "skipped_clips": run.clips.skipped,
        "data_sets": run.clips.sources.facts(),
        "words": words,
        "memory": memory_facts(run.model),
        "arguments": arguments,
        **run_facts(run.given, arguments, processes=run.args.world_size),
    }


def memory_facts(model: VideoCaptionForConditionalGeneration) -> dict[str, float] | None:
    """Number of remembered captions, and the part that they play; `None` without a memory."""
    config, search = model.config, model.generation_config
    if config.memory_shape is None:
        return None
    weight: float = getattr(search, "memory_weight", None) or 0.0
    return {"captions": config.memory_shape[0], "weight": weight, "share": config.memory_share}


def shareable_arguments(run: TrainRun) -> dict[str, Any]:
    """Options without secrets and local paths; on training, only changed ones."""
    return {
        **dataclasses.asdict(run.data),
        "dataset": public_names(run.data.dataset),
        "feature_cache": None,
        "text_corpus": public_name(run.data.text_corpus),
        **dataclasses.asdict(run.model_arguments),
        **{name: public_name(getattr(run.model_arguments, name)) for name in SOURCES},
        **changed_arguments(run.args),
    }


def remove_reports(directory: Path) -> None:
    """Remove the files that [`write_run`] wrote for an earlier model."""
    for name in RUN_FILES:
        (directory / name).unlink(missing_ok=True)


def write_run(
    directory: Path, report: dict[str, Any], examples: Sequence[ReportExample], history: list[dict[str, Any]]
) -> None:
    """Write the report, the training curve and the log."""
    write_report(directory, report, examples=examples, history=history)
    _, _, curve, log = (directory / name for name in RUN_FILES)
    plot_history(history, curve)
    log.write_text("".join(json.dumps(entry) + "\n" for entry in history))
