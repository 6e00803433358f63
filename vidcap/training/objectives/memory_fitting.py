"""The caption memory of a model, fitted to its training clips in closed form before any step of training."""

import copy
import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.memory_vidcap import CaptionMemory, count_grams, scale_orders, summarise_clip, words_of
from modeling_vidcap.scoring_vidcap import end_tokens
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from vidcap.evaluation.scores.bootstrap import scores_per_clip

logger = logging.getLogger(__name__)
MIN_CLIPS = 20  # fewer determine no regression
MAX_CLIPS = 5_000  # clips and captions to fit to, evenly spread
VECTOR_SIZE = 256  # of captions; larger ones fit no better (docs/log.md)
RIDGE = 0.3  # in units of a clip's mean squared summary; chosen on filmed clips (docs/log.md)
FOLDS = 5
BATCH = 64
CLIPS_PER_GROUP = 8


@dataclass
class FittedMemory:
    """Facts on the memory of a model.

    Attributes:
        video_words: `(N, P)`, predicted vectors of all training clips, each by a regression without the clip and those
            that look alike.
        ciders: `(n,)`, CIDEr of the captions that these predictions recall, by document frequencies of the training
            captions; captions of clips that look alike are not recalled.
        z_score: How far the predictions are from chance, in standard errors: the mean likeness of a clip's prediction
            to its own caption, less that to the captions of other clips.
    """

    video_words: torch.Tensor
    ciders: np.ndarray
    z_score: float


@torch.no_grad()
def fit_memory(
    model: VideoCaptionForConditionalGeneration, collator: VideoCaptionCollator, training: ClipDataset, *, seed: int
) -> FittedMemory | None:
    """Give a model a [`CaptionMemory`] of its training clips.

    Args:
        model: Captioner with a frozen backbone.
        collator: Collator of clips without drawing.
        training: Clips whose features are cached.
        seed: Seed of the groups of clips that look alike.

    Returns:
        `None` if there are too few clips or captions; the model then has no memory.
    """
    step = max(1, math.ceil(len(training) / MAX_CLIPS))
    indices = list(range(0, len(training), step))
    if len(indices) < MIN_CLIPS:
        logger.info(f"no caption memory: {len(indices)} training clips are fewer than {MIN_CLIPS}")
        return None
    tokenizer: Any = collator.processor.tokenizer
    texts: list[list[str]] = [training.rows["captions"][index] for index in indices]
    flat = list(itertools.chain(*texts))
    ids = tokenizer(flat, truncation=True, max_length=collator.max_length)["input_ids"]
    token_ids = dict(zip(flat, map(tuple, ids), strict=True))
    unknown = tokenizer.unk_token_id
    captions = sorted({row for row in token_ids.values() if unknown not in row})
    captions = captions[:: max(1, math.ceil(len(captions) / MAX_CLIPS))]
    ends = end_tokens(model.config)
    per_clip = [[words_of(token_ids[text], ends, tokenizer.pad_token_id) for text in each] for each in texts]
    grams = _common_grams(per_clip)
    if not grams or not captions:
        logger.info("no caption memory: no word occurs in the captions of two training clips")
        return None
    memory = _new_memory(model, captions, grams, len(indices), seed=seed)

    of_captions = {row: memory._vector(words_of(row, ends, tokenizer.pad_token_id)) for row in set(token_ids.values())}
    memory.keys.copy_(torch.stack([of_captions[row] for row in captions]))
    targets = torch.stack([torch.stack([of_captions[token_ids[text]] for text in each]).mean(0) for each in texts])
    memory.mean.copy_(targets.mean(dim=0))
    channels = memory.channels
    summaries = _summaries(training, indices, collator, channels=channels)
    weight, bias = _regress(summaries, targets, channels=channels)
    memory.weight.copy_(weight)
    memory.bias.copy_(bias)
    folds = _folds(summaries[:, :channels], seed=seed)
    predicted = _predict_unseen(summaries, targets, folds, channels=channels)
    video_words = _predict_all(memory, predicted, training, indices, collator)
    z_score = _z_score(predicted - targets.mean(dim=0), targets - targets.mean(dim=0))
    logger.info(
        f"caption memory: {len(captions):,} captions of {len(indices):,} clips; their features tell unseen clips' "
        f"captions apart at {z_score:.1f} standard errors"
    )
    texts_of = {row: text for text, row in token_ids.items()}
    folds_of: dict[str, set[int]] = {}
    for fold, each in zip(folds.tolist(), texts, strict=True):
        for text in each:
            folds_of.setdefault(texts_of[token_ids[text]], set()).add(fold)
    recalled = _recall_unseen(memory, predicted, folds, [texts_of[row] for row in captions], folds_of)
    return FittedMemory(video_words, scores_per_clip(recalled, texts)["cider"], z_score)


def _common_grams(per_clip: Sequence[Sequence[Sequence[int]]]) -> dict[int, int]:
    """The n-grams of the captions of at least two clips, ascending, and the number of these clips."""
    found = Counter(gram for captions in per_clip for gram in {g for words in captions for g in count_grams(words)})
    return {gram: count for gram, count in sorted(found.items()) if count > 1}


def _new_memory(
    model: VideoCaptionForConditionalGeneration,
    captions: Sequence[Sequence[int]],
    grams: dict[int, int],
    clips: int,
    *,
    seed: int,
) -> CaptionMemory:
    """A memory in the model with captions and n-grams, but no keys and no regression."""
    config: Any = model.config
    longest = max(map(len, captions))
    size = min(VECTOR_SIZE, len(grams), len(captions))
    config.memory_shape = [len(captions), longest, len(grams), size]
    encoder = model.model.encoder
    encoder.add_memory(config)
    torch.nn.init.normal_(encoder.word_projection.weight, std=config.initializer_range)
    torch.nn.init.zeros_(encoder.word_projection.bias)
    memory = encoder.memory
    padded = [[*row, *[config.pad_token_id] * (longest - len(row))] for row in captions]
    memory.captions.copy_(torch.tensor(padded))
    memory.gram_hashes.copy_(torch.tensor(list(grams)))
    memory.gram_weights.copy_(torch.tensor([math.log(clips / count) for count in grams.values()]))
    memory.rare_weight.fill_(math.log(clips))
    ends = end_tokens(config)
    place = {gram: index for index, gram in enumerate(grams)}
    table = torch.zeros(len(captions), len(grams))
    for row, caption in zip(table, captions, strict=True):
        counts = count_grams(words_of(caption, ends, config.pad_token_id))
        weights = torch.tensor([math.log(clips / grams.get(gram, 1)) for gram in counts])
        for gram, value in zip(counts, scale_orders(weights, counts).tolist(), strict=True):
            if gram in place:
                row[place[gram]] = value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory.gram_vectors.copy_(torch.svd_lowrank(table, q=size, niter=6)[2])
    return memory


def _summaries(
    training: ClipDataset, indices: Sequence[int], collator: VideoCaptionCollator, *, channels: int
) -> torch.Tensor:
    plain = copy.copy(training)
    plain.augmentation = None
    parts = []
    for start in range(0, len(indices), BATCH):
        batch = collator.videos([plain[index] for index in indices[start : start + BATCH]])
        parts.append(summarise_clip(batch["video_features"], batch["video_mask"], channels=channels))
    return torch.cat(parts)


def _regress(summaries: torch.Tensor, targets: torch.Tensor, *, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression of targets `(n, P)` on summaries `(n, S)`: weight `(P, S)` and bias `(P,)`.

    Each value of a summary is centred and scaled by its deviation plus a tenth of the mean deviation of its part, so
    that values that hardly vary stay small. The parts (three of size `channels`, then the cells) count alike.
    """
    summaries, targets = summaries.double(), targets.double()
    centre, mean = summaries.mean(dim=0), targets.mean(dim=0)
    parts = summaries.std(dim=0, correction=0).split([channels] * 3 + [summaries.shape[1] - 3 * channels])
    scale = torch.cat(
        [1 / ((part + 0.1 * part.mean()).clamp(min=1e-12) * (len(parts) * len(part)) ** 0.5) for part in parts]
    )
    inputs = (summaries - centre) * scale
    count, size = inputs.shape
    if count <= size:
        kernel = inputs @ inputs.T
        kernel.diagonal().add_(RIDGE)
        solution = inputs.T @ torch.linalg.solve(kernel, targets - mean)  # (S, P)
    else:
        covariance = inputs.T @ inputs
        covariance.diagonal().add_(RIDGE)
        solution = torch.linalg.solve(covariance, inputs.T @ (targets - mean))
    weight = (solution * scale[:, None]).T
    return weight.float(), (mean - weight @ centre).float()


def _predict_all(
    memory: CaptionMemory,
    predicted: torch.Tensor,
    training: ClipDataset,
    indices: Sequence[int],
    collator: VideoCaptionCollator,
) -> torch.Tensor:
    """Predictions `(N, P)` for all training clips: those given for `indices`, and the memory's for others."""
    video_words = torch.empty(len(training), predicted.shape[1])
    video_words[indices] = predicted
    others = sorted({*range(len(training))} - {*indices})  # which the regression has not seen
    for start in range(0, len(others), BATCH):
        batch = others[start : start + BATCH]
        summaries = _summaries(training, batch, collator, channels=memory.channels)
        video_words[batch] = torch.nn.functional.linear(summaries, memory.weight, memory.bias)
    return video_words


def _predict_unseen(
    summaries: torch.Tensor, targets: torch.Tensor, folds: torch.Tensor, *, channels: int
) -> torch.Tensor:
    """The prediction `(n, P)` for each clip by a regression on the clips of other folds."""
    predicted = torch.empty_like(targets)
    for fold in range(FOLDS):
        held_out = folds == fold
        weight, bias = _regress(summaries[~held_out], targets[~held_out], channels=channels)
        predicted[held_out] = torch.nn.functional.linear(summaries[held_out], weight, bias)
    return predicted


def _recall_unseen(
    memory: CaptionMemory,
    predicted: torch.Tensor,
    folds: torch.Tensor,
    captions: Sequence[str],
    folds_of: dict[str, set[int]],
) -> list[str]:
    """The caption that each clip recalls from other folds.

    Args:
        predicted: `(n, P)`, see [`_predict_unseen`].
        captions: Those of the memory, in its order.
        folds_of: The folds in which each caption occurs.
    """
    likely = predicted @ memory.keys.T  # (n, N)
    for fold in range(FOLDS):
        hidden = torch.tensor([folds_of[caption] == {fold} for caption in captions])
        likely[(folds == fold)[:, None] & hidden] = -torch.inf
    return [captions[index] for index in likely.argmax(dim=1).tolist()]


def _folds(features: torch.Tensor, *, seed: int, iterations: int = 20) -> torch.Tensor:
    """A fold `(n,)` for each clip, by k-means of its features `(n, D)`; folds are of nearly the same size.

    Clips that look alike, such as those of one place and day, share a fold: the clips that a captioner meets later are
    less alike than those.
    """
    generator = torch.Generator().manual_seed(seed)
    deviation = features.std(dim=0, correction=0)
    features = (features - features.mean(dim=0)) / (deviation + 0.1 * deviation.mean()).clamp(min=1e-12)
    count = max(FOLDS, len(features) // CLIPS_PER_GROUP)
    centres = features[torch.randperm(len(features), generator=generator)[:count]]
    for _ in range(iterations):
        groups = torch.cdist(features, centres).argmin(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, groups, features)
        sizes = groups.bincount(minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    folds, filled = torch.empty_like(groups), [0] * FOLDS
    sizes = groups.bincount(minlength=count)
    for group in sizes.argsort(descending=True, stable=True).tolist():
        fold = filled.index(min(filled))
        folds[groups == group] = fold
        filled[fold] += int(sizes[group])
    if max(filled) > len(features) / 2:  # all look alike
        folds = torch.arange(len(features)) % FOLDS
    return folds


def _z_score(predicted: torch.Tensor, targets: torch.Tensor) -> float:
    """Likeness of predictions `(n, P)` to their own targets, less that to others', in standard errors."""
    predicted = torch.nn.functional.normalize(predicted.double(), dim=1)
    targets = torch.nn.functional.normalize(targets.double(), dim=1)
    likeness = predicted @ targets.T
    count = len(likeness)
    own = likeness.diagonal()
    gaps = own - (likeness.sum(dim=1) - own) / (count - 1)
    return float(gaps.mean() / (gaps.std() / count**0.5).clamp(min=1e-12))
