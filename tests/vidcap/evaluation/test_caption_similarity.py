"""Scores in an encoder's space: the formulas on hand-made vectors, and tiny random encoders of transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from tests.tiny import tiny_clip, tiny_model, tiny_processor, tiny_tokenizer
from vidcap.evaluation.similarity import ClipEncoder, SentenceEncoder, clip_score, embedding_similarity, ref_clip_score
from vidcap.inference.captioning import embed_clips, embed_texts

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=40, **sizes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={"vocab_size": 40, "max_position_embeddings": 12, **special, **sizes},
        vision_config={"image_size": 32, "patch_size": 16, **sizes},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tiny_tokenizer()).save_pretrained(folder)
    return folder


def test_clip_scores_by_hand():
    video = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    text = torch.tensor([[3.0, 4.0], [0.0, -1.0], [1.0, 1.0]])
    mean, each = clip_score(video, text)
    assert each == pytest.approx([2.5 * 0.6, 0, 2.5 * 0.5**0.5], abs=1e-6) and mean == pytest.approx(each.mean())
    references = [torch.tensor([[0.0, 1.0], [-3.0, -4.0]]), torch.tensor([[0.0, -1.0]]), torch.tensor([[-1.0, -1.0]])]
    _, with_references = ref_clip_score(video, text, references)
    assert with_references == pytest.approx([2 * 1.5 * 0.8 / (1.5 + 0.8), 0, 0], abs=1e-6)
    with pytest.raises(ValueError, match="3 clips and 2 captions"):
        clip_score(video, text[:2])
    with pytest.raises(ValueError, match="Clip 1 has no reference"):
        ref_clip_score(video, text, [references[0], torch.zeros(0, 2), references[2]])


def test_embedding_similarity_takes_the_nearest_reference_of_any_encoder():
    space = {"a": [1.0, 0.0], "b": [0.0, 5.0], "c": [3.0, 4.0]}
    mean, each = embedding_similarity(["a", "b"], [["b", "c"], ["a"]], lambda texts: [space[text] for text in texts])
    assert each == pytest.approx([0.6, 0]) and mean == pytest.approx(0.3)


def test_sentence_encoder_pads_without_effect(sentence_model):
    texts = ["a red dog runs", "blue", "a cat sleeps slowly under the large square"]
    encode = SentenceEncoder(sentence_model)
    together = encode(texts)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))
    alone = torch.cat([SentenceEncoder(sentence_model, batch_size=1)([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="There is no folder './nowhere'"):
        SentenceEncoder("./nowhere")


def test_long_captions_are_cut_at_the_positions_of_the_model(sentence_model):
    encode = SentenceEncoder(sentence_model)
    assert (
        encode.tokenizer.model_max_length > 10**6 and encode.max_length == encode.model.config.max_position_embeddings
    )
    long = encode(["a dog " * 400])
    assert torch.equal(long, encode(["a dog " * 300]))


def test_clip_encoder_is_the_model_with_frames_averaged(clip_model):
    encoder = ClipEncoder.from_pretrained(clip_model, batch_size=3)
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(256, (frames, 3, 40, 32), dtype=torch.uint8, generator=generator) for frames in (4, 1)]
    embeds = encoder.embed_clips(clips)
    processor, model = encoder.processor, encoder.model
    with torch.no_grad():
        pixels = processor.image_processor(list(clips[0]), return_tensors="pt")["pixel_values"]
        frames = model.get_image_features(pixels).pooler_output
        tokens = processor.tokenizer("a red dog", padding="max_length", max_length=12, return_tensors="pt")
        text = model(**tokens, pixel_values=pixels).text_embeds
    expected = torch.nn.functional.normalize(frames, dim=-1).mean(dim=0)
    torch.testing.assert_close(embeds[0], expected / expected.norm(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.embed_texts(["a red dog", "blue"])[:1], text, atol=1e-5, rtol=1e-5)
    assert clip_score(embeds, encoder.embed_texts(["a red dog", "blue"]))[1].shape == (2,)
    with pytest.raises(ValueError, match="Clip 1 has no frame"):
        encoder.embed_clips([clips[0], clips[0][:0]])


def test_clip_score_by_the_captioner_itself():
    model, processor = tiny_model(), tiny_processor()
    clips = [dict(processor(videos=[tiny_clip(seed)], return_tensors="pt")) for seed in range(2)]
    video = embed_clips(model, processor, [{name: value[0] for name, value in clip.items()} for clip in clips])
    _, each = clip_score(video, embed_texts(model, processor, ["a red dog", "blue square"]))
    assert each.shape == (2,) and np.all((each >= 0) & (each <= 2.5))


@pytest.mark.slow
def test_evaluate_loads_similarity_and_diversity_offline(sentence_model, tmp_path):
    pytest.importorskip("evaluate")
    pairs = [
        {"hypothesis": "a red dog", "references": ["a blue dog", "a red dog"]},
        {"hypothesis": "a cat", "references": ["dog"]},
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    program = (
        "import evaluate, json, pathlib, sys\n"
        "folder, encoder = sys.argv[1:]\n"
        "lines = [json.loads(line) for line in open('captions.jsonl', encoding='utf-8')]\n"
        "predictions, references = [x['hypothesis'] for x in lines], [x['references'] for x in lines]\n"
        "similarity = evaluate.load(folder + '/caption_similarity')\n"
        "result = similarity.compute(predictions=predictions, references=references, encoder=encoder)\n"
        "diversity = evaluate.load(folder + '/caption_diversity')\n"
        "print(json.dumps(result | diversity.compute(predictions=predictions, train_captions=['A cat.'])))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, ROOT / "vidcap" / "evaluation", sentence_model],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    scores = json.loads(run.stdout.splitlines()[-1])
    expected = embedding_similarity(
        [pair["hypothesis"] for pair in pairs], [pair["references"] for pair in pairs], SentenceEncoder(sentence_model)
    )[0]
    assert scores["similarity"] == pytest.approx(expected) and scores["novel"] == 0.5 and scores["vocabulary"] == 4
