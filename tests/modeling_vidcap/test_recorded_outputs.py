"""Hidden states and attentions that a caller asks for; arguments that nobody knows."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from tests.tiny import tiny_model

LENGTH, STEPS, CELLS = 5, 4, 4
ASKED = {"output_attentions": True, "output_hidden_states": True}
GPT2: dict[str, Any] = {"n_embd": 24, "n_layer": 2, "n_head": 2, "vocab_size": 34}
LLAMA: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def eager_model(**changes: Any) -> Any:
    model = tiny_model(**{"text_layers": 2, "spatial_tokens": True, **changes})
    model.set_attn_implementation("eager")
    return model


def clips(model: Any) -> dict[str, torch.Tensor]:
    features = torch.randn(2, STEPS, CELLS, model.config.cell_features, generator=torch.Generator().manual_seed(0))
    return {"video_features": features, "video_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}


def shapes(tensors: Any) -> list[tuple[int, ...]]:
    return [tuple(each.shape) for each in tensors]


def test_hidden_states_and_attentions() -> None:
    model = eager_model()
    ids = torch.randint(4, 20, (2, LENGTH))
    plain = model(**clips(model), decoder_input_ids=ids)
    found = model(**clips(model), decoder_input_ids=ids, **ASKED)
    assert torch.equal(plain.logits, found.logits)
    assert plain.decoder_hidden_states is None and plain.encoder_outputs.attentions is None
    encoded, tokens = found.encoder_outputs, STEPS * CELLS
    assert shapes(encoded.hidden_states) == [(2, tokens, 32)] * 2
    assert shapes(encoded.attentions) == [(2, 2, tokens, tokens)]
    assert shapes(found.decoder_hidden_states) == [(2, LENGTH, 32)] * 4
    assert shapes(found.decoder_attentions) == [(2, 2, LENGTH, LENGTH)] * 3
    assert shapes(found.cross_attentions) == [(2, 2, LENGTH, tokens)]
    assert torch.equal(model.model.encoder.norm(encoded.hidden_states[-1]), encoded.last_hidden_state)
    assert torch.equal(model.lm_logits(found.decoder_hidden_states[-1]), found.logits)
    for weights in (encoded.attentions[0], found.decoder_attentions[0], found.cross_attentions[0]):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert encoded.attentions[0][1, :, :, -CELLS:].abs().max() == 0  # the frame that is masked
    assert found.decoder_attentions[0].triu(1).abs().max() == 0


@pytest.mark.parametrize(
    ("changes", "of_words", "of_clip"),
    [
        ({"encoder_attention": "factorized", "encoder_layers": 2}, [LENGTH] * 3, 1),
        ({"caption_queries": 3, "temporal_pyramid": 1}, [LENGTH] * 3, 1),
        ({"fusion": "joint"}, [LENGTH, LENGTH, STEPS * CELLS + LENGTH], 0),
        ({"decoder_config": GPT2Config(**GPT2, add_cross_attention=True)}, [LENGTH] * 2, 2),
        ({"decoder_config": LlamaConfig(vocab_size=34, **LLAMA), "fusion": "joint"}, [STEPS * CELLS + LENGTH] * 2, 0),
    ],
)
def test_of_other_encoders_and_decoders(changes: dict[str, Any], of_words: list[int], of_clip: int) -> None:
    model = eager_model(**changes)
    ids = torch.randint(4, 20, (2, LENGTH))
    found = model.model(**clips(model), decoder_input_ids=ids, **ASKED)
    assert [each.shape[-1] for each in found.decoder_attentions] == of_words
    assert len(found.cross_attentions or ()) == of_clip
    assert len(found.decoder_hidden_states) == len(of_words) + 1
    assert torch.equal(found.decoder_hidden_states[-1][:, -LENGTH:], found.last_hidden_state)
    assert len(found.encoder_outputs.hidden_states) == model.config.encoder_layers + 1


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 2}, {"num_beams": 2, "similarity_weight": 0.5}])
def test_generate_records_each_step(options: dict[str, Any]) -> None:
    model = eager_model()
    options |= {"max_new_tokens": 3, "min_new_tokens": 3}
    found = model.generate(**clips(model), **options, **ASKED, return_dict_in_generate=True)
    assert torch.equal(found.sequences, model.generate(**clips(model), **options))
    assert len(found.decoder_attentions) == len(found.decoder_hidden_states) == len(found.cross_attentions) == 3
    rows = 2 * options["num_beams"]
    assert shapes(found.decoder_attentions[2]) == [(rows, 2, 1, 3)] * 3
    assert shapes(found.cross_attentions[2]) == [(rows, 2, 1, STEPS * CELLS)]
    assert shapes(found.encoder_hidden_states) == [(2, STEPS * CELLS, 32)] * 2


def test_attentions_need_eager_attention() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match='set_attn_implementation\\("eager"\\)'):
        model.generate(**clips(model), output_attentions=True, return_dict_in_generate=True, max_new_tokens=2)
    found = model.generate(**clips(model), output_hidden_states=True, return_dict_in_generate=True, max_new_tokens=2)
    assert len(found.decoder_hidden_states[0]) == 3


def test_tuples_are_for_the_caller_alone() -> None:
    model = tiny_model()
    inputs = {**clips(model), "decoder_input_ids": torch.tensor([[1, 5], [1, 6]])}
    expected = model(**inputs)
    assert torch.equal(model(**inputs, return_dict=False)[0], expected.logits)
    learning = {**clips(model), "labels": torch.tensor([[5, 2], [6, 2]])}
    expected_loss = model(**learning)
    for found in (expected_loss, model(**learning, return_dict=False)):
        assert torch.equal(found[0], expected_loss.loss) and torch.equal(found[1], expected_loss.logits)
    assert all(each is not None for each in model(**learning, return_dict=False))
    model.config.return_dict = False
    assert torch.equal(model(**inputs).logits, expected.logits)


@pytest.mark.parametrize("name", ["video_maks", "cache_position", "past_key_values"])
def test_unknown_arguments_are_errors(name: str) -> None:
    model = tiny_model()
    ids = torch.tensor([[1, 5], [1, 6]])
    encoded = model.get_encoder()(**clips(model))
    for call in (
        lambda **wrong: model(**clips(model), decoder_input_ids=ids, **wrong),
        lambda **wrong: model.model(**clips(model), decoder_input_ids=ids, **wrong),
        lambda **wrong: model.get_encoder()(**clips(model), **wrong),
        lambda **wrong: model.get_decoder()(ids, encoded, **wrong),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            call(**{name: torch.ones(2, 4)})
