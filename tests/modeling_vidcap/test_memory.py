"""The caption memory: its vectors against CIDEr-D, what it recalls, and how it takes part in captioning."""

import itertools

import numpy as np
import pytest
import torch

from modeling_vidcap import VideoCaptionForConditionalGeneration
from modeling_vidcap.memory_vidcap import RECALLED, summarise_clip, words_of
from modeling_vidcap.scoring_vidcap import Ranking, rank_captions
from processing.clips.collator import VideoCaptionCollator
from tests.media import texture, write_video
from tests.tiny import tiny_config, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.commands import captioner_options
from vidcap.evaluation.scores.metrics import cider_d, count_document_frequencies
from vidcap.inference.captioning import ModelCaptioner
from vidcap.light.loading import open_light
from vidcap.training.objectives import memory_choice
from vidcap.training.objectives.memory_choice import USUAL_WEIGHT
from vidcap.training.objectives.memory_fitting import fit_memory

THINGS = [
    f"{color} {shape}" for color, shape in itertools.product(("red", "green", "blue"), ("circle", "square", "star"))
]
ACTIONS = ("grows", "shrinks", "spins", "blinks")
SENTENCES = [f"a {thing} {action}" for thing in THINGS for action in ACTIONS]
GREEDY = {"max_new_tokens": 8, "suppress_tokens": [0, 1, 3]}


class Clips:
    """36 clips whose features show what their sentence says, with a little noise."""

    augmentation = None

    def __init__(self, sentences=SENTENCES, *, shuffled=False, seed=0):
        generator = torch.Generator().manual_seed(seed)
        code = torch.randn(30, 16, generator=torch.Generator().manual_seed(7))
        words = sorted({word for sentence in SENTENCES for word in sentence.split()})
        shown = [sum(code[words.index(word)] for word in sentence.split()) for sentence in sentences]
        self.features = [each + 0.1 * torch.randn(4, 4, 16, generator=generator) for each in shown]
        if shuffled:
            order = torch.randperm(len(sentences), generator=generator).tolist()
            self.features = [self.features[index] for index in order]
        self.rows = {"captions": [[sentence] for sentence in sentences]}

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return {
            "video_features": self.features[index],
            "video_mask": torch.ones(4, dtype=torch.long),
            "video_times": torch.arange(4.0),
            "captions": self.rows["captions"][index],
        }


def remembering(clips, **changes):
    """A tiny model with a memory of clips, and the facts of its fitting."""
    model = tiny_model(seed=4, initializer_range=0.2, freeze_backbone=True, **changes)
    collator = VideoCaptionCollator(tiny_processor(), max_length=8)
    return model, collator, fit_memory(model, collator, clips, seed=0)


@pytest.fixture(scope="module")
def known():
    return remembering(Clips())


@pytest.fixture(scope="module")
def inputs(known):
    _, collator, _ = known
    unseen = Clips(seed=1)
    return collator.videos([unseen[index] for index in (0, 13, 35)])


def texts(model, sequences):
    return [text.strip() for text in tiny_processor().batch_decode(sequences, skip_special_tokens=True)]


def test_products_of_vectors_are_cider_without_its_penalty_of_lengths(known):
    model, _, _ = known
    memory = model.model.encoder.memory
    captions = [words_of(row, [2], 0) for row in memory.captions.tolist()]
    references = [[tuple(map(str, caption))] for caption in captions]
    frequencies = count_document_frequencies(references)
    others = [tuple(map(str, captions[-1]))] * len(captions)  # all are of one length
    expected = torch.tensor(cider_d(others, references, document_frequencies=frequencies)[1])
    products = memory.keys.double() @ memory.keys[-1].double()
    # Vectors leave out n-grams of one clip alone, by which a caption is like itself only.
    torch.testing.assert_close(products[:-1], expected[:-1] / 10, rtol=1e-4, atol=1e-5)
    assert (expected[:-1] > 0).any()
    embedded = memory.embed(memory.captions, [2])
    torch.testing.assert_close(embedded, memory.keys)


def test_unseen_clips_recall_their_captions(known, inputs):
    model, _, fitted = known
    memory = model.model.encoder.memory
    assert fitted.z_score > 5 and fitted.video_words.shape == (36, memory.keys.shape[1])
    predicted = memory.predict(inputs["video_features"], inputs["video_mask"])
    recalled = memory.recall(predicted, max_length=8)
    assert recalled.shape[:2] == (3, RECALLED)
    assert texts(model, recalled[:, 0]) == [SENTENCES[0], SENTENCES[13], SENTENCES[35]]
    banned = recalled[0, 0, :-1].tolist()
    assert texts(model, memory.recall(predicted, max_length=8, banned=[banned])[:, 0])[0] != SENTENCES[0]
    assert memory.recall(predicted, max_length=3).shape[1] == 0, "no remembered caption is that short"


def test_pairs_at_random_cannot_be_told_apart():
    scores = [remembering(Clips(shuffled=True, seed=seed))[2].z_score for seed in range(5)]
    assert max(scores) < 3


@pytest.mark.parametrize("beams", [1, 3])
def test_remembered_captions_win_by_their_weight(known, inputs, beams):
    model, _, _ = known
    options = {**GREEDY, "num_beams": beams}
    plain = model.generate(**inputs, **options)
    assert torch.equal(plain, model.generate(**inputs, **options, memory_weight=0.0))
    truths = [SENTENCES[0], SENTENCES[13], SENTENCES[35]]
    assert texts(model, plain) != truths
    assert texts(model, model.generate(**inputs, **options, memory_weight=1000.0)) == truths
    found = model.generate(
        **inputs, **options, memory_weight=1000.0, return_dict_in_generate=True, output_scores=beams > 1
    )
    assert texts(model, found.sequences) == truths
    if beams > 1:
        assert (found.beam_indices == -1).all() and found.sequences_scores.shape == (3,)


def test_several_captions_differ(known, inputs):
    model, _, _ = known
    sequences = model.generate(**inputs, **GREEDY, num_beams=4, num_return_sequences=4, memory_weight=30.0)
    for clip in range(3):
        assert len(set(texts(model, sequences[4 * clip : 4 * clip + 4]))) == 4


def test_a_caption_that_is_written_and_remembered_counts_once(known, inputs):
    model, _, _ = known
    clips = model.get_encoder()(**inputs)
    written = model.generate(encoder_outputs=clips, **GREEDY)
    twice = written.repeat_interleave(2, dim=0)
    scored = model.get_token_log_probabilities(twice, clips)
    scores = rank_captions(model, twice, *scored, clips, Ranking(memory_weight=30.0)).scores
    assert scores[:, 0].isfinite().all() and (scores[:, 1] == -torch.inf).all()


def test_a_memory_keeps_out_where_words_are_determined(known, inputs):
    model, _, _ = known
    only = {"prefix_allowed_tokens_fn": lambda row, ids: [2] if len(ids) > 2 else [9]}
    assert torch.equal(
        model.generate(**inputs, **GREEDY, **only, memory_weight=1000.0), model.generate(**inputs, **GREEDY, **only)
    )
    ids = tiny_processor().tokenizer(SENTENCES[0])["input_ids"][:-1]
    banned = model.generate(**inputs, **GREEDY, memory_weight=1000.0, bad_words_ids=[ids])
    assert texts(model, banned)[0] != SENTENCES[0] and texts(model, banned)[1] == SENTENCES[13]


def test_without_a_memory_its_weight_is_refused():
    with pytest.raises(ValueError, match="memory_weight"):
        tiny_model().generate(pixel_values_videos=torch.zeros(1, 4, 3, 32, 32), memory_weight=1.0)
    with pytest.raises(ValueError, match="memory_share"):
        tiny_config(memory_share=0.5)
    with pytest.raises(ValueError, match="memory_shape"):
        tiny_config(memory_shape=[3, 4])


def test_a_share_in_embeddings_is_a_mean_of_two_cosines(known, inputs):
    model, collator, _ = known
    ids = collator.labels(SENTENCES[:5]).clamp(min=0)
    cosines = {}
    try:
        for share in (0.0, 0.5, 1.0):
            model.config.memory_share = share
            clips, captions = model.get_video_features(**inputs), model.get_text_features(ids)
            torch.testing.assert_close(clips.norm(dim=1), torch.ones(3))
            cosines[share] = captions @ clips.T
    finally:
        model.config.memory_share = 0.0
    torch.testing.assert_close(cosines[0.5], (cosines[0.0] + cosines[1.0]) / 2, rtol=1e-4, atol=1e-5)
    assert cosines[1.0].argmax(dim=0)[0] == 0


def test_it_is_saved_and_loaded_with_transformers_and_without(known, inputs, tmp_path):
    model, _, _ = known
    expected = ModelCaptioner(model, tiny_processor()).caption(
        [Clips(seed=1)[index] for index in (0, 13, 35)], memory_weight=1000.0, **GREEDY
    )
    assert expected == [SENTENCES[0], SENTENCES[13], SENTENCES[35]]
    model.save_pretrained(tmp_path)
    loaded = VideoCaptionForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.model.encoder.memory.keys, model.model.encoder.memory.keys)
    assert torch.equal(
        loaded.generate(**inputs, **GREEDY, memory_weight=1000.0),
        model.generate(**inputs, **GREEDY, memory_weight=1000.0),
    )


@pytest.mark.parametrize("weight", ["0", "3", "1000"])
def test_captions_without_transformers_are_the_same(tmp_path, capsys, monkeypatch, weight):
    """`vidcap caption` with torch alone, and by transformers."""
    clip = write_video(tmp_path / "clip.mp4", texture(20, 32, 32))
    model, _, _ = remembering(Clips())
    model.generation_config.update(max_new_tokens=8, num_beams=3, suppress_tokens=[3, 1], memory_weight=5.0)
    model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    command = ["caption", str(clip), "--model", str(tmp_path / "model"), "--captions", "3", "--memory_weight", weight]
    written = []
    for open_model in (open_light, lambda arguments: None):
        monkeypatch.setattr(captioner_options, "open_light", open_model)
        assert main(command) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] and len(set(written[0].splitlines())) == 3
    if weight != "3":
        assert any(sentence in written[0] for sentence in SENTENCES) == (weight == "1000")


@pytest.mark.parametrize(("recalled", "expected"), [(0.0, 0.0), (2000.0, USUAL_WEIGHT)])
def test_the_decoder_alone_has_to_be_better_than_remembered_captions(monkeypatch, recalled, expected):
    """With captions of the decoder that are all true, and those with the memory all wrong."""
    model, collator, _ = remembering(Clips())
    truths = collator.labels(SENTENCES).clamp(min=0)
    start = torch.ones(len(truths), 1, dtype=torch.long)
    chosen = {0.0: torch.cat([start, truths], dim=1), USUAL_WEIGHT: torch.cat([start, truths.flip(0)], dim=1)}
    monkeypatch.setattr(memory_choice, "_captions", lambda model, inputs: chosen)
    weight = memory_choice.choose_memory_weight(model, collator, Clips(seed=1), np.full(36, recalled))
    assert weight == expected


def test_a_summary_ignores_masked_frames():
    features = torch.randn(2, 6, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    features[1, 4:] = features[1, 3]  # as the processor pads
    short = summarise_clip(features[1:, :4], mask[1:, :4], channels=5)
    torch.testing.assert_close(summarise_clip(features, mask, channels=5)[1:], short)
    still = features[:, :1].expand(-1, 6, -1, -1)
    parts = summarise_clip(still, None, channels=5).split(5, dim=1)
    torch.testing.assert_close(parts[0], parts[1])
    torch.testing.assert_close(parts[2], torch.zeros(2, 5))
    assert summarise_clip(features[:, :1], None, channels=3).isfinite().all()


@pytest.mark.parametrize("count", [3, 19])
def test_few_clips_make_no_memory(count):
    model, _, fitted = remembering(Clips(SENTENCES[:count]))
    assert fitted is None and model.model.encoder.memory is None and model.config.memory_shape is None
