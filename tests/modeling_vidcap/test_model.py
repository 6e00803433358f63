"""The model's promises: cache, padding, masks, positions, losses."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError

from modeling_vidcap.blocks_vidcap import stochastic_depth_rates
from modeling_vidcap.encoding_vidcap import drop_frames
from modeling_vidcap.losses_vidcap import caption_loss, contrastive_loss
from modeling_vidcap.modeling_vidcap import drop_words, shift_right
from tests.tiny import tiny_config, tiny_model

LABELS = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 2, -100, -100]])


def clips(batch: int = 2, frames: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "pixel_values_videos": torch.randn(batch, frames, 3, 32, 32),
        "video_mask": torch.ones(batch, frames, dtype=torch.long),
        "video_times": torch.arange(frames).expand(batch, -1) * 0.2,
    }


VARIANTS = {
    "frame_tokens": {},
    "cell_tokens": {"spatial_tokens": True},
    "window": {"spatial_tokens": True, "encoder_window": 1, "encoder_layers": 2},
    "caption_queries": {"caption_queries": 3},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def model(request):
    return tiny_model(**request.param, thumbnail_size=1, initializer_range=0.2)


def test_generation_with_and_without_cache_gives_equal_tokens(model):
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        cached, full = (
            model.generate(
                **clips(),
                **options,
                min_new_tokens=12,
                max_new_tokens=12,
                no_repeat_ngram_size=2,
                use_cache=use_cache,
            )
            for use_cache in (True, False)
        )
        assert torch.equal(cached, full)
        assert len(set(cached[0].tolist())) > 2, "a constant caption would prove nothing"


def test_prefill_equals_token_by_token(model):
    ids = torch.tensor([[1, 5, 6, 7], [1, 9, 4, 8]])
    whole = model(**clips(), decoder_input_ids=ids).logits
    past, steps = None, []
    for position in range(ids.shape[1]):
        output = model(**clips(), decoder_input_ids=ids[:, position : position + 1], cache=past)
        past = output.cache
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_masked_frames_change_nothing(model):
    ids = torch.tensor([[1, 5, 6], [1, 9, 4]])
    inputs = clips()
    longer = {
        "pixel_values_videos": torch.cat([inputs["pixel_values_videos"], torch.randn(2, 3, 3, 32, 32)], dim=1),
        "video_mask": torch.cat([inputs["video_mask"], torch.zeros(2, 3, dtype=torch.long)], dim=1),
        "video_times": torch.cat([inputs["video_times"], torch.full((2, 3), 9.0)], dim=1),
    }
    found, expected = (model(**each, decoder_input_ids=ids).logits for each in (longer, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.get_video_features(**longer), model.get_video_features(**inputs))
    unmasked = dict(longer, video_mask=torch.ones_like(longer["video_mask"]))
    assert not torch.allclose(model.get_video_features(**unmasked), model.get_video_features(**inputs), atol=1e-3)


def test_every_word_sees_every_frame(model):
    """The first life of this project hid later frames from earlier words."""
    inputs = clips(batch=1)
    pixels = inputs["pixel_values_videos"].requires_grad_()
    model(**inputs, decoder_input_ids=torch.tensor([[1, 5, 6]])).logits[0, 0].square().sum().backward()
    assert (pixels.grad.abs().sum(dim=(2, 3, 4)) > 0).all()


def test_order_and_times_of_frames_matter(model):
    inputs = clips(batch=1)
    plain = model.get_video_features(**inputs)
    turned = dict(inputs, pixel_values_videos=inputs["pixel_values_videos"].flip(1))
    slower = dict(inputs, video_times=inputs["video_times"] * 3)
    assert not torch.allclose(model.get_video_features(**turned), plain, atol=1e-4)
    assert not torch.allclose(model.get_video_features(**slower), plain, atol=1e-4)


def test_features_replace_pixels(model):
    inputs = clips()
    features = model.backbone(inputs.pop("pixel_values_videos"))
    captions = model.generate(**clips(), max_new_tokens=8, min_new_tokens=8)
    assert torch.equal(model.generate(video_features=features, **inputs, max_new_tokens=8, min_new_tokens=8), captions)
    encoded = model.get_encoder()(**clips())
    assert torch.equal(model.generate(encoder_outputs=encoded, max_new_tokens=8, min_new_tokens=8), captions)


def test_wrong_shapes_are_named(model):
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\)"):
        model.get_video_features(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="7 cells of size 5"):
        model.get_video_features(video_features=torch.zeros(1, 2, 7, 5))


def test_caption_padding_changes_nothing(model):
    longer = torch.cat([LABELS, torch.full((2, 3), -100)], dim=1)
    short, padded = model(**clips(), labels=LABELS), model(**clips(), labels=longer)
    torch.testing.assert_close(padded.loss, short.loss)
    torch.testing.assert_close(padded.contrastive_loss, short.contrastive_loss)
    ids = LABELS.masked_fill(LABELS == -100, 0)
    padded_ids = torch.nn.functional.pad(ids, (0, 4))
    torch.testing.assert_close(model.get_text_features(ids), model.get_text_features(padded_ids))


def test_summary_token_reads_the_whole_caption(model):
    changed = LABELS.clone()
    changed[:, 0] = 10
    for other in (changed, LABELS.flip(1)):
        kept, moved = (model.get_text_features(each.clamp(min=0)) for each in (LABELS, other))
        assert not torch.allclose(kept, moved, atol=1e-4)


def test_captions_end_because_eos_is_a_label():
    config = tiny_config()
    assert shift_right(LABELS, config).tolist() == [[1, 5, 6, 7, 8], [1, 9, 4, 2, 0]]
    logits = torch.zeros(2, 5, config.vocab_size)
    at_eos = logits.clone()
    at_eos[0, 4, 2] = at_eos[1, 2, 2] = 9.0
    assert caption_loss(at_eos, LABELS) < caption_loss(logits, LABELS) - 0.3
    at_padding = logits.clone()
    at_padding[1, 3:, 0] = 9.0
    assert torch.equal(caption_loss(at_padding, LABELS), caption_loss(logits, LABELS))


def test_word_dropout_keeps_start_and_padding_and_stops_at_inference():
    config = tiny_config()
    torch.manual_seed(0)
    ids = torch.tensor([[1] + [7] * 200 + [0] * 20])
    dropped = drop_words(ids, config, rate=0.5)[0]
    assert dropped[0] == 1 and (dropped[201:] == 0).all()
    assert 60 < (dropped == config.unk_token_id).sum() < 140
    model = tiny_model(word_dropout=0.5)
    first, second = (model(**clips(), labels=LABELS).loss for _ in range(2))
    assert torch.equal(first, second)


def test_contrastive_loss_follows_its_formula():
    torch.manual_seed(0)
    video, text, scale = torch.randn(3, 4), torch.randn(3, 4), torch.tensor(1.3)
    ids = torch.tensor([[4, 2], [5, 2], [4, 2]])  # the first and the last caption are the same text
    similarity = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            similarity[i, j] = torch.cosine_similarity(video[i], text[j], dim=0) * scale.exp()
    expected = 0.0
    for logits in (similarity, similarity.T):
        log_probability = logits.log_softmax(dim=1)
        expected -= (log_probability[0, [0, 2]].mean() + log_probability[1, 1] + log_probability[2, [0, 2]].mean()) / 6
    torch.testing.assert_close(contrastive_loss(video, text, scale, ids), expected)
    torch.testing.assert_close(contrastive_loss(5 * video, text, scale, ids), expected)
    scale = torch.tensor(50.0, requires_grad=True)
    bounded = contrastive_loss(video, text, scale, ids)
    torch.testing.assert_close(bounded, contrastive_loss(video, text, torch.tensor(100.0).log(), ids))
    bounded.backward()
    assert scale.grad.abs() > 0.01, "it cannot find back"


def test_sigmoid_loss_follows_its_formula():
    torch.manual_seed(0)
    video, text, scale, bias = torch.randn(3, 4), torch.randn(3, 4), torch.tensor(1.3), torch.tensor(-2.0)
    ids = torch.tensor([[4, 2], [5, 2], [4, 2]])
    expected = 0.0
    for i in range(3):
        for j in range(3):
            logit = torch.cosine_similarity(video[i], text[j], dim=0) * scale.exp() + bias
            sign = 1 if ids[i, 0] == ids[j, 0] else -1
            expected += torch.log1p((-sign * logit).exp()) / 3
    torch.testing.assert_close(contrastive_loss(video, text, scale, ids, logit_bias=bias), expected)
    model = tiny_model(contrastive_type="sigmoid", contrastive_weight=1.0).train()
    model(**clips(), labels=LABELS).loss.backward()
    assert model.logit_bias.grad != 0


def test_a_window_hides_what_is_farther_away():
    model = tiny_model(encoder_window=1, motion=False)
    inputs = clips(batch=1)
    pixels = inputs["pixel_values_videos"].requires_grad_()
    model.get_encoder()(**inputs).last_hidden_state[0, 1].square().sum().backward()
    seen = pixels.grad.abs().sum(dim=(0, 2, 3, 4)) > 0  # (T,)
    assert seen.tolist() == [True, True, True, False, False]


def test_caption_queries_sum_the_clip_up():
    model = tiny_model(caption_queries=3)
    inputs = clips()
    encoded = model.get_encoder()(**inputs)
    assert encoded.last_hidden_state.shape == (2, 3, 32) and encoded.attention_mask.shape == (2, 3)
    pixels = inputs["pixel_values_videos"].requires_grad_()
    model.get_encoder()(**inputs).last_hidden_state[:, 0].square().sum().backward()
    assert (pixels.grad.abs().sum(dim=(2, 3, 4)) > 0).all(), "each query looks at every frame"


def test_frame_dropout_hides_frames_in_training_alone():
    torch.manual_seed(0)
    kept = drop_frames(torch.ones(500, 8, dtype=torch.long), 0.25)
    assert kept[:, 0].all() and kept[:, 1:].float().mean().item() == pytest.approx(0.75, abs=0.03)
    masked = torch.tensor([[1, 1, 0, 0]])
    assert not drop_frames(masked, 0.5)[0, 2:].any(), "what was masked stays masked"
    model, inputs = tiny_model(frame_dropout=0.5, dropout=0.0), clips()
    assert torch.equal(model.get_video_features(**inputs), model.get_video_features(**inputs))
    model.train()
    assert not torch.equal(model.get_video_features(**inputs), model.get_video_features(**inputs))


def test_stochastic_depth_skips_blocks_in_training_alone():
    assert stochastic_depth_rates(0.3, 3) == pytest.approx([0, 0.15, 0.3]) and stochastic_depth_rates(0.3, 1) == [0]
    model = tiny_model(stochastic_depth=0.9, encoder_layers=2, dropout=0.0, word_dropout=0.0)
    inputs = clips()
    first, second = (model(**inputs, labels=LABELS).loss for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    assert len({model(**inputs, labels=LABELS).loss.item() for _ in range(5)}) > 1


def test_novelty_tells_strange_clips_from_usual_ones(tmp_path):
    model = tiny_model()
    assert model.get_novelty(**clips()) is None
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(16, generator=generator) + 0.1

    def usual(count):
        return 3 + spread * torch.randn(count, 16, generator=generator)

    model.novelty.fit([usual(200), usual(100)], [usual(200)])
    assert 0.97 < (model.novelty(usual(400)) <= 1).float().mean() <= 1
    assert (model.novelty(usual(50) + 20 * spread) > 1).all()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.novelty(usual(3) * 0 + 1), model.novelty(usual(3) * 0 + 1))
    # The mean over real frames: what fills up a short clip does not count.
    features = torch.randn(1, 4, 2, 16)
    mask = torch.tensor([[1, 1, 0, 0]])
    torch.testing.assert_close(model.novelty.summarise(features, mask), features[:, :2].mean(dim=(1, 2)))
    with pytest.raises(ValueError, match="got 1 and 2"):
        model.novelty.fit([usual(1)], [usual(2)])


def test_frozen_backbone_takes_no_gradient_and_stays_in_evaluation():
    model = tiny_model(freeze_backbone=True).train()
    model(**clips(), labels=LABELS).loss.backward()
    backbone = model.backbone
    assert not any(module.training for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_eager_and_sdpa_attention_agree(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    eager = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    torch.testing.assert_close(
        eager(**clips(), labels=LABELS).logits, model(**clips(), labels=LABELS).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "`hidden_size` 30"),
        ({"hidden_size": 0}, "`hidden_size` must be at least 1, got 0"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be at least 1"),
        ({"intermediate_size": 0}, "`intermediate_size` must be at least 1"),
        ({"vocab_size": -1}, "`vocab_size` must be at least 1, got -1"),
        ({"word_dropout": 1.0}, "`word_dropout`"),
        ({"pad_token_id": 2}, "eos_token_id"),
        ({"feature_size": 7}, "`feature_size`.*got 7"),
        ({"min_time_period": 9.0, "max_time_period": 1.0}, "min_time_period"),
        ({"multimodal_layers": 0}, "multimodal_layers"),
        ({"encoder_window": 0}, "`encoder_window`.*got 0"),
        ({"caption_queries": -1}, "`caption_queries`.*got -1"),
        ({"frame_dropout": 1.0}, "`frame_dropout`.*got 1.0"),
        ({"contrastive_type": "hinge"}, "contrastive_type"),
    ],
)
def test_configs_that_cannot_work_are_refused(options, message):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        tiny_config(**options)
