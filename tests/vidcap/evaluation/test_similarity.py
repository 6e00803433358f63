"""Beams ranked by their likeness to the clip: against the formula by hand, and where it cannot work."""

import pytest
import torch
from transformers import AutoModel, GenerationConfig, pipeline

from modeling_vidcap.generation_vidcap import repeat_clips
from tests.media import texture, write_video
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.inference.captioning import ModelCaptioner

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SEARCH = {"num_beams": 4, "max_new_tokens": 7, "suppress_tokens": [0, 1, 3]}


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=4, initializer_range=0.2)


@pytest.fixture(scope="module")
def inputs():
    return dict(tiny_processor()(videos=[tiny_clip(seed) for seed in range(5)], return_tensors="pt"))


def words(sequence: torch.Tensor) -> list[int]:
    row = sequence[1:].tolist()
    return row[: row.index(2) + 1] if 2 in row else row


@torch.no_grad()
def by_hand(model, inputs, weight: float, length_penalty: float = 1.0) -> list[list[list[int]]]:
    """The four beams of each clip, best first by the formula, one caption at a time."""
    found = model.generate(**inputs, **SEARCH, num_return_sequences=4, length_penalty=length_penalty)
    clips = model.get_video_features(**inputs)
    encoded = model.get_encoder()(**inputs)
    ranked = []
    for clip, beams in enumerate(found.unflatten(0, (-1, 4))):
        scores = {}
        for caption in map(words, beams):
            one = type(encoded)(**{name: value[clip : clip + 1] for name, value in encoded.items()})
            logits = model(encoder_outputs=one, decoder_input_ids=torch.tensor([[1, *caption[:-1]]]), use_cache=False)
            each = logits.logits[0].log_softmax(dim=-1)[range(len(caption)), caption]
            similar = clips[clip] @ model.get_text_features(torch.tensor([caption]))[0]
            score = each.sum() / len(caption) ** length_penalty + weight * model.logit_scale.exp() * similar
            scores[tuple(caption)] = score.item()
        ranked.append([list(caption) for caption in sorted(scores, key=scores.__getitem__, reverse=True)])
    return ranked


@pytest.mark.parametrize(("weight", "length_penalty"), [(0.1, 1.0), (1.0, 1.0), (0.3, 0.5)])
def test_beams_are_ranked_by_the_formula(model, inputs, weight, length_penalty):
    expected = by_hand(model, inputs, weight, length_penalty)
    options = {**SEARCH, "length_penalty": length_penalty, "similarity_weight": weight}
    best = [words(each) for each in model.generate(**inputs, **options)]
    assert best == [ranked[0] for ranked in expected]
    for clip, caption in enumerate(best):
        alone = model.generate(**{name: value[clip : clip + 1] for name, value in inputs.items()}, **options)
        assert alone[0, 1:].tolist() == caption  # as long as what is kept, not as the longest beam
    two = model.generate(**inputs, **options, num_return_sequences=2).unflatten(0, (-1, 2))
    assert [[words(each) for each in pair] for pair in two] == [ranked[:2] for ranked in expected]
    plain = [words(each) for each in model.generate(**inputs, **SEARCH, length_penalty=length_penalty)]
    assert weight < 0.3 or best != plain  # it does change something
    unweighted = model.generate(**inputs, **SEARCH, length_penalty=length_penalty, similarity_weight=0.0)
    assert [words(each) for each in unweighted] == plain


def test_the_dictionary_of_generate_holds_the_same(model, inputs):
    options = {**SEARCH, "similarity_weight": 1.0}
    found = model.generate(**inputs, **options, return_dict_in_generate=True, output_scores=True)
    plain = model.generate(**inputs, **options)
    assert torch.equal(found.sequences, plain)
    assert found.beam_indices.shape == (5, plain.shape[1] - 1) and found.sequences_scores.shape == (5,)
    logits, mask = model.get_token_log_probabilities(plain, model.get_encoder()(**inputs))
    assert mask.any(dim=0).all()  # cropped to the longest of the chosen
    texts = model.get_text_features(plain[:, 1:].masked_fill(~mask, 0))
    similar = (texts * model.get_video_features(**inputs)).sum(dim=1)
    expected = logits.sum(dim=1) / mask.sum(dim=1) + model.logit_scale.exp() * similar
    torch.testing.assert_close(found.sequences_scores, expected.detach())


def test_it_is_saved_with_the_model_and_each_call_can_overrule_it(model, inputs, tmp_path):
    weighted = tiny_model(seed=4, initializer_range=0.2)
    weighted.generation_config = GenerationConfig(similarity_weight=1.0, **SPECIAL)
    weighted.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(**inputs, **SEARCH), model.generate(**inputs, **SEARCH, similarity_weight=1.0))
    assert torch.equal(loaded.generate(**inputs, **SEARCH, similarity_weight=0.0), model.generate(**inputs, **SEARCH))
    greedy = {**SEARCH, "num_beams": 1}
    assert torch.equal(loaded.generate(**inputs, **greedy), model.generate(**inputs, **greedy))


def test_all_ways_to_a_caption_take_it(model, inputs, tmp_path, capsys):
    processor = tiny_processor()
    clips = [{name: value[clip] for name, value in inputs.items()} for clip in range(5)]
    expected = processor.batch_decode(model.generate(**inputs, **SEARCH, similarity_weight=1.0), True)
    captioner = pipeline("video-captioning", model=model, processor=processor)
    options = {**SEARCH, "similarity_weight": 1.0}
    by_pipeline = captioner([tiny_clip(seed) for seed in range(5)], **options)
    assert [each[0]["generated_text"] for each in by_pipeline] == expected
    scored = ModelCaptioner(model, processor).caption_with_scores(clips, **options)
    assert [each[0].text for each in scored] == expected
    repeated = model.generate(encoder_outputs=repeat_clips(model.get_encoder()(**inputs), 1), **options)
    assert processor.batch_decode(repeated, True) == expected

    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    clip = str(write_video(tmp_path / "clip.mp4", texture(8)))
    command = ["caption", clip, "--model", str(tmp_path / "model"), "--max_new_tokens", "7"]
    assert main([*command, "--num_beams", "4", "--similarity_weight", "1"]) == 0
    assert main([*command, "--similarity_weight", "1"]) == 1
    assert "--similarity_weight 1.0 ranks beams, and this model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--sample", "--similarity_weight", "1"])
    assert "--similarity_weight 1.0 ranks beams, but --sample" in capsys.readouterr().err


def test_embeddings_that_were_never_trained_are_refused(inputs):
    untrained = tiny_model(contrastive_weight=0.0)
    with pytest.raises(ValueError, match="`similarity_weight` 0.5.*contrastive_weight"):
        untrained.generate(**inputs, **SEARCH, similarity_weight=0.5)
    with pytest.raises(ValueError, match="`similarity_weight`.*got -1"):
        tiny_model().generate(**inputs, **SEARCH, similarity_weight=-1)
