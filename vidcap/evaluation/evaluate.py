"""Evaluation of a captioner on a data set, with controls and a verdict.

Every clip is captioned forwards and backwards, and a sample of clips again with other things removed.

Guarantees: only strings are kept of the captioned clips; the same model and clips give the same report, except for
times and memory.

Limitations: most controls run on a sample of the clips by default, since on all clips of a large split they would take
several times as long as the captions.
"""

import logging
import os
import random
import resource
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modeling_vidcap.losses_vidcap import play_backwards
from processing.clips.clip_dataset import ClipDataset

from ..captioner import Captioner
from ..inference.captioning import embed_clips, embed_texts
from ..versions import stack_versions
from .controls.controls import CONTROLS, PERTURBED, evaluate_captions, other_clip_indices
from .controls.copies import find_copies
from .controls.grounding import ground_words
from .controls.perturbations import caption_perturbed
from .controls.verdict import verdict_text
from .report.clip_pictures import ReportExample
from .report.examples import load_examples
from .report.report import add_details
from .retrieval import retrieval_scores

if TYPE_CHECKING:
    from datasets import Dataset

    from modeling_vidcap import VideoCaptionForConditionalGeneration
    from processing import VideoCaptionProcessor


logger = logging.getLogger(__name__)
CONTROL_CLIPS = 200  # for each control except `reversed`, whose exactly right captions are too rare for a sample


@dataclass
class Evaluation:
    """The results of an evaluation.

    Args:
        report: `scores`, `controls`, `verdict`, possibly `copies` and `by_kind` (see [`evaluate_captions`]),
            `grounding` (see [`ground_words`]), `retrieval` for a model trained with a contrastive loss (see
            [`retrieval_scores`]), `left_out` for a captioner of another family, with the reason for each missing part,
            `per_clip`, `scoring` and `errors` (see [`add_details`]), `clips`, `evaluation_seconds`, `peak_rss_mb`,
            `parameters`, `versions`.
        predictions: For each clip `file_name`, `hypothesis`, `references`, `backwards` (the caption of the clip
            played backwards, `None` without that control), `copied` (whether the hypothesis is a training caption,
            `None` if these are unknown), `controls` (its captions under other controls, by name), `cider` and
            `exact`.
        examples: Clips to show: the worst, the best, and some at random.
    """

    report: dict[str, Any]
    predictions: list[dict[str, Any]]
    examples: list[ReportExample]


def evaluate_model(
    captioner: Captioner,
    clips: ClipDataset,
    *,
    train_captions: Sequence[str] | None = None,
    by: Sequence[str] = (),
    batch_size: int = 16,
    controls: Collection[str] = tuple(CONTROLS),
    control_clips: int = CONTROL_CLIPS,
    **generate_kwargs: Any,
) -> Evaluation:
    """Caption clips and score the captions.

    Args:
        captioner: A captioner of any family.
        clips: Readable clips (see `ClipDataset.prepare`) with captions.
        train_captions: Captions of the training clips; without them there is no control `most_frequent` and no
            `copies`.
        by: Columns of the rows by which the scores are grouped, see [`add_details`].
        batch_size: Clips captioned at once.
        controls: Names from [`CONTROLS`]; `grounding` is computed with `other_clip`.
        control_clips: Size of the fixed random sample of clips for `grounding` and the controls that caption clips
            again; `reversed` uses all clips.
        generate_kwargs: Options of `model.generate`.

    Raises:
        ValueError: There are no clips, or a control is unknown.
    """
    started = time.perf_counter()
    rows = clips.rows
    references: list[list[str]] = list(rows["captions"])
    options: dict[str, Any] = {"batch_size": batch_size, **generate_kwargs}
    hypotheses = captioner.caption(clips, progress="captions", **options)
    backwards = None
    if "reversed" in controls:
        backwards = captioner.caption(clips, change=play_backwards, progress="backwards", **options)
    sample = sorted(random.Random(0).sample(range(len(clips)), min(control_clips, len(clips))))
    left_out = {"reversed", *captioner.left_out}
    names = [name for name in PERTURBED if name in controls and name not in left_out]
    perturbed = caption_perturbed(captioner, clips, sample, names, **options)
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
    _add_grounding_and_retrieval(report, captioner, clips, sample, batch_size)
    report |= {
        "clips": len(hypotheses),
        "evaluation_seconds": time.perf_counter() - started,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": captioner.num_parameters(),
        "versions": stack_versions(),
    }
    if absent := len(rows) - _count_files(rows):
        report["clips_without_file"] = absent  # captioned from the cache; the page cannot show them
    copied = find_copies(hypotheses, train_captions) if train_captions else None
    predictions = _predictions(rows, hypotheses, backwards, copied, sample, perturbed)
    add_details(report, predictions, columns={"duration": clip_seconds(clips), **{name: rows[name] for name in by}})
    video_processor = captioner.video_processor
    examples = load_examples(
        rows,
        predictions,
        max_frame_pixels=video_processor.max_frame_pixels,
        max_clip_frames=video_processor.max_clip_frames,
    )
    return Evaluation(report, predictions, examples)


def _add_grounding_and_retrieval(
    report: dict[str, Any], captioner: Captioner, clips: ClipDataset, sample: Sequence[int], batch_size: int
) -> None:
    """Add `grounding`, for the clips of `sample`, and `retrieval`; for other families the reason in `left_out`."""
    if captioner.left_out:
        report["left_out"] = dict(captioner.left_out)
        return
    model, processor = captioner.model, captioner.processor
    if "other_clip" in report["controls"]:
        partners = other_clip_indices(list(clips.rows["captions"]))
        others = [partners[clip] for clip in sample]
        report["grounding"] = ground_words(model, processor, clips, sample, others, batch_size=batch_size)
    if model.config.contrastive_weight > 0:
        _add_retrieval(report, model, processor, clips, batch_size)


def _predictions(
    rows: "Dataset",
    hypotheses: Sequence[str],
    backwards: Sequence[str] | None,
    copied: Sequence[bool] | None,
    sample: Sequence[int],
    perturbed: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """The captions of each clip, see [`Evaluation`]; `perturbed` ones belong to the clips of `sample`."""
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


def coverage_of(rows: "Dataset", clips: ClipDataset) -> dict[str, int]:
    """Numbers of clips in a split, found, decoded and scored.

    Args:
        rows: All clips of the split.
        clips: The readable ones.
    """
    found = max(_count_files(rows), len(clips))  # clips with cached features need no file
    return {"asked": len(rows), "found": found, "decoded": len(clips), "scored": len(clips)}


def _count_files(rows: "Dataset") -> int:
    return sum(clip["bytes"] is not None or os.path.exists(clip["path"]) for clip in rows["video"])


def clip_seconds(clips: ClipDataset) -> list[float]:
    """Seconds from the first to the last frame of each clip that the model was given."""
    seconds = []
    for index in range(len(clips)):
        clip = clips[index]
        times = clip["video_times"][clip["video_mask"].bool()]  # (T,)
        seconds.append(float(times.max() - times.min()))
    return seconds


def _add_retrieval(
    report: dict[str, Any],
    model: "VideoCaptionForConditionalGeneration",
    processor: "VideoCaptionProcessor",
    clips: ClipDataset,
    batch_size: int,
) -> None:
    """Add `retrieval`, of clips by first captions and the reverse, to the report and to each kind of clip."""
    captions = [references[0] for references in clips.rows["captions"]]
    video = embed_clips(model, processor, clips, batch_size=batch_size)
    text = embed_texts(model, processor, captions)
    report["retrieval"] = retrieval_scores(video, text, captions)
    kinds = column(clips.rows, "kind") or []
    for kind, part in report.get("by_kind", {}).items():
        members = [index for index, clip_kind in enumerate(kinds) if clip_kind == kind]
        part["retrieval"] = retrieval_scores(video[members], text[members], [captions[i] for i in members])


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MiB, without its workers."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def column(rows: "Dataset", name: str) -> list[str | None] | None:
    """An optional column; `None` if it is missing or empty."""
    if name not in rows.column_names or not any(values := list(rows[name])):
        return None
    return values
