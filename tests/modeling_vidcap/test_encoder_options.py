"""Options of the video encoder: positions in time and space, factorized attention, the temporal pyramid."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError

from modeling_vidcap.blocks_vidcap import VideoCaptionFramePositions, VideoCaptionMotion, time_rotation
from tests.tiny import tiny_config, tiny_model

CELLS = {"spatial_tokens": True}
FACTORISED = {"spatial_tokens": True, "encoder_attention": "factorized", "encoder_layers": 2}
OPTIONS = {
    "learned_time": {"time_positions": "learned"},
    "sinusoidal_time": {"time_positions": "sinusoidal"},
    "rotary_cells": {**CELLS, "space_positions": "rotary"},
    "rotary_cells_alone": {**CELLS, "space_positions": "rotary", "time_positions": "learned"},
    "sinusoidal_cells": {**CELLS, "space_positions": "sinusoidal", "time_positions": "sinusoidal"},
    "factorized": FACTORISED,
    "factorized_window": {**FACTORISED, "space_positions": "rotary", "encoder_window": 2},
    "pyramid": {"temporal_pyramid": 2},
    "pyramid_of_cells": {**FACTORISED, "temporal_pyramid": 2, "caption_queries": 3},
}
IDS = torch.tensor([[1, 5, 6, 7], [1, 9, 4, 8]])
LABELS = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 2, -100, -100]])


def build(**options):
    return tiny_model(**{"motion": False, "initializer_range": 0.2, **options})


def clips(frames: int = 5) -> dict[str, torch.Tensor]:
    """Two clips as features of 2 x 2 cells."""
    generator = torch.Generator().manual_seed(1)
    return {
        "video_features": torch.randn(2, frames, 4, 16, generator=generator),
        "video_mask": torch.ones(2, frames, dtype=torch.long),
        "video_times": torch.arange(frames).expand(2, -1) * 0.2,
    }


@pytest.fixture(scope="module", params=OPTIONS.values(), ids=OPTIONS)
def model(request):
    return build(**request.param)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_of_training_lowers_the_loss(options):
    model = build(**options, dropout=0.0, word_dropout=0.0, frame_dropout=0.2, freeze_backbone=True).train()
    inputs = clips(7)
    inputs["video_mask"][1, 2:] = 0

    def loss():
        torch.manual_seed(0)
        return model(**inputs, labels=LABELS).loss

    before = loss()
    before.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad or (parameter.grad is not None), name
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                parameter -= 1e-3 * parameter.grad
    assert loss() < before


def test_masked_frames_change_nothing(model):
    inputs, generator = clips(), torch.Generator().manual_seed(2)
    longer = {
        "video_features": torch.cat([inputs["video_features"], torch.randn(2, 6, 4, 16, generator=generator)], dim=1),
        "video_mask": torch.cat([inputs["video_mask"], torch.zeros(2, 6, dtype=torch.long)], dim=1),
        "video_times": torch.cat([inputs["video_times"], torch.full((2, 6), 9.0)], dim=1),
    }
    found, expected = (model(**each, decoder_input_ids=IDS).logits for each in (longer, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.get_video_features(**longer), model.get_video_features(**inputs))
    unmasked = dict(longer, video_mask=torch.ones_like(longer["video_mask"]))
    assert not torch.allclose(model.get_video_features(**unmasked), model.get_video_features(**inputs), atol=1e-3)


def test_captions_are_the_same_without_cache_and_after_saving(model, tmp_path):
    options = {"min_new_tokens": 12, "max_new_tokens": 12, "no_repeat_ngram_size": 2}
    cached = model.generate(**clips(), **options, num_beams=2)
    assert len(set(cached[0].tolist())) > 2, "a constant caption would prove nothing"
    assert torch.equal(model.generate(**clips(), **options, num_beams=2, use_cache=False), cached)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(**clips(), **options, num_beams=2), cached)


@pytest.mark.parametrize("frames", [1, 8, 32])
def test_any_number_of_frames(model, frames):
    encoded = model.get_encoder()(**clips(frames))
    config = model.config
    levels = sum(-(-frames // 2**level) for level in range(config.temporal_pyramid + 1))
    tokens = config.caption_queries or levels * (4 if config.spatial_tokens else 1)
    assert encoded.last_hidden_state.shape == (2, tokens, 32) and encoded.last_hidden_state.isfinite().all()
    assert encoded.attention_mask.shape == encoded.token_times.shape == (2, tokens)
    assert model.generate(**clips(frames), max_new_tokens=3, min_new_tokens=3).shape == (2, 4)


def test_order_of_frames_matters(model):
    """Without motion and without positions a clip played backwards would be the same to the pooler."""
    inputs = clips()
    turned = dict(inputs, video_features=inputs["video_features"].flip(1))
    assert not torch.allclose(model.get_video_features(**turned), model.get_video_features(**inputs), atol=1e-4)


def test_motion_floor_makes_changes_equally_loud_but_not_noise():
    motion = VideoCaptionMotion(tiny_config(motion_floor=0.05))
    plain = VideoCaptionMotion(tiny_config(motion_floor=0.0))
    seen = []
    for module in (motion, plain):
        module.fc_in.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    token, direction = torch.nn.functional.layer_norm(torch.randn(2, 32, generator=torch.manual_seed(0)), (32,))
    for size, expected in ((0.5, 1.0), (0.2, 0.97), (0.001, 0.02), (0.0, 0.0)):
        clip = torch.stack([token, token + size * direction])[None, :, None]
        motion(clip)
        plain(clip)
        changes = [*seen[-2].split(32, dim=-1)[1:], *seen[-1].split(32, dim=-1)[1:]]  # louder, scaled; as it is
        assert all(change[:, 0].eq(0).all() for change in changes)
        louder, scaled, unscaled = (change[:, 1].square().mean().sqrt().item() for change in changes)
        assert scaled == pytest.approx(expected, rel=0.15)
        assert unscaled == pytest.approx(size, rel=0.15) and louder == pytest.approx(4 * unscaled)


@pytest.mark.parametrize("space_positions", ["learned", "rotary", "sinusoidal"])
@pytest.mark.parametrize("attention", [CELLS, FACTORISED], ids=["joint", "factorized"])
def test_places_of_cells_matter(attention, space_positions):
    model, inputs = build(**attention, space_positions=space_positions), clips()
    plain = model.get_video_features(**inputs)
    # Rows become columns; left becomes right; top becomes bottom. Rotary positions see it too: they have a direction.
    for order in ([0, 2, 1, 3], [1, 0, 3, 2], [2, 3, 0, 1]):
        moved = model.get_video_features(**dict(inputs, video_features=inputs["video_features"][:, :, order]))
        assert not torch.allclose(moved, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sees_shift", "sees_pace"),
    [
        ({}, False, True),
        ({**CELLS, "space_positions": "rotary"}, False, True),
        (FACTORISED, False, True),
        ({"time_positions": "sinusoidal"}, True, True),
        ({"time_positions": "learned"}, False, False),
    ],
)
def test_what_positions_in_time_depend_on(options, sees_shift, sees_pace):
    model, inputs = build(**options), clips()

    def encoded(times):
        return model.get_encoder()(**dict(inputs, video_times=times)).last_hidden_state

    times = inputs["video_times"]
    for changed, seen in ((times + 3, sees_shift), (times * 3, sees_pace)):
        assert torch.allclose(encoded(changed), encoded(times), atol=1e-4) is not seen
    logits = [model(**dict(inputs, video_times=each), decoder_input_ids=IDS).logits for each in (times, times * 3)]
    assert not torch.allclose(*logits, atol=1e-4), "the decoder sees seconds with any positions in the encoder"


def test_a_learned_table_is_laid_over_the_clip():
    positions = VideoCaptionFramePositions(tiny_config(num_frames=4))
    table = positions.table.weight
    assert torch.equal(positions(torch.ones(1, 4))[0], table)
    halves = (table[1:] + table[:-1]) / 2
    seven = torch.stack([table[0], halves[0], table[1], halves[1], table[2], halves[2], table[3]])
    torch.testing.assert_close(positions(torch.ones(1, 7))[0], seven)
    torch.testing.assert_close(positions(torch.ones(1, 2))[0], table[[0, 3]])
    torch.testing.assert_close(positions(torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0, 0]]))[0, :7], seven)
    torch.testing.assert_close(positions(torch.tensor([[1, 0, 0]]))[0, 0], table[0])


def test_factorized_attention_is_joint_attention_behind_masks():
    model, inputs = build(**FACTORISED, space_positions="sinusoidal"), clips()
    inputs["video_mask"][0, 3:] = 0
    encoder, seen = model.get_encoder(), []
    encoder.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(1, 2)))
    found = encoder(**inputs).last_hidden_state
    frame, cell = torch.arange(20) // 4, torch.arange(20) % 4
    same_frame, same_cell = (each[:, None] == each for each in (frame, cell))
    real = inputs["video_mask"].bool().repeat_interleave(4, dim=1)[:, None, None]  # (B, 1, 1, S)
    rotation = time_rotation(model.config, inputs["video_times"].repeat_interleave(4, dim=1), torch.float32)
    between = encoder.layers[0](seen[0], same_frame[None, None], rotation)
    expected = encoder.norm(encoder.layers[1](between, same_cell & real, rotation))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_window_in_time_layers_counts_frames():
    model, inputs = build(**FACTORISED, encoder_window=1), clips()
    features = inputs["video_features"].requires_grad_()
    model.get_encoder()(**inputs).last_hidden_state[:, 4:8].square().sum().backward()  # the second frame's cells
    seen = features.grad.abs().sum(dim=(0, 3)) > 0  # (T, N)
    assert seen.all(dim=1).tolist() == seen.any(dim=1).tolist() == [True, True, True, False, False]


def test_a_pyramid_starts_as_averages_over_real_frames():
    model, inputs = build(**CELLS, temporal_pyramid=2), clips()
    inputs["video_mask"][0, 3:] = 0
    encoded = model.get_encoder()(**inputs)
    tokens = encoded.last_hidden_state.unflatten(1, (-1, 4))  # (B, 5 + 3 + 2, N, D)
    times, mask = encoded.token_times[:, ::4], encoded.attention_mask[:, ::4]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 1, 1, 0, 1, 0], [1] * 10]
    for clip, level, frames in [
        (0, 5, [0, 1]),
        (0, 6, [2]),
        (0, 8, [0, 1, 2]),
        (1, 6, [2, 3]),
        (1, 7, [4]),
        (1, 8, [0, 1, 2, 3]),
        (1, 9, [4]),
    ]:
        torch.testing.assert_close(tokens[clip, level], tokens[clip, frames].mean(dim=0))
        torch.testing.assert_close(times[clip, level], times[clip, frames].mean())
    with torch.no_grad():
        model.get_encoder().level_embeddings[1] = 5.0
    levels = model.get_encoder()(**inputs).last_hidden_state.unflatten(1, (-1, 4))
    torch.testing.assert_close(levels[:, :8], tokens[:, :8])
    torch.testing.assert_close(levels[1, 8:], tokens[1, 8:] + 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_positions": "fourier"}, "time_positions"),
        ({"space_positions": "rotary"}, "`space_positions` 'rotary' needs.*`spatial_tokens`"),
        ({"space_positions": "sinusoidal"}, "`space_positions` 'sinusoidal' needs.*`spatial_tokens`"),
        ({**CELLS, "space_positions": "rotary", "num_attention_heads": 4}, "at least 16 channels.* is 8"),
        (
            {"encoder_attention": "factorized", "encoder_layers": 2},
            "`encoder_attention` 'factorized' needs.*`spatial_tokens`",
        ),
        ({**FACTORISED, "encoder_layers": 3}, "in pairs.*not 3"),
        ({**FACTORISED, "encoder_layers": 0}, "in pairs.*not 0"),
        ({"temporal_pyramid": 3}, r"`temporal_pyramid`.*got 3"),
        ({"temporal_pyramid": -1}, "`temporal_pyramid`.*got -1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        tiny_config(**options)
