"""Parameter groups: learning rates of pretrained parts, and which parameters decay."""

from typing import NamedTuple

from torch import nn
from torch.optim import Optimizer

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.pretrained_decoder_vidcap import pretrained_parameters

from ..arguments.training_arguments import VideoCaptionTrainingArguments

# Usual rates of fine-tuning language models, wholly and by low-rank matrices.
DECODER_LEARNING_RATE, LORA_LEARNING_RATE = 5e-5, 5e-4


class PretrainedGroup(NamedTuple):
    """Trainable parameters of a pretrained part, and their learning rate."""

    parameters: list[nn.Parameter]
    learning_rate: float | None


def pretrained_groups(
    model: VideoCaptionForConditionalGeneration, args: VideoCaptionTrainingArguments
) -> list[PretrainedGroup]:
    """Trainable parameters of the backbone and of a pretrained decoder.

    Raises:
        ValueError: If a learning rate is given for a part of which nothing is trained.
    """
    decoder = model.model.decoder
    parameters = {"backbone": model.backbone.parameters(), "decoder": pretrained_parameters(decoder)}
    trainable = {part: [each for each in found if each.requires_grad] for part, found in parameters.items()}
    rates = {"backbone": args.backbone_learning_rate, "decoder": args.decoder_learning_rate}
    for part, rate in rates.items():
        if rate is not None and not trainable[part]:
            reason = "the backbone is frozen" if part == "backbone" else "no pretrained decoder is trained"
            raise ValueError(f"--{part}_learning_rate {rate:g} has no effect, since {reason}; leave it out")
    by_lora = any(".lora_" in name for name, _ in decoder.named_parameters())
    rates["decoder"] = rates["decoder"] or (LORA_LEARNING_RATE if by_lora else DECODER_LEARNING_RATE)
    return [PretrainedGroup(trainable[part], rate) for part, rate in rates.items()]


def split_pretrained_groups(optimizer: Optimizer, pretrained: list[PretrainedGroup]) -> None:
    """Give pretrained parts groups with their own learning rates."""
    for part in pretrained:
        ids = {id(parameter) for parameter in part.parameters}
        for group in list(optimizer.param_groups) if part.learning_rate is not None else ():
            if chosen := [parameter for parameter in group["params"] if id(parameter) in ids]:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
                optimizer.add_param_group({**group, "params": chosen, "lr": part.learning_rate})


def decayed_names(model: nn.Module) -> list[str]:
    """Names of the parameters with weight decay: matrices and kernels.

    Norms, biases, embedding tables, queries and scales do not decay. Matrices and kernels are called weights in every
    network (`weight`, `in_proj_weight`, LoRA's `lora_A.default.weight`); tokens, position tables and scales are not.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name.endswith("weight") and id(parameter) not in tables
    ]
