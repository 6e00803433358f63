"""`torch.compile` takes the captioner whole: no graph breaks, and the same loss and gradients."""

from typing import Any

import pytest
import torch

from tests.tiny import tiny_clip, tiny_model, tiny_processor

VARIANTS: list[dict[str, Any]] = [
    {"color_bins": 3, "thumbnail_size": 2},
    {"fusion": "joint", "caption_queries": 2},
    {
        **{"spatial_tokens": True, "encoder_layers": 2, "encoder_attention": "factorized"},
        **{"space_positions": "rotary", "temporal_pyramid": 1},
    },
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_compiled_captioner_has_one_graph_and_the_same_loss(variant: dict[str, Any]) -> None:
    model = tiny_model(**variant, dropout=0.0, word_dropout=0.0)
    inputs = tiny_processor()(videos=[tiny_clip(0), tiny_clip(1, frames=2)])
    labels = torch.tensor([[4, 7, 10, 2], [4, 8, 2, -100]])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # the tracing alone: no C++ compiler is needed
    for training in (False, True):
        losses, gradients = [], []
        for each in (model, compiled):
            each.train(training)
            model.zero_grad()
            loss = each(**inputs, labels=labels).loss
            loss.backward()
            losses.append(loss)
            gradients.append(model.model.encoder.projection.weight.grad.clone())
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
