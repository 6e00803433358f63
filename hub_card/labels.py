"""What scores and controls are called, and what a control means: one table for cards, reports and verdicts.

It stands here since `vidcap` may import this package, and not the other way round.
"""

from typing import NamedTuple

SCORES = {
    "cider": "CIDEr",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR",
    "exact": "exact",
    "distinct": "distinct",
    "exact_reversed": "exact, backwards",
}


class Control(NamedTuple):
    """A control's name for people, and a sentence on what it means."""

    label: str
    meaning: str


CONTROLS = {
    "other_clip": Control(
        "another clip's frames",
        "Captioned from the frames of a clip with another truth: what is left of the score is had without looking at "
        "the clip.",
    ),
    "black": Control("black frames", "Captioned from black frames: what is left is had without any picture."),
    "noise": Control(
        "noise",
        "Captioned from frames of random pixels: what is left is had from pictures that show nothing.",
    ),
    "one_frame": Control(
        "the middle frame alone",
        "Captioned from the middle frame, standing still for the whole clip: what is lost takes more than one look.",
    ),
    "shuffled": Control(
        "shuffled frames",
        "Captioned from the frames in random order: what is lost needs what moves how, and what comes first.",
    ),
    "reversed": Control(
        "the clip played backwards",
        "Captioned from the clip played backwards and scored by its ordinary references: what is lost needs the "
        "direction of time.",
    ),
    "first_half": Control(
        "the first half alone", "Captioned from the first half of the clip: what is lost is seen later."
    ),
    "no_video": Control(
        "the decoder without the clip",
        "Written by the decoder without the clip, a language model alone: what is left is habit of language.",
    ),
    "most_frequent": Control(
        "most frequent training caption",
        "The commonest training caption, given to every clip: what every captioner must beat.",
    ),
}


def control_label(name: str) -> str:
    """A control's label; of one that is not known, its name."""
    return CONTROLS[name].label if name in CONTROLS else name
