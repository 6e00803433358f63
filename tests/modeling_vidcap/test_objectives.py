"""Parts of the decoder and of the losses that can be switched on: each trains, generates, changes what it should."""

import itertools
from typing import Any

import pytest
import torch
from torchvision.transforms.v2.functional import rgb_to_grayscale

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from modeling_vidcap.backbones_vidcap import color_histogram
from modeling_vidcap.losses_vidcap import contrastive_loss, play_backwards
from modeling_vidcap.modeling_vidcap import hide_videos, shift_right
from tests.tiny import tiny_config, tiny_model

OPTIONS: list[dict[str, Any]] = [
    {"fusion": "joint"},
    {"fusion": "joint", "masked_word_weight": 0.5},
    {"masked_word_weight": 0.5},
    {"scheduled_sampling": 0.5},
    {"video_dropout": 0.5},
    {"reversed_negatives": True},
    {"reversed_negatives": True, "contrastive_type": "sigmoid"},
    {"color_bins": 3},
    {"color_bins": 2, "spatial_tokens": True, "fusion": "joint", "caption_queries": 3},
]


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two clips of four frames, the second with a masked one, and their captions."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values_videos": torch.rand(2, 4, 3, 32, 32, generator=generator) * 2 - 1,
        "video_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "video_times": torch.arange(4).expand(2, -1) * 0.3,
        "labels": torch.tensor([[4, 7, 10, 2], [4, 8, 2, -100]]),
    }


def clips(seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch(seed).items() if name != "labels"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_trains_and_survives_saving(options, tmp_path):
    model = tiny_model(**options)
    model.train()
    torch.manual_seed(0)
    output = model(**batch())
    output.loss.backward()
    assert output.loss.isfinite()
    assert [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None] == []
    model.eval().save_pretrained(tmp_path)
    loaded = VideoCaptionForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.generate(**clips(), max_new_tokens=8), model.generate(**clips(), max_new_tokens=8))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_joint_fusion_generates_equal_tokens_with_and_without_cache(attention, beams, layers):
    model = tiny_model(fusion="joint", multimodal_layers=layers)
    model.set_attn_implementation(attention)
    with_cache, without = (
        model.generate(**clips(), max_new_tokens=8, num_beams=beams, use_cache=use_cache, do_sample=False)
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_in_joint_fusion_text_sees_the_past_alone_and_the_video_sees_no_text():
    model = tiny_model(fusion="joint", multimodal_layers=2)
    first, second = torch.tensor([[1, 4, 7, 10]] * 2), torch.tensor([[1, 4, 7, 13]] * 2)
    logits = [model(**clips(), decoder_input_ids=ids).logits for ids in (first, second)]
    assert torch.equal(logits[0][:, :3], logits[1][:, :3])
    assert not torch.allclose(logits[0][:, 3], logits[1][:, 3])
    other = model(**clips(1), decoder_input_ids=first).logits
    assert not torch.allclose(logits[0], other)


def test_masked_frames_change_nothing_in_joint_fusion():
    model = tiny_model(fusion="joint")
    given = clips()
    changed = dict(given, pixel_values_videos=given["pixel_values_videos"].clone())
    changed["pixel_values_videos"][1, 3] = 1.0
    ids = torch.tensor([[1, 4, 7, 10]] * 2)
    torch.testing.assert_close(
        model(**given, decoder_input_ids=ids).logits, model(**changed, decoder_input_ids=ids).logits
    )


@pytest.mark.parametrize("fusion", ["cross_attention", "joint"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_masked_word_pass_sees_what_comes_behind(fusion, attention):
    model = tiny_model(fusion=fusion)
    model.set_attn_implementation(attention)
    encoded = model.model.encoder(**clips())
    first, second = torch.tensor([[1, 4, 3, 10]] * 2), torch.tensor([[1, 4, 3, 13]] * 2)
    for is_causal in (True, False):
        states = [model.model.decoder(ids, encoded, is_causal=is_causal).last_hidden_state for ids in (first, second)]
        assert torch.allclose(states[0][:, 1], states[1][:, 1]) is is_causal


def test_masked_words_are_counted_where_they_were_hidden():
    model = tiny_model(masked_word_weight=1.0, word_dropout=0.0, dropout=0.0, label_smoothing=0.0)
    model.train()
    torch.manual_seed(3)
    output = model(**batch(), num_items_in_batch=7)
    labels = batch()["labels"]
    torch.manual_seed(3)
    inputs = shift_right(labels.masked_fill(labels == model.config.eos_token_id, -100), model.config)
    hide = (torch.rand(inputs.shape) < 0.5) & (inputs != 1) & (inputs != 0)
    logits = model.lm_head(
        model.model.decoder(
            inputs.masked_fill(hide, 3), output.encoder_outputs, inputs.ne(0).long(), is_causal=False
        ).last_hidden_state
    ).log_softmax(-1)
    expected = -sum(logits[i, t - 1, inputs[i, t]] for i, t in itertools.product(range(2), range(1, 4)) if hide[i, t])
    assert hide.any()
    torch.testing.assert_close(output.masked_word_loss, expected / (0.5 * 7))


def test_a_batch_in_which_no_word_is_hidden_has_a_loss():
    model = tiny_model(masked_word_weight=1.0).train()
    one = {name: value[:1] for name, value in clips().items()}
    losses = [model(**one, labels=torch.tensor([[4, 2]])).masked_word_loss.item() for _ in range(20)]
    assert min(losses) == 0 < max(losses) < float("inf")


def test_captions_padded_to_another_length_stay_equal_captions(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "modeling_vidcap.modeling_vidcap.contrastive_loss",
        lambda video, text, scale, ids, **options: seen.append(ids) or video.sum() * 0,
    )
    tiny_model().train()(**batch())
    assert seen[0].tolist() == [[4, 7, 10, 2], [4, 8, 2, -1]]  # what ranks fill up with, see `gather_padded`


def test_scheduled_sampling_puts_predictions_in_place_of_words():
    model = tiny_model(scheduled_sampling=0.99, word_dropout=0.0)
    encoded = model.model.encoder(**clips())
    inputs = torch.tensor([[1, 4, 7, 10], [1, 4, 8, 0]])
    predicted = model(encoder_outputs=encoded, decoder_input_ids=inputs).logits.argmax(-1)
    torch.manual_seed(0)
    mixed = model._mix_in_predictions(inputs, encoded)
    assert torch.equal(mixed[:, 0], inputs[:, 0])
    assert mixed[1, 3] == 0  # padding stays
    assert torch.equal(mixed[0, 1:], predicted[0, :-1])
    model.set_ramps(losses=0.0)
    assert torch.equal(model._mix_in_predictions(inputs, encoded), inputs)


def test_video_dropout_hides_whole_clips_from_the_decoder():
    config = tiny_config(video_dropout=0.5)
    encoded = tiny_model().model.encoder(**clips())
    torch.manual_seed(0)
    hidden = [hide_videos(encoded, config).last_hidden_state for _ in range(20)]
    shares = torch.stack([each.flatten(1).any(dim=1) for each in hidden]).float().mean()
    assert 0.2 < shares < 0.8
    full = encoded.last_hidden_state
    assert all(torch.equal(each[i], full[i]) or not each[i].any() for each in hidden for i in range(2))


def test_hard_negatives_raise_the_loss_of_their_own_clip_only():
    generator = torch.Generator().manual_seed(0)
    video, text = (torch.randn(3, 8, generator=generator) for _ in range(2))
    ids, scale = torch.arange(3)[:, None], torch.tensor(1.0)
    plain = contrastive_loss(video, text, scale, ids)
    none = contrastive_loss(video, text, scale, ids, negative_texts=torch.zeros(3, 2, 8))
    torch.testing.assert_close(none, plain)
    negatives = torch.zeros(3, 1, 8)
    negatives[0, 0] = video[0]  # fits its clip perfectly
    raised = contrastive_loss(video, text, scale, ids, negative_texts=negatives)
    videos, texts = (torch.nn.functional.normalize(each, dim=-1) for each in (video, text))
    logits = torch.e**1 * videos @ texts.T
    rows = torch.cat([logits, torch.full((3, 1), -1e4)], dim=1)
    rows[0, 3] = torch.e**1
    cross_entropy, targets = torch.nn.functional.cross_entropy, torch.arange(3)
    torch.testing.assert_close(raised, (cross_entropy(rows, targets) + cross_entropy(logits.T, targets)) / 2)
    for bias in (None, torch.tensor(-1.0)):
        options = {"logit_bias": bias}
        assert contrastive_loss(video, text, scale, ids, negative_texts=negatives, **options) > contrastive_loss(
            video, text, scale, ids, **options
        )


def test_near_miss_captions_reach_the_loss_and_absent_ones_do_not():
    model = tiny_model(dropout=0.0)
    model.train()
    near = torch.tensor([[[4, 8, 10, 2]], [[-100] * 4]])
    absent = torch.full((2, 1, 4), -100)
    plain, with_near, with_none = (
        model(**batch(), near_misses=each).contrastive_loss for each in (None, near, absent)
    )
    torch.testing.assert_close(with_none, plain)
    assert with_near > plain


def test_a_clip_played_backwards_keeps_its_padding():
    given = clips()
    backwards = play_backwards(given)
    pixels = given["pixel_values_videos"]
    assert torch.equal(backwards["pixel_values_videos"][1], pixels[1, [2, 1, 0, 3]])
    torch.testing.assert_close(backwards["video_times"][1, :3], torch.tensor([0.0, 0.3, 0.6]))
    twice = play_backwards({"pixel_values_videos": pixels})["pixel_values_videos"]
    assert torch.equal(twice, pixels.flip(1))


def test_the_histogram_holds_the_share_of_each_colour():
    frames = torch.full((1, 3, 8, 8), -1.0)
    frames[0, 0, :4, :4] = 1.0  # a quarter is red, the rest black
    whole = color_histogram(frames, 1, 3)[0, :, 0, 0].view(3, 3, 3)
    torch.testing.assert_close((whole[2, 0, 0], whole[0, 0, 0]), (torch.tensor(0.25), torch.tensor(0.75)))
    cells = color_histogram(frames, 2, 3)[0].view(3, 3, 3, 2, 2)
    assert cells[2, 0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    frames[0, 1] = -0.2  # four fifths of the way from level 0 to level 1
    torch.testing.assert_close(color_histogram(frames, 1, 3).sum(), torch.tensor(1.0))
    shared = color_histogram(frames, 1, 3)[0].view(3, 3, 3)[2, :, 0]
    torch.testing.assert_close(shared, torch.tensor([0.05, 0.2, 0.0]))
    assert color_histogram(torch.rand(2, 3, 10, 11), 3, 2).shape == (2, 8, 3, 3)  # not divisible by the grid


def test_a_grayscale_backbone_sees_no_color_and_the_histogram_does():
    frames = clips()["pixel_values_videos"]
    grey = rgb_to_grayscale(frames, 3)
    for grayscale in (True, False):
        backbone = tiny_model(grayscale_backbone=grayscale, color_bins=3).backbone
        first, second = backbone(frames), backbone(grey)
        assert torch.allclose(first[..., :16], second[..., :16], atol=1e-2) is grayscale
        assert not torch.allclose(first[..., 16:], second[..., 16:], atol=1e-2)


def test_the_histogram_is_hidden_for_whole_clips_in_training_alone():
    colors = tiny_model(color_bins=2, color_dropout=0.5).model.encoder.color_projection
    histograms = torch.full((64, 4, 1, 8), 0.125)
    histograms[..., 0] = 0.5
    assert (colors.eval()(histograms) != 0).all()
    torch.manual_seed(0)
    seen = (colors.train()(histograms) != 0).flatten(1)
    assert torch.equal(seen.any(dim=1), seen.all(dim=1)) and 16 < seen.any(dim=1).sum() < 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_bins": 9}, "`color_bins`.*got 9"),
        ({"caption_weight": 0.0, "contrastive_weight": 0.0}, "are all 0"),
        ({"masked_word_weight": -1.0}, "`masked_word_weight`.*got -1.0"),
        ({"reversed_negatives": True, "contrastive_weight": 0.0}, "set `contrastive_weight` above 0"),
        ({"fusion": "joint", "text_layers": 0, "contrastive_weight": 0.0}, "at least one of `text_layers`, got 0"),
        ({"video_dropout": 1.0}, "`video_dropout`.*got 1.0"),
        ({"text_layers": 0}, "at least one of `text_layers`.*got 0"),
        ({"color_dropout": 0.5}, "set `color_bins` above 0"),
        ({"encoder_layers": 0, "encoder_window": 2}, "`encoder_layers` above 0"),
    ],
)
def test_combinations_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoCaptionConfig(**{"feature_size": 128, **options})
