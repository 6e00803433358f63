"""`vidcap evaluate`: a model and a data set, or captions and references -> `report.json`, `report.html` beside it."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import json_lines, output_mistake
from .option_types import above_zero, control_names, whole

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.predictions import References

# What a file of captions leaves without a meaning: option -> its value where it was not given.
_OF_MODELS = {
    "num_beams": None, "max_new_tokens": None, "num_frames": None, "feature_cache": None, "feature_cache_limit": None,
    "skip_broken_clips": False, "device": "auto", "backend": "auto", "batch_size": 16,
    "controls": None, "control_clips": None, "prompt": None, "dtype": "auto",
}  # fmt: skip


def add_evaluate_command(
    commands: Any, parents: Sequence[argparse.ArgumentParser], parser_class: type[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """Adds `evaluate` to the commands of `vidcap`.

    Args:
        commands: What `add_subparsers` of the main parser returned.
        parents: Parsers with the options of generation, without `--model`.
        parser_class: The class of the parsers.
    """
    evaluate = commands.add_parser(
        "evaluate",
        parents=list(parents),
        help="score a model, or a file of captions",
        description="Caption a split and score it, with controls that show whether captions are owed to the videos, "
        "or score captions that something else wrote. A page with pictures, of the same name with the ending .html, "
        "appears beside the report.",
    )
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR_OR_ID", help="model folder, or Hub id user/name")
    what.add_argument(
        "--hypotheses",
        type=Path,
        metavar="FILE",
        help='captions to score: lines {"file_name", "hypothesis"}, or COCO results [{"image_id", "caption"}]',
    )
    truth = evaluate.add_mutually_exclusive_group(required=True)
    truth.add_argument("--dataset", metavar="FOLDER_OR_ID", help="folder with SPLIT/metadata.jsonl")
    truth.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help='of --hypotheses: COCO annotations, MSR-VTT JSON, or .jsonl with {"file_name", "captions"}',
    )
    evaluate.add_argument("--split", help="[test]")
    evaluate.add_argument("--video_column", metavar="NAME", help="column of the clips [recognised]")
    evaluate.add_argument("--caption_column", metavar="NAME", help="column of their captions [recognised]")
    evaluate.add_argument("--output", required=True, type=Path, metavar="REPORT.json", help="the report")
    evaluate.add_argument("--predictions", type=Path, metavar="FILE.jsonl", help="write each clip's captions")
    evaluate.add_argument(
        "--allow_missing",
        action="store_true",
        help="of --hypotheses: score the clips that have both, and say how many have not",
    )
    evaluate.add_argument(
        "--train_dataset", metavar="FOLDER_OR_ID", help="where the most frequent caption comes from [--dataset]"
    )
    evaluate.add_argument("--train_split", default="train", help="its split [train]")
    evaluate.add_argument(
        "--near_duplicates",
        action="store_true",
        help="list clips of a --dataset that look like a training clip; decodes all clips of both splits",
    )
    evaluate.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="score by a column of the data set; repeatable"
    )
    evaluate.add_argument("--skip_broken_clips", action="store_true", help="leave out, and list, unreadable clips")
    evaluate.add_argument("--num_frames", type=whole, metavar="N", help="frames taken of a clip [the model's own]")
    evaluate.add_argument("--limit", type=whole, metavar="N", help="the first N clips only")
    evaluate.add_argument(
        "--feature_cache", type=Path, metavar="DIR", help="decoded clips [$VIDCAP_CACHE or ~/.cache/vidcap]"
    )
    evaluate.add_argument(
        "--feature_cache_limit", type=above_zero, metavar="GB", help="size of all of it [$VIDCAP_CACHE_LIMIT]"
    )
    evaluate.add_argument("--controls", type=control_names, metavar="NAMES", help="all, none, or some, as a,b,c [all]")
    evaluate.add_argument(
        "--control_clips", type=whole, metavar="N", help="clips captioned anew for most of them [200]"
    )
    evaluate.set_defaults(run=run, check=lambda arguments: _check(arguments, parser_class(prog="vidcap evaluate")))
    return evaluate


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Mistakes that would otherwise show after minutes of work."""
    if arguments.near_duplicates and arguments.dataset is None:
        parser.error("--near_duplicates looks at clips, and --references have captions only: name a --dataset")
    if arguments.output.suffix != ".json":
        parser.error(f"--output {arguments.output}: the report's name must end in .json")
    page = arguments.output.with_suffix(".html")
    written = {"--output": arguments.output, "the page of --output": page, "--predictions": arguments.predictions}
    read = {f"--{name}": getattr(arguments, name) for name in ("hypotheses", "references")}
    if mistake := output_mistake(written, {name: [path] for name, path in read.items() if path is not None}):
        parser.error(mistake)
    if arguments.model is not None:
        if arguments.references is not None:
            parser.error("--references belong to --hypotheses; a --model needs clips: name a --dataset")
        if arguments.allow_missing:
            parser.error("--allow_missing is for --hypotheses; for clips that cannot be read: --skip_broken_clips")
        return
    for name, unset in _OF_MODELS.items():
        if getattr(arguments, name) != unset:
            parser.error(f"--{name} is for a --model; --hypotheses are captions already: leave it out")
    if arguments.dataset is None:
        for name in ("by", "video_column", "caption_column"):
            if getattr(arguments, name):
                parser.error(f"--{name} names a column of a --dataset; --references have captions only")
    for name in ("hypotheses", "references"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path}: no such file")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates `arguments.model` or scores `arguments.hypotheses`, and prints the main scores."""
    from ..evaluation.controls.verdict import verdict_text

    report = write_evaluation(arguments)
    sys.stdout.write(summary(report) + verdict_text(report.get("verdict", [])))
    return 0


def write_evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluates as the command line says, writes the report and its page, and returns the report."""
    from ..evaluation.report.report import write_report
    from ..files import write_atomically, write_bytes_atomically

    data = _Data(arguments)
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
        finally:  # what was measured outlives a page that cannot be drawn
            if (measured := Path(scratch, "report.json")).is_file():
                write_bytes_atomically(arguments.output, measured.read_bytes())
    return report


class _Data:
    """What an evaluation reads; each part is opened once, when it is first asked for."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments

    @cached_property
    def rows(self) -> Any:
        """The split that is scored; `None` where references stand alone."""
        arguments = self.arguments
        return None if arguments.dataset is None else load_rows(arguments, arguments.split or "test")

    @cached_property
    def train_rows(self) -> Any:
        """The split that the captions were learned from; `None` where it is not known, which a note says."""
        return load_train_rows(self.arguments)

    @cached_property
    def train_captions(self) -> list[str] | None:
        """All of them, for the control `most_frequent`."""
        if self.train_rows is None:
            return None
        return [caption for row in self.train_rows.select_columns(["captions"]) for caption in row["captions"]]


def _evaluate_model(arguments: argparse.Namespace, data: _Data) -> "Evaluation":
    from processing.clips.clip_dataset import ClipDataset

    from ..evaluation.controls.controls import CONTROLS
    from ..evaluation.evaluate import CONTROL_CLIPS, coverage_of, evaluate_model
    from .captioner_options import generation_options
    from .family_options import load_for_command

    rows = data.rows
    if arguments.limit is not None:
        rows = rows.select(range(min(arguments.limit, len(rows))))
    train_captions = data.train_captions  # ahead of the model: what is not there shows at once
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


def _evaluate_file(arguments: argparse.Namespace, data: _Data) -> "Evaluation":
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
        place = {name: index for index, name in enumerate(references.captions)}
        rows = rows.select([place[name] for name in matched.names])
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


def _data_set_references(arguments: argparse.Namespace, rows: Any) -> "References":
    """The captions of the rows of a split, by file name."""
    from processing.clips.sources import DatasetError

    from ..evaluation.predictions import References

    dataset, split = arguments.dataset, arguments.split or "test"
    names, captions = list(rows["file_name"]), list(rows["captions"])
    by_name = dict(zip(names, captions, strict=True))
    if len(by_name) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise DatasetError(f"{dataset}: {twice} is twice in {split}; a caption could be of either: keep one")
    return References(f"{dataset} ({split})", by_name)


def _leakage(predictions: list[dict[str, Any]], data: _Data, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the clips share with the split that the captions were learned from."""
    from ..evaluation.controls.leakage import caption_leakage, near_clips, shared_clips

    train_rows = data.train_rows
    leakage: dict[str, Any] = caption_leakage([each["references"] for each in predictions], data.train_captions or [])
    if data.rows is not None:
        scored = {each["file_name"] for each in predictions}
        rows = data.rows.select([index for index, name in enumerate(data.rows["file_name"]) if name in scored])
        leakage["clips"] = shared_clips(rows, train_rows)
        leakage["clips_in_train"] = sum(len(each["files"]["test"]) for each in leakage["clips"])
        if arguments.near_duplicates:
            leakage |= near_clips(rows, train_rows)
            print(
                f"look like a clip of {arguments.train_split}, with other bytes: {leakage['clips_near_train']} clips "
                f"(not compared, since unreadable: {leakage['not_compared']})",
                file=sys.stderr,
            )
        if leakage["clips_in_train"]:
            print(
                f"vidcap: warning: {leakage['clips_in_train']} of the clips are in {arguments.train_split}, too; "
                "they are listed in the report under leakage",
                file=sys.stderr,
            )
    return leakage


def load_rows(arguments: argparse.Namespace, split: str) -> Any:
    """The rows of a split of `--dataset`, with the columns `--by`.

    Raises:
        DatasetError: Beside what `load_clips` says, if no row has a value in one of them.
    """
    from processing.clips.rows import load_clips
    from processing.clips.sources import Columns, DatasetError

    columns = Columns(arguments.video_column, arguments.caption_column, others=tuple(arguments.by))
    rows = load_clips(arguments.dataset, split, columns=columns)
    for name in arguments.by:
        if all(value is None for value in rows[name]):
            raise DatasetError(f"{arguments.dataset}: no clip of {split} has a {name!r} (--by); name another column")
    return rows


def load_train_rows(arguments: argparse.Namespace) -> Any:
    """The split that the captions were learned from, and a note where there is none; the columns of another data set
    than `--dataset` are recognised.

    Raises:
        DatasetError: If it is asked for and not there.
    """
    from processing.clips.rows import has_split, load_clips
    from processing.clips.sources import GUESSED, Columns, DatasetError

    dataset, split = arguments.train_dataset or arguments.dataset, arguments.train_split
    if dataset is not None and (arguments.train_dataset is not None or has_split(dataset, split)):
        own = Columns(arguments.video_column, arguments.caption_column)
        return load_clips(dataset, split, columns=own if arguments.train_dataset is None else GUESSED)
    if arguments.near_duplicates:
        raise DatasetError(
            f"{dataset}: no {split} to compare with; name another --train_split, or --train_dataset, or leave out "
            "--near_duplicates"
        )
    if dataset is None:
        problem, remedy = "references alone name no training captions", "--train_dataset names a data set"
    else:
        problem, remedy = f"{dataset} has no split {split}", "--train_dataset names another data set"
    print(f"vidcap: note: {problem}, so the control most_frequent is left out; {remedy}", file=sys.stderr)
    return None


def summary(report: dict[str, Any]) -> str:
    """A small table: the scores, and each control."""
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
