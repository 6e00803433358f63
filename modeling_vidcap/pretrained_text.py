"""Embeddings of words from a pretrained text model, such as BERT."""

from typing import Any

import torch
from transformers import AutoModel


def load_embeddings(source: str) -> torch.Tensor:
    """The table `(V, E)` of a text model's input embeddings.

    Args:
        source: Folder or Hub id; only safetensors are read.

    Raises:
        ValueError: If the model has no such table, or its weights hold none.
        OSError: If there is no such folder or Hub id.
    """
    model: Any
    model, found = AutoModel.from_pretrained(source, output_loading_info=True, use_safetensors=True)
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
