"""`vidcap evaluate`: a model and a data set -> `report.json`, `report.html` beside it, and the captions."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from processing.datasets import ClipDataset, has_split, load_clips
from processing.feature_cache import ClipCache

from .adapters import CaptionAdapter
from .adapters.clips import UncachedClips
from .adapters.options import load_for_command
from .clip_cache import open_clip_cache
from .commands_caption import generation_options
from .evaluation.evaluate import evaluate_model
from .evaluation.report import write_report
from .files import write_atomically


def run(arguments: argparse.Namespace) -> int:
    """Evaluates `arguments.model` and prints the main scores."""
    rows = load_clips(arguments.dataset, arguments.split)
    if arguments.limit is not None:
        rows = rows.select(range(min(arguments.limit, len(rows))))
    train_captions = read_train_captions(arguments)
    model, processor = load_for_command(arguments)
    if arguments.num_frames is not None:
        processor.video_processor.num_frames = arguments.num_frames

    skipped: list[dict[str, str]] = []

    def skip(file_name: str, reason: str) -> None:
        skipped.append({"file_name": file_name, "reason": reason})

    if isinstance(model, CaptionAdapter):
        cache: ClipCache = UncachedClips(model.video_processor)
    else:
        cache = open_clip_cache(model, processor, folder=arguments.feature_cache, backend=arguments.backend)
    clips = ClipDataset(rows, cache)
    clips = clips.prepare("reading clips", on_broken=skip if arguments.skip_broken_clips else None)
    evaluation = evaluate_model(
        model,
        processor,
        clips,
        train_captions=train_captions,
        batch_size=arguments.batch_size,
        **generation_options(arguments),
    )
    for name, reason in evaluation.report.get("left_out", {}).items():
        print(f"vidcap: note: {name} is left out: {reason}", file=sys.stderr)
    report = {
        **evaluation.report,
        "model": str(arguments.model),
        "dataset": str(arguments.dataset),
        "split": arguments.split,
        "skipped_clips": skipped,
    }
    if arguments.predictions is not None:
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in evaluation.predictions]
        write_atomically(arguments.predictions, "".join(lines))
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=f".{arguments.output.name}-") as scratch:
        write_report(scratch, report, examples=evaluation.examples)
        os.replace(Path(scratch) / "report.html", arguments.output.with_suffix(".html"))
        os.replace(Path(scratch) / "report.json", arguments.output)
    sys.stdout.write(summary(report))
    return 0


def read_train_captions(arguments: argparse.Namespace) -> list[str] | None:
    """The captions behind the control `most_frequent`; `None` where the data set has no such split."""
    dataset = arguments.train_dataset or arguments.dataset
    if arguments.train_dataset is None and not has_split(dataset, arguments.train_split):
        print(
            f"vidcap: note: {dataset} has no split {arguments.train_split}, so the control most_frequent is left out; "
            "--train_dataset names another data set",
            file=sys.stderr,
        )
        return None
    rows = load_clips(dataset, arguments.train_split).select_columns(["captions"])
    return [caption for row in rows for caption in row["captions"]]


def summary(report: dict[str, Any]) -> str:
    """A small table: the scores, and each control."""
    columns = ("cider", "bleu4", "rougeL", "exact", "distinct")
    lines = [f"{'':14}" + "".join(f"{name:>10}" for name in columns)]
    for name, scores in {"scores": report["scores"], **report["controls"]}.items():
        lines.append(f"{name:14}" + "".join(f"{scores[column]:10.3f}" for column in columns))
    if "exact_reversed" in report["controls"].get("reversed", {}):
        lines.append(f"exact_reversed {report['controls']['reversed']['exact_reversed']:.3f}")
    return "\n".join(lines) + "\n"
