"""Names of scores and controls, and the meaning of each control, for cards, reports and verdicts."""

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
    """A control's name for people, and its meaning in one sentence."""

    label: str
    meaning: str


CONTROLS = {
    "other_clip": Control(
        "another clip's frames",
        "Captioned from the frames of a clip with another truth: the score that remains needs no look at the clip.",
    ),
    "black": Control("black frames", "Captioned from black frames: the score that remains needs no picture."),
    "noise": Control(
        "noise",
        "Captioned from frames of random pixels: the score that remains needs no picture of anything.",
    ),
    "one_frame": Control(
        "the middle frame alone",
        "Captioned from the middle frame, held for the whole clip: the loss is the part that one look misses.",
    ),
    "shuffled": Control(
        "shuffled frames",
        "Captioned from the frames in random order: the loss is the part that needs motion and order.",
    ),
    "reversed": Control(
        "the clip played backwards",
        "Captioned from the clip played backwards, with its ordinary references: the loss is the part that needs the "
        "direction of time.",
    ),
    "first_half": Control(
        "the first half alone", "Captioned from the first half of the clip: the loss is the part that is seen later."
    ),
    "no_video": Control(
        "the decoder without the clip",
        "Written by the decoder without the clip, a mere language model: the score that remains is habit of language.",
    ),
    "most_frequent": Control(
        "most frequent training caption",
        "The most frequent training caption for every clip: the score that every captioner must beat.",
    ),
}


def control_label(name: str) -> str:
    """A control's label, or the name of an unknown one."""
    return CONTROLS[name].label if name in CONTROLS else name
