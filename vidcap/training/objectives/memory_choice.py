"""The parts that a model's caption memory plays in captioning and in search, chosen on validation clips."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.scoring_vidcap import Ranking, add_remembered, rank_captions
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import IGNORED, VideoCaptionCollator
from vidcap.evaluation.scores.bootstrap import scores_per_clip

logger = logging.getLogger(__name__)
USUAL_WEIGHT = 30.0  # with which the decoder only chooses among captions of about the same expected CIDEr
WEIGHTS = (0.0, USUAL_WEIGHT)
SHARES = (0.0, 0.35, 0.65, 0.9)  # of the memory in embeddings
SAMPLE = 200  # validation clips, at most
BATCH = 64


@torch.inference_mode()
def choose_memory_weight(
    model: VideoCaptionForConditionalGeneration,
    collator: VideoCaptionCollator,
    validation: ClipDataset,
    recalled: np.ndarray | None,
) -> float:
    """[`USUAL_WEIGHT`], or 0 where the decoder alone is better; 0 if there is no memory.

    A few dozen validation clips decide little. The decoder alone has to be better than with the memory on these clips,
    and better there than remembered captions are on the training clips, each by more than a standard error.

    Args:
        model: Is left in evaluation mode.
        collator: Collator of clips without drawing.
        validation: Clips of which at most [`SAMPLE`] are captioned.
        recalled: CIDEr of remembered captions, see [`FittedMemory`].
    """
    if model.model.encoder.memory is None or recalled is None:
        return 0.0
    model.eval()
    step = max(1, -(-len(validation) // SAMPLE))
    indices = range(0, len(validation), step)
    written: dict[float, list[str]] = {weight: [] for weight in WEIGHTS}
    for start in range(0, len(indices), BATCH):
        batch = [validation[index] for index in indices[start : start + BATCH]]
        inputs = {name: value.to(model.device) for name, value in collator.videos(batch).items()}
        for weight, captions in _captions(model, inputs).items():
            written[weight] += collator.processor.post_process_generation(captions)
    references: Sequence[Sequence[str]] = [validation.rows["captions"][index] for index in indices]
    alone, beside = (scores_per_clip(written[weight], references)["cider"] for weight in WEIGHTS)
    gains = alone - beside
    lead = alone.mean() - recalled.mean()
    errors = [values.std() / len(values) ** 0.5 for values in (gains, alone, recalled)]
    better = gains.mean() > errors[0] and lead > (errors[1] ** 2 + errors[2] ** 2) ** 0.5
    best = 0.0 if better else USUAL_WEIGHT
    logger.info(
        f"memory weight {best:g}, by CIDEr: {alone.mean():.1f} without memory and {beside.mean():.1f} with it on "
        f"{len(indices)} validation clips, {recalled.mean():.1f} by remembered captions alone on training clips"
    )
    return best


@torch.inference_mode()
def choose_memory_share(
    model: VideoCaptionForConditionalGeneration, collator: VideoCaptionCollator, validation: ClipDataset
) -> float:
    """The smallest of [`SHARES`] that ranks clips best by their captions, 0 without memory or contrastive loss.

    Args:
        model: Is left in evaluation mode, and with this share.
        collator: Collator of clips without drawing.
        validation: Clips of which at most [`SAMPLE`] are compared.
    """
    config: Any = model.config
    if model.model.encoder.memory is None or not config.contrastive_weight:
        return 0.0
    model.eval()
    items = [validation[index] for index in range(0, len(validation), max(1, -(-len(validation) // SAMPLE)))]
    scores = {}
    for share in SHARES:
        config.memory_share = share
        embeds: list[list[torch.Tensor]] = [[], []]
        for start in range(0, len(items), BATCH):
            inputs = {name: value.to(model.device) for name, value in collator(items[start : start + BATCH]).items()}
            ids = inputs.pop("labels")
            ids = ids.masked_fill(ids == IGNORED, config.pad_token_id)
            embeds[0].append(model.get_text_features(ids))
            embeds[1].append(model.get_video_features(**inputs))
        texts, clips = (torch.cat(parts) for parts in embeds)
        similar = texts @ clips.T
        ranks = 1 + (similar > similar.diagonal()[:, None]).sum(dim=1)
        scores[share] = (1 / ranks).mean().item()
    config.memory_share = max(SHARES, key=lambda share: scores[share])  # the first of several
    shown = ", ".join(f"{share:g}: {value:.3f}" for share, value in scores.items())
    logger.info(f"memory share {config.memory_share:g}, by mean reciprocal rank of {len(items)} clips ({shown})")
    return config.memory_share


def _captions(
    model: VideoCaptionForConditionalGeneration, inputs: dict[str, torch.Tensor]
) -> dict[float, torch.Tensor]:
    """For each weight the best captions `(B, L)`."""
    settings: Any = model.generation_config
    clips = model.get_encoder()(**inputs)
    beams = settings.num_beams or 1
    options: dict[str, Any] = {"memory_weight": 0.0, "similarity_weight": 0.0, "num_return_sequences": beams}
    sequences = model.generate(encoder_outputs=clips, **options)
    banned = [[token] for token in settings.suppress_tokens or []]
    candidates = add_remembered(model, sequences, clips, max_length=settings.max_new_tokens, banned=banned)
    scored = model.get_token_log_probabilities(candidates, clips, guidance_scale=settings.guidance_scale)
    similarity = (settings.similarity_weight or 0.0) if beams > 1 else 0.0
    length_penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
    captions = {}
    for weight in WEIGHTS:
        if weight:
            ranking = Ranking(similarity, weight, length_penalty)
            rows, _ = rank_captions(model, candidates, *scored, clips, ranking).best(1)
            captions[weight] = candidates[rows]
        else:
            captions[weight] = model.generate(encoder_outputs=clips, memory_weight=0.0)
    return captions
