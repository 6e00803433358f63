"""Pretrained text for a captioner: word embeddings, such as BERT's, or a language model as its decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from processing.support.trusted import load_pretrained

from ..modeling_vidcap import VideoCaptionForConditionalGeneration
from ..pretrained_decoder_vidcap import CROSS_ATTENTION
from ..settings_vidcap import DECODERS
from .weights import RANDOM, has_weights, load_weights, short_name


def load_embeddings(source: str) -> torch.Tensor:
    """The table `(V, E)` of a text model's input embeddings.

    Args:
        source: Folder or Hub id; only safetensors are read.

    Raises:
        ValueError: If the model or its weights have no such table, or it needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    model, info = load_weights(AutoModel, source, problems=("mismatched_keys",))
    table = model.get_input_embeddings()
    if not isinstance(table, torch.nn.Embedding):
        raise ValueError(
            f"{source}: a model of type {model.config.model_type} has no word embeddings; take a text model"
        )
    name = next(name for name, parameter in model.named_parameters() if parameter is table.weight)
    if name in info["missing_keys"]:
        raise ValueError(f"{source}: the weights lack {name}, the word embeddings; take another checkpoint")
    return table.weight.detach()


def fill_embeddings(model: VideoCaptionForConditionalGeneration, table: torch.Tensor) -> str:
    """Copy a table into a captioner, whose vocabulary may be larger, and return a line for the log."""
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[: len(table)] = table
    added = model.config.vocab_size - len(table)
    state = "frozen" if model.config.freeze_embeddings else "trained"
    return (
        f"words: {len(table):,} pretrained embeddings of size {table.shape[1]}, {max(added, 0)} tokens added, {state}"
    )


@dataclass
class LanguageModel:
    """A pretrained decoder before a captioner is built around it.

    Attributes:
        settings: Its fields of a [`VideoCaptionConfig`].
        weights: Tensors of its body by name, without embeddings; `None` for random weights.
        table: Its embeddings `(V, D)`.
        head: Its output `(V, D)`, unless tied to the embeddings.
        description: Its type and the origin of its weights, for the log.
    """

    settings: dict[str, Any]
    weights: Mapping[str, torch.Tensor] | None
    table: torch.Tensor | None
    head: torch.Tensor | None
    description: str

    @torch.no_grad()
    def fill(self, model: VideoCaptionForConditionalGeneration) -> str:
        """Load the weights into a captioner, and return a line for the log.

        Embeddings of added tokens start from the mean of the others: random ones of another norm would make these
        tokens likelier than any word at first.
        """
        frozen = "frozen" if model.config.freeze_decoder else "trained"
        if self.weights is None or self.table is None:
            return f"decoder: {self.description}, {frozen}"
        net = model.model.decoder.net
        result = net.load_state_dict(self.weights, strict=False)
        embeddings = net.get_input_embeddings().weight
        tables_inside = {name for name, parameter in net.named_parameters() if parameter is embeddings}
        new = [name for name in result.missing_keys if any(part in name for part in CROSS_ATTENTION)]
        if wrong := [*result.unexpected_keys, *(set(result.missing_keys) - tables_inside - set(new))]:
            raise ValueError(
                f"decoder {self.description}: the weights do not fit its config: {', '.join(sorted(wrong)[:3])} "
                f"({len(wrong)} in all); take another checkpoint"
            )
        tables = {embeddings: self.table} | ({} if self.head is None else {model.lm_head.weight: self.head})
        for target, source in tables.items():
            target[: len(source)] = source
            target[len(source) :] = source.mean(dim=0)
        added = len(embeddings) - len(self.table)
        parts = [self.description, f"{added} tokens added", frozen]
        if new:
            parts.insert(1, f"cross-attention random ({len(new)} tensors)")
        return f"decoder: {', '.join(parts)}"


def check_language_model(source: str, *, fusion: str) -> Any:
    """The config of a language model that can serve as a decoder.

    Raises:
        ValueError: If it is of a type that cannot.
    """
    config = load_pretrained(AutoConfig.from_pretrained, source)
    if config.model_type not in DECODERS:
        raise ValueError(
            f"decoder {source} is a model of type {config.model_type}: take one of type {', '.join(DECODERS)}"
        )
    if fusion == "cross_attention" and not DECODERS[config.model_type]:
        raise ValueError(
            f"decoder {source}: a model of type {config.model_type} has no cross-attention; set fusion=joint"
        )
    return config


def load_language_model(source: str, *, fusion: str, vocab_size: int) -> LanguageModel:
    """A causal language model as a captioner's decoder.

    Args:
        source: Folder or Hub id; only safetensors are read. A folder without weights gives random ones.
        fusion: That of the captioner; `cross_attention` adds cross-attention to its layers.
        vocab_size: Number of tokens of the captioner's tokenizer.

    Raises:
        ValueError: If it is of a type that cannot serve, its weights do not fit, or it needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    config = check_language_model(source, fusion=fusion)
    weights = table = head = None
    origin = RANDOM
    if has_weights(source):
        model, _ = load_weights(AutoModelForCausalLM, source)
        body = getattr(model, model.base_model_prefix)
        table = body.get_input_embeddings().weight.detach()
        weights = {key: value for key, value in body.state_dict().items() if value.data_ptr() != table.data_ptr()}
        if model.get_output_embeddings().weight.data_ptr() != table.data_ptr():
            head = model.get_output_embeddings().weight.detach()
        origin = "weights loaded"
    config.dtype = None  # the captioner's
    config.vocab_size = max(vocab_size, config.vocab_size)  # tables may be rounded up
    config.add_cross_attention = fusion == "cross_attention"
    tied = getattr(config, "tie_word_embeddings", True) if table is None else head is None
    settings = {"decoder_config": config, "vocab_size": config.vocab_size, "tie_word_embeddings": tied}
    return LanguageModel(settings, weights, table, head, f"{config.model_type} of {short_name(source)}, {origin}")
