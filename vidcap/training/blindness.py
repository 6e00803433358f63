"""A warning during training if the decoder writes the same for any clip."""

import logging
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_vidcap.modeling_vidcap import shift_right
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import IGNORED, VideoCaptionCollator

from .optimization.time_budget import TimeBudget

logger = logging.getLogger(__name__)
CHECKED_AT = 0.15  # of the run
CHECKED_WITHOUT_MEMORY = 0.5  # where all has to be learnt step by step
SIGNIFICANT = 3.0  # standard errors
SAMPLE = 200  # validation clips, at most
ENOUGH = 20  # validation clips; fewer cannot tell a blind run from one that sees
BATCH = 64


class BlindnessCheck(TrainerCallback):
    """Warns once, after a part of the run, if clips make no difference to captions.

    That is so if the likelihood of validation captions is no higher beside their own clip than beside another one, and
    the caption memory, fitted before the first step, cannot tell unseen clips' captions apart either.

    Args:
        collator: Collator of clips without drawing.
        validation: Clips that are not trained on.
        memory_z_score: See [`FittedMemory`]; `None` without a memory.
        budget: Of a run whose length is a time.
    """

    def __init__(
        self,
        collator: VideoCaptionCollator,
        validation: ClipDataset,
        *,
        memory_z_score: float | None,
        budget: TimeBudget | None,
    ):
        self.collator = collator
        self.validation = validation
        self.memory_z_score = memory_z_score
        self.budget = budget
        self.checked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs
    ) -> None:
        progress = self.budget.progress if self.budget else state.global_step / max(state.max_steps, 1)
        if self.checked or progress < (CHECKED_WITHOUT_MEMORY if self.memory_z_score is None else CHECKED_AT):
            return
        self.checked = True
        if (self.memory_z_score or 0.0) >= SIGNIFICANT:
            return
        gap = gap_to_other_clips(model, self.collator, self.validation)  # on all processes, for FSDP
        if gap is not None and gap < SIGNIFICANT and state.is_world_process_zero:
            logger.warning(
                f"after {state.global_step} steps the clip's own frames make no difference: captions are hardly "
                f"likelier beside their own clip than beside another ({gap:.1f} standard errors). Check that they "
                "belong to these clips (vidcap data inspect); try a larger --image_size, more --num_frames, another "
                "--backbone, or more clips"
            )


@torch.no_grad()
def gap_to_other_clips(model: Any, collator: VideoCaptionCollator, clips: ClipDataset) -> float | None:
    """How much likelier captions are beside their own clip than beside another, in standard errors.

    The mode of the model is left as it was. `None` for fewer than [`ENOUGH`] clips.
    """
    indices = range(0, len(clips), max(1, -(-len(clips) // SAMPLE)))
    if len(indices) < ENOUGH:
        return None
    training = model.training
    model.eval()
    items = [clips[index] for index in indices]
    half = len(items) // 2
    gaps = []
    for start in range(0, len(items), BATCH):
        own = items[start : start + BATCH]
        others = [items[(start + place + half) % len(items)] for place in range(len(own))]
        swapped = [{**other, "captions": clip["captions"]} for clip, other in zip(own, others, strict=True)]
        gaps.append(_log_likelihoods(model, collator(own)) - _log_likelihoods(model, collator(swapped)))
    model.train(training)
    joined = torch.cat(gaps)
    return float(joined.mean() / (joined.std() / len(joined) ** 0.5).clamp(min=1e-9))


def _log_likelihoods(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean log-probability of the tokens of each caption `(B,)`."""
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    labels = inputs.pop("labels")  # with them the clips of all processes would be compared
    logits = model(**inputs, decoder_input_ids=shift_right(labels, model.config), use_cache=False).logits.float()
    of_labels = logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    real = labels != IGNORED
    return ((of_labels * real).sum(dim=1) / real.sum(dim=1)).cpu()
