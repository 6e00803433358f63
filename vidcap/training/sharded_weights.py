"""Weights that are split over processes (FSDP 2) in training.

Guarantees: a checkpoint holds the whole model as well, as without splitting, so that it loads as a model.

Limitations: FSDP 1 and LoRA are refused; the weights must fit into the memory of one machine.
"""

from pathlib import Path

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch import nn
from transformers import PreTrainedModel


def prepare_to_split(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> None:
    """Give each parameter without axes, which cannot be split, the shape (1,).

    Raises:
        ValueError: If the model cannot be trained under these settings of FSDP.
    """
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_version {plugin.fsdp_version} is not supported; set it to 2, as in recipes/accelerate")
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("FSDP splits the weights of large models, LoRA trains few weights; leave one of them out")
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(parameter.detach()[None], requires_grad=parameter.requires_grad))


def assemble_model(
    model_class: type[PreTrainedModel], split: PreTrainedModel, weights: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """A whole model with the configs of a split one.

    Args:
        model_class: Its class before it was split.
        weights: State dict of the split model, empty on all processes but the first.
    """
    model = model_class(split.config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if weights:
        model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in weights.items()})
    model.generation_config = split.generation_config
    return model.eval()


def check_splitting(checkpoint: str | Path, *, splits: bool) -> None:
    """Refuse a checkpoint that was trained with other FSDP settings."""
    if Path(checkpoint, f"{FSDP_MODEL_NAME}.bin").is_file() != splits:
        raise ValueError(
            f"cannot resume from {checkpoint}: it was trained {'without' if splits else 'with'} FSDP; resume with the "
            "accelerate config of the interrupted run"
        )
