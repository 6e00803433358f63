"""LoRA for pretrained parts, merged into the weights at the end.

Guarantees: the finished model is saved plain, and loads without peft.

Limitations: adapters are not kept apart, and checkpoints before the end serve `--resume_from_checkpoint` alone.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.pretrained_decoder_vidcap import CROSS_ATTENTION, PretrainedDecoder

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

PARTS = ("backbone", "decoder")


def add_lora(
    model: VideoCaptionForConditionalGeneration, parts: Sequence[str], *, rank: int, alpha: int | None = None
) -> "list[LoraModel]":
    """Put trainable low-rank matrices beside all linear layers of these parts.

    See Hu et al. 2021, https://arxiv.org/abs/2106.09685.

    Args:
        parts: Some of `backbone` and `decoder`.
        rank: Rank of the matrices.
        alpha: Their product is scaled by alpha / rank; by default alpha is twice the rank.

    Returns:
        One peft model per part, for [`merge_lora`].

    Raises:
        ImportError: If peft is missing.
        ValueError: If a part is unknown, not pretrained, frozen, or without linear layers.
    """
    if not parts:
        return []
    if find_spec("peft") is None:
        raise ImportError("--lora needs peft; run: pip install 'vidcap[lora]'")
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"--lora {unknown[0]} must be one of {', '.join(PARTS)}")
    if rank < 1:
        raise ValueError(f"--lora_rank {rank} must be at least 1")
    adapters = []
    for part in parts:
        module: Any = model.model.decoder if part == "decoder" else model.backbone
        if part == "decoder" and not isinstance(module, PretrainedDecoder):
            raise ValueError("--lora decoder needs a pretrained decoder; add --decoder, or leave --lora out")
        if part == "decoder" and model.config.freeze_decoder:
            raise ValueError("--lora decoder trains what --freeze_decoder keeps fixed; leave one of them out")
        if part == "backbone" and module.frozen:
            raise ValueError("--lora backbone needs a trained backbone; add --freeze_backbone False")
        if part == "backbone" and model.config.trained_backbone_stages is not None:
            raise ValueError("--lora backbone adapts every stage; leave out --lora or --trained_backbone_stages")
        new = [name for name, _ in module.net.named_modules() if _is_cross_attention(name)]
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
            if _is_cross_attention(name):  # newly added to the decoder, and trained in full
                parameter.requires_grad_(True)
    return adapters


def _is_cross_attention(name: str) -> bool:
    return any(part in name for part in CROSS_ATTENTION)


def merge_lora(adapters: "Sequence[LoraModel]") -> None:
    """Merge the matrices into the weights, which leaves the plain model."""
    for adapter in adapters:
        adapter.merge_and_unload()
