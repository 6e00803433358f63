"""Greedy captions by our own loop: those of transformers, token by token, and only where nothing else is asked for."""

import peft
import pytest
import torch
from torch import nn

import modeling_vidcap.generation_vidcap as generation
from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.decoding_vidcap import GreedyWriter, is_unmodified, write_greedily
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.inference.onnx_export import export_onnx

LIMIT = {"max_new_tokens": 12, "num_beams": 1}


def inputs_of(count: int = 6) -> dict[str, torch.Tensor]:
    clips = [tiny_clip(seed, frames=2 + seed) for seed in range(count)]  # the shorter ones are filled up and masked
    return dict(tiny_processor()(videos=clips))


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Counts the calls of our own loop."""
    made: list[int] = []

    def counted(*args, **kwargs):
        made.append(1)
        return write_greedily(*args, **kwargs)

    monkeypatch.setattr(generation, "write_greedily", counted)
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_layers": 2, "multimodal_layers": 2, "encoder_layers": 0},
        {"text_layers": 0, "contrastive_weight": 0.0},
        {"caption_queries": 3},
        {"temporal_pyramid": 1},
        {"spatial_tokens": True},
        {"embedding_size": 24},
    ],
)
def test_the_words_are_those_of_transformers_loop(options, calls):
    model, inputs = tiny_model(**options), inputs_of()
    encoded = model.get_encoder()(**inputs)
    writer = GreedyWriter(model.model.decoder, encoded, 13)
    ours = model.generate(**inputs, **LIMIT)
    assert len(calls) == 1
    theirs = model.generate(**inputs, **LIMIT, return_dict_in_generate=True, output_logits=True)
    assert len(calls) == 1 and torch.equal(ours, theirs.sequences)
    for step, expected in enumerate(theirs.logits):
        hidden_states = writer.read(theirs.sequences[:, step : step + 1])
        torch.testing.assert_close(model.lm_logits(hidden_states)[:, -1], expected, rtol=1e-4, atol=1e-4)
    assert len({tuple(row) for row in ours.tolist()}) > 1


def test_banned_words_guidance_and_begun_captions_hold(calls):
    model, inputs = tiny_model(video_dropout=0.1), inputs_of()
    plain = model.generate(**inputs, **LIMIT)
    banned = [[word] for word in plain[:, 1].unique().tolist()]
    for options in (
        {"bad_words_ids": banned},
        {"guidance_scale": 2.0},
        {"decoder_input_ids": torch.tensor([[1, 9, 12]] * 6)},
        {"repetition_penalty": 1.5},
    ):
        ours = model.generate(**inputs, **LIMIT, **options)
        theirs = model.generate(**inputs, **LIMIT, **options, return_dict_in_generate=True).sequences
        assert torch.equal(ours, theirs)
        assert ours.shape != plain.shape or not torch.equal(ours, plain), options
    assert len(calls) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"do_sample": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"decoder_attention_mask": torch.ones(6, 1, dtype=torch.long)},
    ],
)
def test_other_searches_are_left_to_transformers(options, calls):
    assert len(tiny_model().generate(**inputs_of(), **(LIMIT | options))) == 6 and not calls


def test_joint_fusion_and_training_are_left_to_transformers(calls):
    tiny_model(fusion="joint").generate(**inputs_of(), **LIMIT)
    tiny_model().train().generate(**inputs_of(), **LIMIT)
    assert not calls
    half, inputs = tiny_model().to(torch.bfloat16), inputs_of()
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(torch.bfloat16)
    assert half.generate(**inputs, **LIMIT).shape[0] == 6 and len(calls) == 1


def low_rank(model: VideoCaptionForConditionalGeneration) -> None:
    config = peft.LoraConfig(target_modules=["self_attn.q_proj", "self_attn.v_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model.model.decoder)


def hook(model: VideoCaptionForConditionalGeneration) -> None:
    model.model.decoder.text_layers[0].self_attn.v_proj.register_forward_hook(lambda *args: 3 * args[2])


def other_forward(model: VideoCaptionForConditionalGeneration) -> None:
    projection = model.model.decoder.text_layers[0].self_attn.q_proj
    projection.forward = lambda states: -nn.Linear.forward(projection, states)


def eight_bits(model: VideoCaptionForConditionalGeneration) -> None:
    torch.ao.quantization.quantize_dynamic(model.model.decoder, {nn.Linear}, inplace=True)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
@pytest.mark.parametrize("change", [low_rank, hook, other_forward, eight_bits])
def test_what_stands_beside_the_weights_is_heeded(change, calls):
    model, inputs = tiny_model(initializer_range=0.3), inputs_of()
    assert is_unmodified(model.model.decoder)
    plain = model.generate(**inputs, **LIMIT)
    assert calls == [1]
    change(model)
    found = model.generate(**inputs, **LIMIT)
    assert calls == [1] and not is_unmodified(model.model.decoder)
    expected = model.generate(**inputs, **LIMIT, return_dict_in_generate=True).sequences
    assert torch.equal(found, expected)
    if change is not eight_bits:
        assert not torch.equal(found, plain)
    with pytest.raises(ValueError, match="merge or remove them before the export"):
        export_onnx(model, tiny_processor(), "never-written")


def test_recorded_outputs_leave_the_fast_way_open(calls):
    model, inputs = tiny_model(), inputs_of()
    model(**inputs, decoder_input_ids=torch.full((6, 1), 1), output_hidden_states=True)
    model.generate(**inputs, **LIMIT)
    assert calls == [1]
