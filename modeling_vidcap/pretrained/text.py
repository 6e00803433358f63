"""What a captioner takes over from a pretrained text model: embeddings of words, such as BERT's, or all of a language
model as its decoder, such as GPT-2 or SmolLM2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from processing.support.trusted import load_pretrained

from ..pretrained_decoder_vidcap import CROSS_ATTENTION
from ..settings_vidcap import DECODERS
from .weights import RANDOM, has_weights, load_weights, short_name


def load_embeddings(source: str) -> torch.Tensor:
    """The table `(V, E)` of a text model's input embeddings.

    Args:
        source: Folder or Hub id; only safetensors are read.

    Raises:
        ValueError: If the model has no such table, its weights hold none, or it needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    model, found = load_weights(AutoModel, source, problems=("mismatched_keys",))
    table = model.get_input_embeddings()
    if not isinstance(table, torch.nn.Embedding):
        raise ValueError(f"{source}: {model.config.model_type} has no table of word embeddings")
    name = next(name for name, parameter in model.named_parameters() if parameter is table.weight)
    if name in found["missing_keys"]:
        raise ValueError(f"{source}: its weights hold no {name}, the table of word embeddings")
    return table.weight.detach()


def fill_embeddings(model: Any, table: torch.Tensor) -> str:
    """Puts a table into a captioner, whose vocabulary may have more tokens behind it, and says so in one line."""
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
        settings: The part of a [`VideoCaptionConfig`] that describes it.
        weights: Tensors of its body by name, without embeddings; `None` if it starts from random ones.
        table: Its embeddings `(V, D)`.
        head: Its output `(V, D)`, where that is not tied to the embeddings.
        description: What it is and where its weights come from.
    """

    settings: dict[str, Any]
    weights: Mapping[str, torch.Tensor] | None
    table: torch.Tensor | None
    head: torch.Tensor | None
    description: str

    @torch.no_grad()
    def fill(self, model: Any) -> str:
        """Loads the weights into a captioner, and says in one line what was done.

        Tokens that the captioner's tokenizer added start from the mean of the others: random ones of another size
        would be likelier than any word at first.
        """
        frozen = "frozen" if model.config.freeze_decoder else "trained"
        if self.weights is None or self.table is None:
            return f"decoder: {self.description}, {frozen}"
        net = model.model.decoder.net
        found = net.load_state_dict(self.weights, strict=False)
        embeddings = net.get_input_embeddings().weight
        own = {name for name, each in net.named_parameters() if each is embeddings}
        new = [name for name in found.missing_keys if any(part in name for part in CROSS_ATTENTION)]
        if wrong := [*found.unexpected_keys, *(set(found.missing_keys) - own - set(new))]:
            raise ValueError(f"its weights do not fit: {', '.join(sorted(wrong)[:3])} ({len(wrong)} in all)")
        tables = {embeddings: self.table} | ({} if self.head is None else {model.lm_head.weight: self.head})
        for target, source in tables.items():
            target[: len(source)] = source
            target[len(source) :] = source.mean(dim=0)
        added = len(embeddings) - len(self.table)
        parts = [self.description, f"{added} tokens added", frozen]
        if new:
            parts.insert(1, f"attention to the clip random ({len(new)} tensors)")
        return f"decoder: {', '.join(parts)}"


def check_language_model(source: str, *, fusion: str) -> Any:
    """The config of a language model that can serve as a decoder.

    Raises:
        ValueError: If it is of a type that cannot.
    """
    config = load_pretrained(AutoConfig.from_pretrained, source)
    kind = config.model_type
    if kind not in DECODERS:
        raise ValueError(f"--decoder {source}: {kind} cannot serve, it takes one of type {', '.join(DECODERS)}")
    if fusion == "cross_attention" and not DECODERS[kind]:
        raise ValueError(f"--decoder {source}: {kind} has no cross-attention; add --fusion joint")
    return config


def load_language_model(source: str, *, fusion: str, vocab_size: int) -> LanguageModel:
    """A causal language model as a captioner's decoder.

    Args:
        source: Folder or Hub id; only safetensors are read. A folder that holds a configuration alone gives random
            weights.
        fusion: The captioner's: `cross_attention` adds attention to the clip to its layers.
        vocab_size: Tokens of the captioner's tokenizer.

    Raises:
        ValueError: If it is of a type that cannot serve, its weights do not fit it, or it needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    config = check_language_model(source, fusion=fusion)
    kind = config.model_type
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
    config.dtype = None  # that of the captioner around it
    config.vocab_size = max(vocab_size, config.vocab_size)  # tables may be rounded up
    config.add_cross_attention = fusion == "cross_attention"
    tied = getattr(config, "tie_word_embeddings", True) if table is None else head is None
    settings = {"decoder_config": config, "vocab_size": config.vocab_size, "tie_word_embeddings": tied}
    return LanguageModel(settings, weights, table, head, f"{kind} of {short_name(source)}, {origin}")
