"""A captioner and a data set -> report: every clip captioned twice, forwards and backwards, and scored with controls.

Promises: nothing but strings is kept of the clips that are captioned; the same model and clips give the same report,
times and memory apart. Gives up: any score that needs the model's probabilities.
"""

import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from processing import decode_video
from processing.datasets import ClipDataset

from ..adapters import CaptionAdapter
from ..captioning import caption_clips, embed_clips, embed_texts
from ..doctor import stack_versions
from .controls import evaluate_captions
from .ptb_tokenizer import ptb_tokenize
from .report import ReportExample
from .retrieval import retrieval_scores

# As many as the page shows.
WRONG_EXAMPLES, RIGHT_EXAMPLES = 12, 24
EXAMPLE_FRAMES, EXAMPLE_SIZE = 8, (160, 160)


@dataclass
class Evaluation:
    """What an evaluation found.

    Args:
        report: `scores`, `controls`, perhaps `by_kind` (see [`evaluate_captions`]), `retrieval` of a model that was
            trained with a contrastive loss (see [`retrieval_scores`]), `left_out` of a captioner of another family,
            with the reason for each part that it cannot have, `clips`, `evaluation_seconds`, `peak_rss_mb`,
            `parameters`, `versions`.
        predictions: For each clip `file_name`, `hypothesis`, `references`, and `backwards`, the caption of the clip
            played backwards.
        examples: Clips to show, wrong and right ones.
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
    batch_size: int = 16,
    **generate_kwargs: Any,
) -> Evaluation:
    """Captions clips and scores the captions.

    Args:
        model: The captioner, of this package or a [`CaptionAdapter`].
        processor: Its processor; an adapter is its own.
        clips: Clips that can all be read (see `ClipDataset.prepare`), with their captions.
        train_captions: Captions of the training clips; without them the control `most_frequent` is left out.
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
        captions_reversed=_column(rows, "caption_reversed"),
        train_captions=train_captions,
        kinds=_column(rows, "kind"),
    )
    if isinstance(model, CaptionAdapter):
        report["left_out"] = {"retrieval": f"{model.family} models do not compare clips with texts"}
    elif model.config.contrastive_weight > 0:
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
    return Evaluation(report, predictions, _examples(clips, processor, predictions))


def _add_retrieval(report: dict[str, Any], model: Any, processor: Any, clips: ClipDataset, batch_size: int) -> None:
    """Adds `retrieval` to the report and to each kind of clip: clips and their first captions find each other."""
    captions = [references[0] for references in clips.rows["captions"]]
    video = embed_clips(model, processor, clips, batch_size=batch_size)
    text = embed_texts(model, processor, captions)
    report["retrieval"] = retrieval_scores(video, text, captions)
    kinds = _column(clips.rows, "kind") or []
    for kind, part in report.get("by_kind", {}).items():
        of_kind = [index for index, each in enumerate(kinds) if each == kind]
        part["retrieval"] = retrieval_scores(video[of_kind], text[of_kind], [captions[i] for i in of_kind])


def peak_rss_mb() -> float:
    """The largest memory this process has held so far, in MiB, without that of its workers."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _column(rows: Any, name: str) -> list[str | None] | None:
    """An optional column, `None` where it is missing or empty."""
    if name not in rows.column_names or not any(values := list(rows[name])):
        return None
    return values


def _examples(clips: ClipDataset, processor: Any, predictions: list[dict[str, Any]]) -> list[ReportExample]:
    """A few clips with a wrong caption and a few with a right one, drawn at random but always the same."""
    exact = [ptb_tokenize(each["hypothesis"]) in map(ptb_tokenize, each["references"]) for each in predictions]
    order = random.Random(0).sample(range(len(predictions)), len(predictions))
    wrong = [index for index in order if not exact[index]][:WRONG_EXAMPLES]
    right = [index for index in order if exact[index]][:RIGHT_EXAMPLES]
    video_processor = processor.video_processor
    examples = []
    for index in [*wrong, *right]:
        clip = decode_video(
            clips.rows[index]["video"],
            num_frames=EXAMPLE_FRAMES,
            fit=EXAMPLE_SIZE,
            max_frame_pixels=video_processor.max_frame_pixels,
            max_clip_frames=video_processor.max_clip_frames,
        )
        frames = clip.frames[clip.mask].permute(0, 2, 3, 1)  # (T, H, W, 3)
        prediction = predictions[index]
        examples.append(
            ReportExample(
                file_name=prediction["file_name"],
                frames=frames,
                hypothesis=prediction["hypothesis"],
                references=prediction["references"],
                exact=exact[index],
                backwards=prediction["backwards"],
            )
        )
    return examples
