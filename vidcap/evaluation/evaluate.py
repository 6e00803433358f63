"""A captioner and a data set -> report: every clip captioned twice, forwards and backwards, and scored with controls.

Promises: nothing but strings is kept of the clips that are captioned; the same model and clips give the same report,
times and memory apart. Gives up: any score that needs the model's probabilities.
"""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from processing.datasets import ClipDataset

from ..captioning import caption_clips, embed_clips, embed_texts
from ..doctor import stack_versions
from .controls import evaluate_captions
from .details import add_details
from .examples import load_examples
from .report import ReportExample
from .retrieval import retrieval_scores


@dataclass
class Evaluation:
    """What an evaluation found.

    Args:
        report: `scores`, `controls`, perhaps `by_kind` (see [`evaluate_captions`]), `retrieval` of a model that was
            trained with a contrastive loss (see [`retrieval_scores`]), `clips`, `evaluation_seconds`, `peak_rss_mb`,
            `parameters`, `versions`.
        predictions: For each clip `file_name`, `hypothesis`, `references`, `backwards`, the caption of the clip
            played backwards, `cider` and `exact`.
        examples: Clips to show: the worst, the best, and some drawn at random.
    """

    report: dict[str, Any]
    predictions: list[dict[str, Any]]
    examples: list[ReportExample]


def evaluate_model(
    model: Any,
    processor: Any,
    clips: ClipDataset,
    *,
    train_captions: Sequence[str] | None = None,
    by: Sequence[str] = (),
    batch_size: int = 16,
    **generate_kwargs: Any,
) -> Evaluation:
    """Captions clips and scores the captions.

    Args:
        model: The captioner.
        processor: Its processor.
        clips: Clips that can all be read (see `ClipDataset.prepare`), with their captions.
        train_captions: Captions of the training clips; without them the control `most_frequent` is left out.
        by: Columns of the rows by which the scores are grouped, see [`add_details`].
        batch_size: Clips captioned at once.
        generate_kwargs: For `model.generate`.

    Raises:
        ValueError: There are no clips.
    """
    started = time.perf_counter()
    rows = clips.rows
    references: list[list[str]] = list(rows["captions"])
    hypotheses = caption_clips(model, processor, clips, batch_size=batch_size, progress="captions", **generate_kwargs)
    backwards = caption_clips(
        model, processor, clips, batch_size=batch_size, backwards=True, progress="backwards", **generate_kwargs
    )
    report = evaluate_captions(
        hypotheses,
        references,
        backwards=backwards,
        captions_reversed=column(rows, "caption_reversed"),
        train_captions=train_captions,
        kinds=column(rows, "kind"),
    )
    if model.config.contrastive_weight > 0:
        _add_retrieval(report, model, processor, clips, batch_size)
    report |= {
        "clips": len(hypotheses),
        "evaluation_seconds": time.perf_counter() - started,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": model.num_parameters(),
        "versions": stack_versions(),
    }
    predictions = [
        {"file_name": name, "hypothesis": hypothesis, "references": truths, "backwards": played}
        for name, hypothesis, truths, played in zip(rows["file_name"], hypotheses, references, backwards, strict=True)
    ]
    add_details(report, predictions, columns={"duration": clip_seconds(clips), **{name: rows[name] for name in by}})
    video_processor = processor.video_processor
    examples = load_examples(
        rows,
        predictions,
        max_frame_pixels=video_processor.max_frame_pixels,
        max_clip_frames=video_processor.max_clip_frames,
    )
    return Evaluation(report, predictions, examples)


def clip_seconds(clips: ClipDataset) -> list[float]:
    """From the first to the last frame that the model was given of each clip."""
    seconds = []
    for index in range(len(clips)):
        clip = clips[index]
        times = clip["video_times"][clip["video_mask"].bool()]  # (T,)
        seconds.append(float(times.max() - times.min()))
    return seconds


def _add_retrieval(report: dict[str, Any], model: Any, processor: Any, clips: ClipDataset, batch_size: int) -> None:
    """Adds `retrieval` to the report and to each kind of clip: clips and their first captions find each other."""
    captions = [references[0] for references in clips.rows["captions"]]
    video = embed_clips(model, processor, clips, batch_size=batch_size)
    text = embed_texts(model, processor, captions)
    report["retrieval"] = retrieval_scores(video, text, captions)
    kinds = column(clips.rows, "kind") or []
    for kind, part in report.get("by_kind", {}).items():
        of_kind = [index for index, each in enumerate(kinds) if each == kind]
        part["retrieval"] = retrieval_scores(video[of_kind], text[of_kind], [captions[i] for i in of_kind])


def peak_rss_mb() -> float:
    """The largest memory this process has held so far, in MiB, without that of its workers."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def column(rows: Any, name: str) -> list[str | None] | None:
    """An optional column, `None` where it is missing or empty."""
    if name not in rows.column_names or not any(values := list(rows[name])):
        return None
    return values
