"""Labels of scores and controls, and meanings of controls, for cards, reports and verdicts."""

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


SHARES = {"exact", "distinct", "exact_reversed"}  # scores from 0 to 1, shown as percentages


class Control(NamedTuple):
    """A control's name for readers, and a sentence on its meaning."""

    label: str
    meaning: str


CONTROLS = {
    "other_clip": Control(
        "another clip's frames",
        "Captioned from the frames of a clip with other true captions. The remaining score does not depend on the "
        "clip.",
    ),
    "black": Control("black frames", "Captioned from black frames. The remaining score needs no picture."),
    "noise": Control(
        "noise",
        "Captioned from frames of random pixels. The remaining score needs no picture content.",
    ),
    "one_frame": Control(
        "the middle frame alone",
        "Captioned from the middle frame, repeated for the whole clip. The lost score needs more than one frame.",
    ),
    "shuffled": Control(
        "shuffled frames",
        "Captioned from the frames in random order. The lost score needs motion or the order of events.",
    ),
    "reversed": Control(
        "the clip played backwards",
        "Captioned from the clip played backwards, and scored by its ordinary references. The lost score needs the "
        "direction of time.",
    ),
    "first_half": Control(
        "the first half alone",
        "Captioned from the first half of the clip. The lost score needs the second half.",
    ),
    "no_video": Control(
        "the decoder without the clip",
        "Written by the decoder without the clip, as by a language model. The remaining score comes from language "
        "habits.",
    ),
    "most_frequent": Control(
        "most frequent training caption",
        "The most frequent training caption, given to every clip. Every useful captioner scores higher.",
    ),
}


def control_label(name: str) -> str:
    """A control's label; for an unknown control, its name."""
    return CONTROLS[name].label if name in CONTROLS else name
