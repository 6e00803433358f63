"""Guidance, banned and demanded words, several captions, and probabilities: each against the same thing by hand."""

import copy
import itertools
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, pipeline

from modeling_vidcap.generation_vidcap import VideoGuidance
from tests.media import texture, write_video
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.inference.captioning import ModelCaptioner, ScoredCaption, token_forms
from vidcap.inference.phrases import generate_including
from vidcap.inference.subtitles import FORMATS, CaptionedClip

SPECIAL = [0, 1, 3]  # padding, start and unknown: words that a caption never has
WORDS = {"max_new_tokens": 7, "suppress_tokens": SPECIAL}


@pytest.fixture(scope="module")
def model():
    """Its captions of the three clips end after three words, after four and not at all."""
    model = tiny_model(seed=4, initializer_range=0.2)
    model.config.video_dropout = 0.1
    return model


@pytest.fixture(scope="module")
def inputs():
    """Three clips, of which one has fewer frames than the batch."""
    return dict(tiny_processor()(videos=[tiny_clip(0), tiny_clip(1, frames=2), tiny_clip(2)], return_tensors="pt"))


@torch.no_grad()
def next_words(model, inputs, clip, words, *, scale=1.0):
    """log p of the next word `(V,)` behind `words` for one clip, guided, by plain forward passes."""

    def log_probabilities(zeroed):
        encoded = model.get_encoder()(**{name: value[clip : clip + 1] for name, value in inputs.items()})
        if zeroed:
            encoded.last_hidden_state = torch.zeros_like(encoded.last_hidden_state)
        logits = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[1, *words]]), use_cache=False).logits
        return logits[0, -1].log_softmax(dim=0)

    prior = log_probabilities(zeroed=True)
    return prior + scale * (log_probabilities(zeroed=False) - prior)


def greedily(model, inputs, clip, words=(), *, scale=1.0):
    """The caption that goes on from `words`, EOS included."""
    words = list(words)
    while len(words) < WORDS["max_new_tokens"] and words[-1:] != [2]:
        scores = next_words(model, inputs, clip, words, scale=scale)
        scores[SPECIAL] = -torch.inf
        words.append(scores.argmax().item())
    return words


def log_probabilities(model, inputs, clip, words, *, scale=1.0):
    """Of each word of a caption, `(L,)`."""
    each = [next_words(model, inputs, clip, words[:i], scale=scale)[word] for i, word in enumerate(words)]
    return torch.stack(each)


def captions(sequences):
    """Tokens up to EOS; `generate` fills up with padding or, from beams, with more EOS."""
    rows = [row[1:].tolist() for row in sequences]
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


# ---- guidance ---------------------------------------------------------------


def test_one_step_of_guidance_is_the_formula(model, inputs):
    options = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True}
    scores = model.generate(**inputs, **options, guidance_scale=3.0).scores[0]
    for clip in range(3):
        expected = next_words(model, inputs, clip, [], scale=3.0)
        torch.testing.assert_close(scores[clip], expected.log_softmax(dim=0), rtol=1e-4, atol=1e-4)
        assert (expected.softmax(dim=0) - next_words(model, inputs, clip, []).exp()).abs().max() > 0.05


def test_guided_captions_are_those_written_by_hand(model, inputs):
    plain = captions(model.generate(**inputs, **WORDS))
    assert plain == [greedily(model, inputs, clip) for clip in range(3)]
    guided = captions(model.generate(**inputs, **WORDS, guidance_scale=3.0))
    assert guided == [greedily(model, inputs, clip, scale=3.0) for clip in range(3)] != plain
    assert captions(model.generate(**inputs, **WORDS, guidance_scale=1)) == plain
    assert captions(model.generate(**inputs, **WORDS, guidance_scale=3.0, use_cache=False)) == guided
    # Drawn from the likeliest word alone, each of a clip's captions is the greedy one.
    drawn = model.generate(**inputs, **WORDS, guidance_scale=3.0, do_sample=True, top_k=1, num_return_sequences=2)
    assert captions(drawn)[::2] == captions(drawn)[1::2] == guided


def test_beams_search_the_guided_probability(model, inputs):
    vocabulary = model.config.vocab_size
    options = {"min_new_tokens": 2, "max_new_tokens": 2}
    found = model.generate(**inputs, **options, num_beams=vocabulary, guidance_scale=2.0)  # as good as exhaustive
    greedy = model.generate(**inputs, **options, guidance_scale=2.0)
    for clip in range(3):
        first = next_words(model, inputs, clip, [], scale=2.0).log_softmax(dim=0)
        second = [next_words(model, inputs, clip, [w], scale=2.0).log_softmax(dim=0) for w in range(vocabulary)]
        total = first[:, None] + torch.stack(second)
        total[2] = total[:, 2] = -torch.inf  # EOS, for there are to be two words
        best = total.argmax().item()
        assert found[clip, 1:].tolist() == [best // vocabulary, best % vocabulary]
    assert not torch.equal(found, greedy), "a search that greed equals would prove nothing"


def test_guidance_that_cannot_work_is_refused(model, inputs, monkeypatch):
    with pytest.raises(ValueError, match="guidance_scale.*0.5"):
        model.generate(**inputs, **WORDS, guidance_scale=0.5)
    monkeypatch.setattr(model.config, "video_dropout", 0.0)
    with pytest.raises(ValueError, match=r"guidance_scale` 2.0 .*video_dropout"):
        model.generate(**inputs, **WORDS, guidance_scale=2.0)
    assert model.generate(**inputs, **WORDS, guidance_scale=1.0).shape[0] == 3
    captioner = pipeline("video-captioning", model=model, processor=tiny_processor(), device="cpu")
    with pytest.raises(ValueError, match="video_dropout"):
        captioner("missing.mp4", guidance_scale=2.0)


def test_the_pass_without_video_has_the_clips_mask_and_times(model, inputs):
    encoded = model.get_encoder()(**inputs)
    no_video = VideoGuidance(model, encoded, 2.0).no_video
    assert not no_video.last_hidden_state.any() and encoded.last_hidden_state.any()
    assert torch.equal(no_video.attention_mask, encoded.attention_mask)
    assert torch.equal(no_video.token_times, encoded.token_times)


# ---- probabilities ----------------------------------------------------------


def test_probabilities_are_the_models_own_whatever_the_search(model, inputs):
    encoded = model.get_encoder()(**inputs)
    searches = {
        "greedy": {},
        "beams": {"num_beams": 3, "num_return_sequences": 3},
        "guided, without a word": {"num_beams": 2, "guidance_scale": 3.0, "bad_words_ids": [[21]]},
        "samples": {"do_sample": True, "temperature": 0.5, "num_return_sequences": 2},
    }
    for name, options in searches.items():
        torch.manual_seed(0)
        sequences = model.generate(**inputs, **WORDS, **options)
        each = options.get("num_return_sequences", 1)
        with torch.no_grad():
            found, mask = model.get_token_log_probabilities(sequences, encoded)
        for row, words in enumerate(captions(sequences)):
            expected = log_probabilities(model, inputs, row // each, words)
            torch.testing.assert_close(found[row, : len(words)], expected, rtol=1e-4, atol=1e-4, msg=name)
            assert mask[row].sum() == len(words) and not found[row, len(words) :].any()


def test_several_captions_of_a_clip_come_best_first_with_its_novelty(model, inputs):
    processor, model = tiny_processor(), copy.deepcopy(model)
    clips = [{name: value[i] for name, value in inputs.items()} for i in range(3)]
    options = {**WORDS, "num_beams": 4, "num_return_sequences": 3}
    expected = processor.post_process_generation(model.generate(**inputs, **options))
    features = model.backbone(inputs["pixel_values_videos"])
    summaries = model.novelty.summarise(features, inputs["video_mask"])
    model.novelty.fit([summaries + 0.01 * i for i in range(20)], [summaries])
    for batch_size in (2, 16):
        found = ModelCaptioner(model, processor).caption_with_scores(clips, batch_size=batch_size, **options)
        assert [one.text for group in found for one in group] == expected and len(found) == 3
        novelty = model.get_novelty(inputs["pixel_values_videos"], inputs["video_mask"])
        for group, usual in zip(found, novelty.tolist(), strict=True):
            assert [one.novelty for one in group] == pytest.approx([usual] * 3, rel=1e-3)
            means = [one.mean_log_probability for one in group]
            assert means == sorted(means, reverse=True) and len({one.text for one in group}) == 3
    torch.manual_seed(0)
    options = {**WORDS, "do_sample": True, "top_k": 0, "num_return_sequences": 5}
    for group in ModelCaptioner(model, processor).caption_with_scores(clips, **options):
        means = [one.mean_log_probability for one in group]
        assert means == sorted(means, reverse=True) and len(set(means)) > 1
        assert all(max(one.probabilities) <= 1 and one.tokens[-1:] != ["<pad>"] for one in group)


# ---- words that must be, words that must not --------------------------------


@pytest.mark.parametrize("video_dropout", [0.0, 0.1])
def test_a_phrase_is_put_where_the_caption_becomes_likeliest(model, inputs, monkeypatch, video_dropout):
    monkeypatch.setattr(model.config, "video_dropout", video_dropout)
    phrase = [8, 12]
    found = captions(generate_including(model, inputs, [[phrase]], **WORDS))
    plain = captions(model.generate(**inputs, **WORDS))
    places = []
    for clip, words in enumerate(plain):
        words = words[:-1] if words[-1] == 2 else words
        candidates = []
        for t in range(min(len(words), 5) + 1):  # seven words have room for the phrase at six places
            candidate = greedily(model, inputs, clip, [*words[:t], *phrase])
            logs = log_probabilities(model, inputs, clip, candidate)
            if video_dropout:  # the mean of the probabilities with and without video
                prior = log_probabilities(model, inputs, clip, candidate, scale=0.0)
                logs[t : t + 2] = ((logs.exp() + prior.exp()) / 2)[t : t + 2].log()
            candidates.append((candidate[-1] == 2, logs.mean().item(), candidate))
        assert found[clip] == max(candidates)[2]
        places.append(found[clip].index(8))
    assert len(set(places)) > 1, "one place for all would prove little"
    # A phrase that is there changes nothing, and clips do not depend on each other.
    there = generate_including(model, inputs, [[plain[1][1:3]]], **WORDS)
    assert captions(there)[1] == plain[1]
    alone = {name: value[1:2] for name, value in inputs.items()}
    assert captions(generate_including(model, alone, [[phrase]], **WORDS)) == found[1:2]


def test_several_phrases_all_stay(model, inputs):
    phrases = [[[8, 12]], [[9]], [[24, 11]]]
    options = {**WORDS, "max_new_tokens": 12, "num_beams": 3, "guidance_scale": 1.5, "length_penalty": 2.0}
    for order in (phrases, phrases[::-1]):
        for words in captions(generate_including(model, inputs, order, **options)):
            pairs = list(itertools.pairwise(words))
            assert (8, 12) in pairs and (24, 11) in pairs and 9 in words
    # A word behind which nothing may follow: the ban holds across the seams too.
    banned = [[word, 9] for word in range(model.config.vocab_size)]
    for words in captions(generate_including(model, inputs, [[[9]]], **WORDS, bad_words_ids=banned)):
        assert words[0] == 9 and 9 not in words[1:]


def test_phrases_that_cannot_be_had_are_refused(model, inputs):
    with pytest.raises(ValueError, match="do_sample"):
        generate_including(model, inputs, [[[8]]], do_sample=True)
    with pytest.raises(ValueError, match="banned"):
        generate_including(model, inputs, [[[8, 12]]], bad_words_ids=[[12]])
    with pytest.raises(ValueError, match="max_new_tokens. is 3"):
        generate_including(model, inputs, [[[8, 12]], [[9]]], max_new_tokens=3)


def test_a_word_has_two_forms_where_the_space_counts():
    tokenizer = tiny_processor().tokenizer
    assert token_forms(tokenizer, " red  circle ") == [tokenizer.convert_tokens_to_ids(["red", "circle"])]
    with pytest.raises(ValueError, match="'zebra'"):
        token_forms(tokenizer, "a red zebra")
    with pytest.raises(ValueError, match="no word"):
        token_forms(tokenizer, "  ")

    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    pairs.train_from_iterator(["a red dog", "red dogs run"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs, bos_token="<s>", eos_token="</s>")
    start, within = token_forms(tokenizer, "red")
    assert (tokenizer.decode(start), tokenizer.decode(within)) == ("red", " red")


# ---- the command line -------------------------------------------------------


@pytest.fixture(scope="module")
def captioner(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("captioner")
    model.generation_config.max_new_tokens = 7
    model.generation_config.suppress_tokens = SPECIAL
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", texture(40, 48, 64), rate=20))


def test_captions_in_every_format(captioner, clip, capsys):
    argv = ["caption", clip, "--model", captioner, "--captions", "3"]

    def run(*options):
        assert main([*argv, *options]) == 0
        return capsys.readouterr().out

    row = json.loads(run("--format", "json", "--length_penalty", "1"))[0]
    texts = [each["text"] for each in row["captions"]]
    means = [each["mean_log_probability"] for each in row["captions"]]
    assert len(set(texts)) == 3 and means == sorted(means, reverse=True)
    assert (row["caption"], row["mean_log_probability"]) == (texts[0], means[0])
    assert run() == "".join(f"{clip}: {text}\n" for text in texts)
    assert run("--format", "srt").splitlines()[2:] == texts
    torch.manual_seed(0)
    drawn = json.loads(run("--format", "json", "--sample", "--temperature", "2", "--top_p", "0.9"))[0]["captions"]
    assert len(drawn) == 3 and [each["text"] for each in drawn] != texts
    scored = [ScoredCaption(text, [], [], None) for text in ("a <b>\n\nc", "", "d")]
    assert FORMATS["vtt"]([CaptionedClip(clip, scored, 1.0)]).endswith(".000\na &lt;b&gt; c\nd\n")


def test_banned_and_demanded_words(captioner, clip, capsys):
    argv = ["caption", clip, "--model", captioner]

    def run(*options):
        assert main([*argv, *options]) == 0
        output = capsys.readouterr()
        return output.out.split(": ")[1].split(), output.err

    plain, _ = run()
    without, errors = run("--ban", *plain[:1], "zebra")
    assert without != plain and plain[0] not in without
    assert "--ban 'zebra'" in errors and errors.count("\n") == 1
    pair, _ = run("--ban", " ".join(plain[:2]))
    assert pair[0] == plain[0] and plain[1] != pair[1]
    words, _ = run("--include", "small dog", "--include", "cat")
    assert "small dog" in " ".join(words) and "cat" in words
    assert run("--include", " ".join(plain[1:3]))[0] == plain
    assert run("--guidance_scale", "4")[0] != plain == run("--guidance_scale", "1")[0]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ("--captions 3 --num_beams 2", 2, "--captions 3 needs at least as many --num_beams, got 2"),
        ("--guidance_scale 0.5", 2, "'0.5' is not a number of at least 1"),
        ("--temperature 0.7", 2, "--temperature 0.7 needs drawn captions; add --sample"),
        ("--top_p 0.9", 2, "--top_p 0.9 needs drawn captions"),
        ("--sample --temperature 0", 2, "'0' is not a number above 0"),
        ("--sample --top_p 1.5", 2, "'1.5' is not a number above 0, up to 1"),
        ("--sample --num_beams 4", 2, "--num_beams 4 searches, but --sample draws"),
        ("--sample --length_penalty 2", 2, "--length_penalty 2.0 ranks beams"),
        ("--length_penalty nan", 2, "'nan' is not a number"),
        ("--length_penalty 2", 1, "--length_penalty 2.0 ranks beams, and this model"),
        ("--include cat --sample", 2, "but --sample draws"),
        ("--include cat --captions 2", 2, "--captions is 2"),
        ("--include zebra", 1, "--include 'zebra': this model does not know the word 'zebra'"),
        ("--include cat --ban cat", 1, "--include 'cat'"),
        ("--include cat --include dog --max_new_tokens 2", 1, "--include 'dog'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_clip_is_read(captioner, capsys, options, status, words):
    try:
        found = main(["caption", "missing.mp4", "--model", captioner, *options.split()])
    except SystemExit as stop:
        found = stop.code
    error = capsys.readouterr().err
    assert found == status and words in error and error.count("\n") == 1 and "missing.mp4" not in error


def test_a_model_that_needs_its_video_cannot_be_guided(clip, tmp_path, capsys):
    model = tiny_model()
    model.config.video_dropout = 0.0
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert main(["caption", "missing.mp4", "--model", str(tmp_path), "--guidance_scale", "2"]) == 1
    error = capsys.readouterr().err
    assert "video_dropout" in error and "missing.mp4" not in error
