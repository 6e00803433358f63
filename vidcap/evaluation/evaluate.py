"""A captioner and a data set -> report: every clip captioned twice, forwards and backwards, some of them again with
other things taken away, and all scored with controls and a verdict.

Promises: nothing but strings is kept of the clips that are captioned; the same model and clips give the same report,
times and memory apart. Gives up: controls on all clips of a large split, unless asked for: they would take several
times as long as the captions themselves.
"""

import logging
import os
import random
import resource
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_vidcap.losses_vidcap import play_backwards
from processing.clips.clip_dataset import ClipDataset

from ..adapters import CaptionAdapter
from ..inference.captioning import caption_clips, embed_clips, embed_texts
from ..versions import stack_versions
from .controls.controls import CONTROLS, PERTURBED, evaluate_captions, other_clip_indices
from .controls.copies import find_copies
from .controls.grounding import ground_words
from .controls.perturbations import caption_perturbed
from .controls.verdict import verdict_text
from .report.details import add_details
from .report.examples import load_examples
from .report.report import ReportExample
from .retrieval import retrieval_scores

logger = logging.getLogger("vidcap.evaluation")
CONTROL_CLIPS = 200  # captioned again for each control but `reversed`, which needs all: exactly right ones are few


@dataclass
class Evaluation:
    """What an evaluation found.

    Args:
        report: `scores`, `controls`, `verdict`, perhaps `copies` and `by_kind` (see [`evaluate_captions`]),
            `grounding` (see [`ground_words`]), `retrieval` of a model that was trained with a contrastive loss (see
            [`retrieval_scores`]), `left_out` of a captioner of another family, with the reason for each part that it
            cannot have, `per_clip`, `scoring` and `errors` (see [`add_details`]), `clips`, `evaluation_seconds`,
            `peak_rss_mb`, `parameters`, `versions`.
        predictions: For each clip `file_name`, `hypothesis`, `references`, `backwards`, the caption of the clip
            played backwards (`None` if that was not asked for), `copied`, whether the hypothesis is a training caption
            (`None` if these are not known), `controls`, its captions with something else taken away, by name, `cider`
            and `exact`.
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
    controls: Collection[str] = tuple(CONTROLS),
    control_clips: int = CONTROL_CLIPS,
    **generate_kwargs: Any,
) -> Evaluation:
    """Captions clips and scores the captions.

    Args:
        model: The captioner, of this package or a [`CaptionAdapter`].
        processor: Its processor; an adapter is its own.
        clips: Clips that can all be read (see `ClipDataset.prepare`), with their captions.
        train_captions: Captions of the training clips; without them the control `most_frequent` and `copies` are left
            out.
        by: Columns of the rows by which the scores are grouped, see [`add_details`].
        batch_size: Clips captioned at once.
        controls: Which of [`CONTROLS`] are run; `grounding` goes with `other_clip`.
        control_clips: How many clips, drawn at random but always the same, serve `grounding` and the controls that
            caption clips again. `reversed` takes all clips.
        generate_kwargs: For `model.generate`.

    Raises:
        ValueError: There are no clips, or a control is unknown.
    """
    started = time.perf_counter()
    rows = clips.rows
    references: list[list[str]] = list(rows["captions"])
    options: dict[str, Any] = {"batch_size": batch_size, **generate_kwargs}
    hypotheses = caption_clips(model, processor, clips, progress="captions", **options)
    backwards = None
    if "reversed" in controls:
        backwards = caption_clips(model, processor, clips, change=play_backwards, progress="backwards", **options)
    sample = sorted(random.Random(0).sample(range(len(clips)), min(control_clips, len(clips))))
    names = [name for name in PERTURBED if name in controls and name != "reversed"]
    if isinstance(model, CaptionAdapter):
        names = [name for name in names if name != "no_video"]
    perturbed = caption_perturbed(model, processor, clips, sample, names, **options)
    report = evaluate_captions(
        hypotheses,
        references,
        backwards=backwards,
        captions_reversed=column(rows, "caption_reversed"),
        perturbed={name: dict(zip(sample, captions, strict=True)) for name, captions in perturbed.items()},
        train_captions=train_captions,
        kinds=column(rows, "kind"),
        controls=controls,
    )
    logger.info(verdict_text(report["verdict"]).rstrip())
    _look_inside(report, model, processor, clips, sample, batch_size)
    report |= {
        "clips": len(hypotheses),
        "evaluation_seconds": time.perf_counter() - started,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": model.num_parameters(),
        "versions": stack_versions(),
    }
    if absent := len(rows) - _files(rows):
        report["clips_without_file"] = absent  # captioned from the cache; the page cannot show them
    copied = find_copies(hypotheses, train_captions) if train_captions else None
    predictions = _predictions(rows, hypotheses, backwards, copied, sample, perturbed)
    add_details(report, predictions, columns={"duration": clip_seconds(clips), **{name: rows[name] for name in by}})
    video_processor = processor.video_processor
    examples = load_examples(
        rows,
        predictions,
        max_frame_pixels=video_processor.max_frame_pixels,
        max_clip_frames=video_processor.max_clip_frames,
    )
    return Evaluation(report, predictions, examples)


def _look_inside(
    report: dict[str, Any], model: Any, processor: Any, clips: ClipDataset, sample: Sequence[int], batch_size: int
) -> None:
    """Adds what only models of this package tell: `grounding`, of the clips of `sample`, and `retrieval`; or, for
    others, `left_out`."""
    if isinstance(model, CaptionAdapter):
        inside = f"{model.family} models do not show their inside"
        report["left_out"] = {
            "no_video": inside,
            "grounding": inside,
            "retrieval": f"{model.family} models do not compare clips with texts",
        }
        return
    if "other_clip" in report["controls"]:
        partners = other_clip_indices(list(clips.rows["captions"]))
        others = [partners[clip] for clip in sample]
        report["grounding"] = ground_words(model, processor, clips, sample, others, batch_size=batch_size)
    if model.config.contrastive_weight > 0:
        _add_retrieval(report, model, processor, clips, batch_size)


def _predictions(
    rows: Any,
    hypotheses: Sequence[str],
    backwards: Sequence[str] | None,
    copied: Sequence[Any] | None,
    sample: Sequence[int],
    perturbed: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """What was said of each clip, see [`Evaluation`]; `perturbed` captions are those of the clips of `sample`."""
    place = {clip: index for index, clip in enumerate(sample)}
    return [
        {
            "file_name": file_name,
            "hypothesis": hypotheses[clip],
            "references": truths,
            "backwards": None if backwards is None else backwards[clip],
            "copied": None if copied is None else copied[clip],
            "controls": {name: captions[place[clip]] for name, captions in perturbed.items() if clip in place},
        }
        for clip, (file_name, truths) in enumerate(zip(rows["file_name"], rows["captions"], strict=True))
    ]


def coverage_of(rows: Any, clips: ClipDataset) -> dict[str, int]:
    """How many clips a score was asked for, and rests on.

    Args:
        rows: All clips of the split.
        clips: Those of them that could be read.
    """
    found = max(_files(rows), len(clips))  # clips whose features are kept need no file
    return {"asked": len(rows), "found": found, "decoded": len(clips), "scored": len(clips)}


def _files(rows: Any) -> int:
    """How many clips can be read anew."""
    return sum(clip["bytes"] is not None or os.path.exists(clip["path"]) for clip in rows["video"])


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
