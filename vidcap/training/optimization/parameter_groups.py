"""Which parameters are trained at which rate, and which of them decay."""

from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from modeling_vidcap.pretrained_decoder_vidcap import pretrained_parameters

from ..arguments.training_arguments import VideoCaptionTrainingArguments

# At which language models are usually fine-tuned, and low-rank matrices beside them.
DECODER_LEARNING_RATE, LORA_LEARNING_RATE = 5e-5, 5e-4


class OwnRate(NamedTuple):
    """A part of the model that was trained before."""

    parameters: list[nn.Parameter]  # those that are trained on
    learning_rate: float | None  # that of the rest, if None


def own_rates(model: Any, args: VideoCaptionTrainingArguments) -> list[OwnRate]:
    """What is trained of the backbone and of a pretrained decoder, and at which rates.

    Raises:
        ValueError: If a rate is given for a part of which nothing is trained.
    """
    backbone, decoder = model.backbone, model.model.decoder
    brought = {"backbone": backbone.parameters(), "decoder": pretrained_parameters(decoder)}
    parts = {name: [each for each in found if each.requires_grad] for name, found in brought.items()}
    rates = {"backbone": args.backbone_learning_rate, "decoder": args.decoder_learning_rate}
    for name, rate in rates.items():
        if rate is not None and not parts[name]:
            what = "the backbone is frozen" if name == "backbone" else "no pretrained decoder is trained"
            raise ValueError(f"--{name}_learning_rate {rate:g} does nothing, since {what}: leave it out")
    by_lora = any(".lora_" in name for name, _ in decoder.named_parameters())
    rates["decoder"] = rates["decoder"] or (LORA_LEARNING_RATE if by_lora else DECODER_LEARNING_RATE)
    return [OwnRate(parts[name], rate) for name, rate in rates.items()]


def set_own_rates(optimizer: Optimizer, parts: list[OwnRate]) -> None:
    """Splits the groups of an optimizer, so that these parts are trained at their own rates."""
    for part in parts:
        own = {id(each) for each in part.parameters}
        for group in list(optimizer.param_groups) if part.learning_rate is not None else ():
            if chosen := [each for each in group["params"] if id(each) in own]:
                group["params"] = [each for each in group["params"] if id(each) not in own]
                optimizer.add_param_group({**group, "params": chosen, "lr": part.learning_rate})


def decayed_names(model: nn.Module) -> list[str]:
    """Weight decay is for matrices and kernels: no norms, biases, tables of embeddings, queries or scales.

    Matrices and kernels are called weights, also those of others' networks (`weight`, `in_proj_weight`, LoRA's
    `lora_A.default.weight`); their tokens, tables of positions and scales have other names.
    """
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name.endswith("weight") and id(parameter) not in tables
    ]
