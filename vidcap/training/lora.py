"""LoRA for pretrained parts: low-rank matrices are trained beside the weights and added into them at the end.

Promises: what is saved when training is over is the plain model, which loads without peft. Gives up: keeping the
adapter apart, and starting from a checkpoint in the middle by anything but `--resume_from_checkpoint`.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from modeling_vidcap.pretrained_decoder_vidcap import CROSS_ATTENTION, PretrainedDecoder

PARTS = ("backbone", "decoder")


def add_lora(model: Any, parts: Sequence[str], *, rank: int, alpha: int | None = None) -> list[Any]:
    """Puts low-rank matrices beside all linear layers of these parts (Hu et al. 2021,
    https://arxiv.org/abs/2106.09685), and takes the gradient from what was there.

    Args:
        model: The captioner.
        parts: Of `backbone` and `decoder`.
        rank: Of the matrices.
        alpha: Their sum counts alpha / rank; by default alpha is twice the rank.

    Returns:
        One peft model a part, for [`merge_lora`].

    Raises:
        ImportError: If peft is missing.
        ValueError: If a part is unknown, not pretrained, frozen, or without linear layers.
    """
    if not parts:
        return []
    if find_spec("peft") is None:
        raise ImportError("--lora needs peft: pip install 'vidcap[lora]'")
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"--lora {unknown[0]}: it is for {' and '.join(PARTS)}")
    if rank < 1:
        raise ValueError(f"--lora_rank {rank} must be at least 1")
    adapters = []
    for part in parts:
        module = model.model.decoder if part == "decoder" else model.backbone
        if part == "decoder" and not isinstance(module, PretrainedDecoder):
            raise ValueError("--lora decoder is for a pretrained one: give --decoder, or leave it out")
        if part == "decoder" and model.config.freeze_decoder:
            raise ValueError("--lora decoder: --freeze_decoder keeps it as it is; leave one of them out")
        if part == "backbone" and module.frozen:
            raise ValueError("--lora backbone: features of a frozen one are kept; add --freeze_backbone False")
        if part == "backbone" and model.config.trained_backbone_stages is not None:
            raise ValueError("--lora backbone adapts all of it: leave it or --trained_backbone_stages out")
        new = [name for name, _ in module.net.named_modules() if any(each in name for each in CROSS_ATTENTION)]
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,
            target_modules="all-linear",
            exclude_modules=new or None,
        )
        try:
            adapters.append(LoraModel(module.net, config, "default"))
        except ValueError as error:
            raise ValueError(f"--lora {part}: {type(module.net).__name__} has no linear layers ({error})") from error
        for name, parameter in module.net.named_parameters():
            if any(each in name for each in CROSS_ATTENTION):  # new to the decoder, and to be trained as a whole
                parameter.requires_grad_(True)
    return adapters


def merge_lora(adapters: Sequence[Any]) -> None:
    """Adds the matrices into the weights, and leaves the plain model."""
    for adapter in adapters:
        adapter.merge_and_unload()
