"""Captions without a trained network: a ridge regression from features to words, then a training caption.

`copy` takes the training caption whose words are nearest to the predicted ones. `consensus` takes, of the
`NEIGHBOURS` nearest, the one that agrees most with the others (Devlin et al. 2015,
https://arxiv.org/abs/1505.04467). Words are tf-idf of 1-grams, or for `consensus` of up to 3-grams, that occur in two
captions.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from processing.clips.clip_dataset import ClipDataset
from vidcap.evaluation.scores.metrics import score_captions

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
MODES = {"copy": 1, "consensus": 3}  # with the longest n-grams
NEIGHBOURS = 20
FOLDS = 5


class Choice(NamedTuple):
    """A regression that was chosen by cross-validation, and its CIDEr there."""

    cider: float
    mode: str
    penalty: float


def summaries(clips: ClipDataset) -> np.ndarray:
    """Cached features of each clip `(N, 3 D)`: their mean over frames and cells, the mean weighted by how much a cell
    changes between frames, and the last three frames minus the first three."""
    rows = []
    for index in range(len(clips)):
        clip = clips[index]
        features = clip["video_features"][clip["video_mask"].bool()].double()  # (T, N, D)
        changes = features.diff(dim=0).abs().mean(dim=-1)
        weights = torch.cat([changes[:1], changes]) if len(changes) else torch.ones(features.shape[:2]).double()
        weights = weights / weights.sum().clamp(min=1e-9)
        frames = features.mean(dim=1)
        moving = torch.einsum("tnd,tn->d", features, weights)
        rows.append(torch.cat([frames.mean(dim=0), moving, frames[-3:].mean(dim=0) - frames[:3].mean(dim=0)]))
    return torch.stack(rows).numpy()


def choose(features: np.ndarray, captions: Sequence[str], groups: Sequence[str]) -> Choice:
    """The mode and penalty of the best CIDEr on clips of groups that the regression has not seen."""
    names = sorted(set(groups))
    np.random.RandomState(0).shuffle(names)
    fold_of = {name: index % FOLDS for index, name in enumerate(names)}
    folds = np.array([fold_of[group] for group in groups])
    best = Choice(-1.0, "copy", 1.0)
    for mode, penalty in itertools.product(MODES, PENALTIES):
        written = [""] * len(captions)
        for fold in range(FOLDS):
            held_out = np.flatnonzero(folds == fold)
            known = np.flatnonzero(folds != fold)
            found = retrieve(features[known], [captions[i] for i in known], features[held_out], mode, penalty)
            for index, caption in zip(held_out, found, strict=True):
                written[index] = caption
        cider = score_captions(written, [[caption] for caption in captions])["cider"]
        best = max(best, Choice(cider, mode, penalty))
    return best


def retrieve(known: np.ndarray, captions: Sequence[str], queries: np.ndarray, mode: str, penalty: float) -> list[str]:
    """A training caption for each query.

    Args:
        known: `(N, S)`, features of the training clips.
        captions: Their captions.
        queries: `(M, S)`.
        mode: `copy` or `consensus`.
        penalty: Of the regression, in units of the mean squared feature of a clip.
    """
    centre, deviation = known.mean(axis=0), known.std(axis=0)
    scale = (deviation + 0.1 * deviation.mean()) * known.shape[1] ** 0.5
    inputs, asked = (known - centre) / scale, (queries - centre) / scale
    words = word_vectors(captions, longest=MODES[mode])
    kernel = inputs @ inputs.T + penalty * np.eye(len(inputs))
    predicted = asked @ inputs.T @ np.linalg.solve(kernel, words - words.mean(axis=0))
    likeness = predicted @ words.T
    if mode == "copy":
        return [captions[index] for index in likeness.argmax(axis=1)]
    found = []
    for row in likeness:
        near = np.argsort(-row, kind="stable")[:NEIGHBOURS]
        agreement = words[near] @ words[near].T
        found.append(captions[near[agreement.mean(axis=1).argmax()]])
    return found


def word_vectors(captions: Sequence[str], *, longest: int) -> np.ndarray:
    """tf-idf of n-grams of at most `longest` words, `(N, G)`, each row of length 1."""
    counts = [_grams(caption, longest) for caption in captions]
    frequencies = Counter(gram for each in counts for gram in each)
    place = {gram: i for i, gram in enumerate(sorted(g for g, count in frequencies.items() if count > 1))}
    table = np.zeros((len(captions), len(place)))
    for row, each in zip(table, counts, strict=True):
        for gram, count in each.items():
            if gram in place:
                row[place[gram]] = count * np.log(len(captions) / frequencies[gram])
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)


def _grams(caption: str, longest: int) -> Counter[str]:
    words = re.findall(r"\w+(?:'\w+)?", caption.lower())
    return Counter(" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))
