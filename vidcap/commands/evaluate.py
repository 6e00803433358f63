"""`vidcap evaluate`: a model, or captions of another source -> a report."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import json_lines, output_mistake
from .evaluation_data import EvaluationData
from .options import above_zero, add_column_options, control_names, whole

if TYPE_CHECKING:
    import datasets

    from ..evaluation.evaluate import Evaluation
    from ..evaluation.predictions import References
    from .options import Subcommands

# Options that have no effect on a file of captions, with their values if they are not given.
_OF_MODELS = {
    "num_beams": None, "max_new_tokens": None, "num_frames": None, "feature_cache": None, "feature_cache_limit": None,
    "skip_broken_clips": False, "device": "auto", "backend": "auto", "batch_size": 16,
    "controls": None, "control_clips": None, "prompt": None, "dtype": "auto",
}  # fmt: skip


def add_evaluate_command(
    commands: "Subcommands", parents: Sequence[argparse.ArgumentParser], parser_class: type[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """Add `evaluate` to the commands; `parents` have options of generation."""
    evaluate = commands.add_parser(
        "evaluate",
        parents=list(parents),
        help="score a model, or a file of captions",
        description="Caption a split and score it, with controls that show how far the captions depend on the videos, "
        "or score captions of another source. A page with pictures, of the same name but ending in .html, is written "
        "beside the report.",
    )
    captioner = evaluate.add_mutually_exclusive_group(required=True)
    captioner.add_argument("--model", metavar="DIR_OR_ID", help="captioner to score: a folder, or a Hub id user/name")
    captioner.add_argument(
        "--hypotheses",
        type=Path,
        metavar="FILE",
        help='captions to score: lines {"file_name", "hypothesis"}, or COCO results [{"image_id", "caption"}]',
    )
    truth = evaluate.add_mutually_exclusive_group(required=True)
    truth.add_argument(
        "--dataset",
        metavar="FOLDER_OR_ID",
        help="data set to score on: a folder with SPLIT/metadata.jsonl, or a Hub id",
    )
    truth.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help='references for --hypotheses: COCO annotations, MSR-VTT JSON, or .jsonl with {"file_name", "captions"}',
    )
    evaluate.add_argument("--split", help="split to score on [test]")
    add_column_options(evaluate)
    evaluate.add_argument("--output", required=True, type=Path, metavar="REPORT.json", help="report to write")
    evaluate.add_argument(
        "--predictions", type=Path, metavar="FILE.jsonl", help="file to write each clip's captions to"
    )
    evaluate.add_argument(
        "--allow_missing",
        action="store_true",
        help="score the clips that have both hypothesis and references, and report how many do not",
    )
    evaluate.add_argument(
        "--train_dataset",
        metavar="FOLDER_OR_ID",
        help="data set of the training captions, for the control most_frequent [--dataset]",
    )
    evaluate.add_argument("--train_split", default="train", help="split of the training captions [train]")
    evaluate.add_argument(
        "--near_duplicates",
        action="store_true",
        help="list clips of --dataset that look like a training clip; decodes all clips of both splits",
    )
    evaluate.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of the data set whose values are also scored separately; repeatable",
    )
    evaluate.add_argument(
        "--skip_broken_clips", action="store_true", help="leave out clips that cannot be read, and list them"
    )
    evaluate.add_argument("--num_frames", type=whole, metavar="N", help="frames to read per clip [the model's own]")
    evaluate.add_argument("--limit", type=whole, metavar="N", help="clips to score, counted from the first [all]")
    evaluate.add_argument(
        "--feature_cache",
        type=Path,
        metavar="DIR",
        help="folder for decoded clips and features [$VIDCAP_CACHE or ~/.cache/vidcap]",
    )
    evaluate.add_argument(
        "--feature_cache_limit", type=above_zero, metavar="GB", help="size limit of that folder [$VIDCAP_CACHE_LIMIT]"
    )
    evaluate.add_argument(
        "--controls", type=control_names, metavar="NAMES", help="controls to run: all, none, or names as a,b,c [all]"
    )
    evaluate.add_argument(
        "--control_clips", type=whole, metavar="N", help="clips to caption again for most controls [200]"
    )
    evaluate.set_defaults(run=run, check=lambda arguments: _check(arguments, parser_class(prog="vidcap evaluate")))
    return evaluate


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse mistakes that would otherwise show after minutes of work."""
    if arguments.near_duplicates and arguments.dataset is None:
        parser.error("--near_duplicates compares clips, and --references holds captions alone; name a --dataset")
    if arguments.output.suffix != ".json":
        parser.error(f"--output {arguments.output} must end in .json")
    page = arguments.output.with_suffix(".html")
    written = {"--output": arguments.output, "the page of --output": page, "--predictions": arguments.predictions}
    read = {f"--{name}": getattr(arguments, name) for name in ("hypotheses", "references")}
    if mistake := output_mistake(written, {name: [path] for name, path in read.items() if path is not None}):
        parser.error(mistake)
    if arguments.model is not None:
        if arguments.references is not None:
            parser.error("--references goes with --hypotheses, and --model needs clips; name a --dataset")
        if arguments.allow_missing:
            parser.error(
                "--allow_missing goes with --hypotheses; to leave out unreadable clips, add --skip_broken_clips"
            )
        return
    for name, unset in _OF_MODELS.items():
        if getattr(arguments, name) != unset:
            parser.error(f"--{name} needs a --model, and --hypotheses holds captions already; leave it out")
    if arguments.dataset is None:
        for name in ("by", "video_column", "caption_column"):
            if getattr(arguments, name):
                parser.error(f"--{name} names a column of a --dataset, and --references has none; leave it out")
    for name in ("hypotheses", "references"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path}: no such file")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a model or score captions, and print the main scores."""
    from ..evaluation.controls.verdict import verdict_text

    report = write_evaluation(arguments)
    sys.stdout.write(summary(report) + verdict_text(report.get("verdict", [])))
    return 0


def write_evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate as the command line says, write the report and its page, and return the report."""
    from ..evaluation.report.report import write_report
    from ..files import write_atomically, write_bytes_atomically

    data = EvaluationData(arguments)
    evaluation = (_evaluate_file if arguments.model is None else _evaluate_model)(arguments, data)
    report = evaluation.report
    if data.train_rows is not None:
        report["leakage"] = _leakage(evaluation.predictions, data, arguments)
    if arguments.predictions is not None:
        write_atomically(arguments.predictions, json_lines(evaluation.predictions))
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=f".{arguments.output.name}-") as scratch:
        try:
            write_report(scratch, report, examples=evaluation.examples)
            page = Path(scratch, "report.html").read_bytes()
            write_bytes_atomically(arguments.output.with_suffix(".html"), page)
        finally:  # the measurements are kept even if the page cannot be drawn
            if (measured := Path(scratch, "report.json")).is_file():
                write_bytes_atomically(arguments.output, measured.read_bytes())
    return report


def _evaluate_model(arguments: argparse.Namespace, data: EvaluationData) -> "Evaluation":
    from processing.clips.clip_dataset import ClipDataset

    from ..evaluation.controls.controls import CONTROLS
    from ..evaluation.evaluate import CONTROL_CLIPS, coverage_of, evaluate_model
    from .captioner_options import generation_options, load_for_command

    rows = data.rows
    assert rows is not None  # a --model needs a --dataset
    if arguments.limit is not None:
        rows = rows.select(range(min(arguments.limit, len(rows))))
    train_captions = data.train_captions  # before the model, so that missing data shows at once
    captioner = load_for_command(arguments)
    skipped: list[dict[str, str]] = []

    def skip(file_name: str, reason: str) -> None:
        skipped.append({"file_name": file_name, "reason": reason})

    cache = captioner.open_cache(
        folder=arguments.feature_cache, backend=arguments.backend, limit=arguments.feature_cache_limit
    )
    clips = ClipDataset(rows, cache)
    clips = clips.prepare("reading clips", on_broken=skip if arguments.skip_broken_clips else None)
    evaluation = evaluate_model(
        captioner,
        clips,
        train_captions=train_captions,
        by=arguments.by,
        batch_size=arguments.batch_size,
        controls=CONTROLS if arguments.controls is None else arguments.controls,
        control_clips=arguments.control_clips or CONTROL_CLIPS,
        **generation_options(arguments),
    )
    for name, reason in evaluation.report.get("left_out", {}).items():
        print(f"vidcap: note: {name} is left out: {reason}", file=sys.stderr)
    if cache.limit is not None:
        cache.limit.trim()
    evaluation.report |= {
        "coverage": coverage_of(rows, clips),
        "model": str(arguments.model),
        "dataset": str(arguments.dataset),
        "split": arguments.split or "test",
        "skipped_clips": skipped,
    }
    return evaluation


def _evaluate_file(arguments: argparse.Namespace, data: EvaluationData) -> "Evaluation":
    from ..evaluation.controls.controls import evaluate_captions
    from ..evaluation.evaluate import Evaluation, column
    from ..evaluation.predictions import coverage_note, match_captions, read_references
    from ..evaluation.report.examples import load_examples
    from ..evaluation.report.report import add_details
    from ..versions import stack_versions

    rows = data.rows
    if rows is None:
        references = read_references(arguments.references, split=arguments.split)
        source = {"references": str(arguments.references)}
    else:
        references = _data_set_references(arguments, rows)
        source = {"dataset": str(arguments.dataset), "split": arguments.split or "test"}
    matched = match_captions(
        arguments.hypotheses, references, limit=arguments.limit, allow_missing=arguments.allow_missing
    )
    kinds = None
    if rows is not None:
        positions = {name: index for index, name in enumerate(references.captions)}
        rows = rows.select([positions[name] for name in matched.names])
        kinds = column(rows, "kind")
    report = evaluate_captions(matched.hypotheses, matched.references, train_captions=data.train_captions, kinds=kinds)
    predictions: list[dict[str, Any]] = [
        {"file_name": name, "hypothesis": hypothesis, "references": truths}
        for name, hypothesis, truths in zip(matched.names, matched.hypotheses, matched.references, strict=True)
    ]
    add_details(report, predictions, columns={} if rows is None else {name: rows[name] for name in arguments.by})
    report |= {
        "clips": len(predictions),
        "coverage": matched.coverage,
        "hypotheses": str(arguments.hypotheses),
        **source,
        "versions": stack_versions(),
    }
    if note := coverage_note(matched.coverage):
        print(f"vidcap: warning: {note}", file=sys.stderr)
    return Evaluation(report, predictions, [] if rows is None else load_examples(rows, predictions))


def _data_set_references(arguments: argparse.Namespace, rows: "datasets.Dataset") -> "References":
    """Captions of the rows of a split, by file name."""
    from processing.clips.sources import DatasetError

    from ..evaluation.predictions import References

    dataset, split = arguments.dataset, arguments.split or "test"
    names, captions = list(rows["file_name"]), list(rows["captions"])
    by_name = dict(zip(names, captions, strict=True))
    if len(by_name) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise DatasetError(
            f"{dataset}: {twice} occurs twice in {split}, so its caption is ambiguous; keep one of the two"
        )
    return References(f"{dataset} ({split})", by_name)


def _leakage(predictions: list[dict[str, Any]], data: EvaluationData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Clips and captions that are also in the training split."""
    from ..evaluation.controls.leakage import caption_leakage, near_clips, shared_clips

    train_rows = data.train_rows
    references = [prediction["references"] for prediction in predictions]
    leakage: dict[str, Any] = caption_leakage(references, data.train_captions or [])
    if data.rows is not None and train_rows is not None:
        scored = {prediction["file_name"] for prediction in predictions}
        rows = data.rows.select([index for index, name in enumerate(data.rows["file_name"]) if name in scored])
        leakage["clips"] = shared_clips(rows, train_rows)
        leakage["clips_in_train"] = sum(len(clip["files"]["test"]) for clip in leakage["clips"])
        if arguments.near_duplicates:
            leakage |= near_clips(rows, train_rows)
            print(
                f"{leakage['clips_near_train']} clips look like a clip of {arguments.train_split}, with other bytes "
                f"({leakage['not_compared']} clips were not compared, since they cannot be read)",
                file=sys.stderr,
            )
        if leakage["clips_in_train"]:
            print(
                f"vidcap: warning: {leakage['clips_in_train']} of the clips are also in {arguments.train_split}; the "
                "report lists them under leakage",
                file=sys.stderr,
            )
    return leakage


def summary(report: dict[str, Any]) -> str:
    """A small table of the scores and of each control."""
    columns = ("cider", "bleu4", "rougeL", "exact", "distinct")
    lines = [f"{'':14}" + "".join(f"{name:>10}" for name in columns)]
    for name, scores in {"scores": report["scores"], **report["controls"]}.items():
        lines.append(f"{name:14}" + "".join(f"{scores[column]:10.3f}" for column in columns))
    if "exact_reversed" in report["controls"].get("reversed", {}):
        lines.append(f"exact_reversed {report['controls']['reversed']['exact_reversed']:.3f}")
    coverage = report["coverage"]
    if coverage["scored"] < coverage["asked"]:
        lines.append(f"scored {coverage['scored']} of {coverage['asked']} clips")
    return "\n".join(lines) + "\n"
