"""Training: overfitting, accumulation, resume, ranks, and `train_hf.py` from a folder to a model that loads."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from transformers import AutoModel, AutoProcessor, pipeline

import train_hf
from modeling_vidcap import modeling_vidcap
from modeling_vidcap.losses_vidcap import contrastive_loss
from modeling_vidcap.training_arguments import VideoCaptionTrainingArguments
from modeling_vidcap.training_vidcap import VideoCaptionTrainer
from processing.collator import VideoCaptionCollator
from processing.datasets import DatasetError, load_clips
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.captioning import caption_clips
from vidcap.demo_data import generate_demo_data
from vidcap.evaluation import score_captions
from vidcap.evaluation.bootstrap import scores_per_clip
from vidcap.evaluation.controls import CONTROLS

CAPTIONS = (
    "a red circle grows",
    "a blue square spins slowly",
    "the cat runs",
    "a small dog sleeps and then runs",
    "a green star blinks",
    "the large cat jumps over the dog",
    "a circle slides left and then right",
    "a star slides up",
)
SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 4 --max_caption_length 16 "
    "--decoding_workers 1 --disable_tqdm True"
).split()


class Clips(torch.utils.data.Dataset):
    """Eight clips of random colours with captions of unequal lengths."""

    def __init__(self, processor):
        self.items = []
        for seed, caption in enumerate(CAPTIONS):
            inputs = processor(videos=tiny_clip(seed))
            self.items.append({name: value[0] for name, value in inputs.items()} | {"captions": [caption]})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def clips(processor):
    return Clips(processor)


def make_trainer(output_dir, processor, clips, *, model=None, **options) -> VideoCaptionTrainer:
    values = {
        "per_device_train_batch_size": 8,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        "seed": 3,
    }
    args = VideoCaptionTrainingArguments(output_dir=str(output_dir), **(values | options))
    return VideoCaptionTrainer(
        model=model or tiny_model(word_dropout=0.3, initializer_range=0.05),
        args=args,
        train_dataset=clips,
        eval_dataset=clips,
        data_collator=VideoCaptionCollator(processor),
        processing_class=processor,
        references=[[caption] for caption in CAPTIONS],
        score=score_captions,
        score_clips=scores_per_clip,
    )


def test_eight_clips_are_learnt_by_heart(tmp_path, processor, clips):
    trainer = make_trainer(tmp_path, processor, clips, max_steps=200, learning_rate=3e-3)
    trainer.train()
    assert caption_clips(trainer.model, processor, clips, max_new_tokens=16) == list(CAPTIONS)
    metrics = trainer.evaluate(max_new_tokens=16)
    assert metrics["eval_exact"] == 1.0 and metrics["eval_distinct"] == 1.0
    parts = [entry for entry in trainer.state.log_history if "contrastive_loss" in entry]
    assert parts[-1]["contrastive_loss"] < parts[0]["contrastive_loss"]


@pytest.mark.parametrize(("warmup", "rates"), [(0.5, [0, 0.1, 0.2, 0.3, 0.3]), (0.0, [0.3] * 5)])
def test_word_dropout_grows(tmp_path, processor, clips, monkeypatch, warmup, rates):
    found = []
    monkeypatch.setattr(modeling_vidcap, "drop_words", lambda ids, config, *, rate: found.append(rate) or ids)
    model = tiny_model(word_dropout=0.3)
    make_trainer(tmp_path, processor, clips, model=model, max_steps=6, word_dropout_warmup=warmup).train()
    assert found[:5] == pytest.approx(rates) and found[5] == pytest.approx(0.3)


def test_weight_decay_spares_norms_biases_and_tables(tmp_path, processor, clips):
    options = {"spatial_tokens": True, "caption_queries": 2, "temporal_pyramid": 1, "time_positions": "learned"}
    trainer = make_trainer(tmp_path, processor, clips, model=tiny_model(**options))
    names = set(trainer.get_decay_parameter_names(trainer.model))
    spared = {name for name, _ in trainer.model.named_parameters()} - names
    assert names and all(name.endswith("weight") for name in names)
    assert not any("embed" in name or "norm" in name for name in names)
    assert {name.rsplit(".", 1)[-1] for name in spared} == {
        *("weight", "bias", "query", "summary_embedding", "level_embeddings", "logit_scale")
    }


def gradients(tmp_path, processor, clips, batch, accumulation) -> torch.Tensor:
    model = tiny_model(contrastive_weight=0.0, dropout=0.0, word_dropout=0.0)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    trainer = make_trainer(
        tmp_path,
        processor,
        clips,
        model=model,
        max_steps=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1.0,
        warmup_steps=0,
        max_grad_norm=0.0,
        weight_decay=0.0,
        optim="sgd",
    )
    trainer.train()
    return before - torch.cat([p.detach().flatten() for p in trainer.model.cpu().parameters()])


def test_gradients_do_not_depend_on_accumulation(tmp_path, processor, clips):
    whole = gradients(tmp_path, processor, clips, 8, 1)
    cut = gradients(tmp_path, processor, clips, 2, 4)
    assert whole.norm() > 0.1
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("muon", [True, False])
def test_resumed_training_equals_uninterrupted(tmp_path, processor, clips, muon):
    options = {
        "muon": muon,
        "num_train_epochs": 6,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 10,
        "save_total_limit": None,  # the default of 1 would delete the checkpoint to resume from
    }
    whole = make_trainer(tmp_path / "whole", processor, clips, **options)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", processor, clips, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    assert resumed.state.global_step == whole.state.global_step == 24
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def _rank_loss(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    video, text, ids = torch.load(f"{folder}/inputs.pt")
    own = slice(0, 3) if rank == 0 else slice(3, 4)  # as in the last batch of an epoch
    video, text = video[own].requires_grad_(), text[own].requires_grad_()
    # Ranks pad their captions to different lengths.
    loss = contrastive_loss(video, text, torch.tensor(1.0), ids[own] if rank == 0 else ids[own, :2])
    loss.backward()
    torch.save((loss.detach(), video.grad, text.grad), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_contrastive_loss_is_equal_on_one_and_two_processes(tmp_path):
    torch.manual_seed(0)
    video, text = torch.randn(4, 6), torch.randn(4, 6)
    ids = torch.tensor([[4, 5, 6, 2], [7, 2, -1, -1], [8, 9, 2, -1], [7, 2, -1, -1]])
    torch.save((video, text, ids), tmp_path / "inputs.pt")
    mp.spawn(_rank_loss, args=(str(tmp_path),), nprocs=2)
    video.requires_grad_(), text.requires_grad_()
    whole = contrastive_loss(video, text, torch.tensor(1.0), ids)
    whole.backward()
    for rank in range(2):
        loss, video_grad, text_grad = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(loss, whole.detach())
        # Each rank differentiates the sum of both ranks' equal losses; DDP's mean over ranks makes that one again.
        own = slice(0, 3) if rank == 0 else slice(3, 4)
        torch.testing.assert_close(video_grad / 2, video.grad[own])
        torch.testing.assert_close(text_grad / 2, text.grad[own])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clips"
    generate_demo_data(path, train=16, validation=4, test=8, size=32)
    return path


def run(folder, output, cache, *options: str) -> int:
    arguments = ["--dataset", str(folder), "--output_dir", str(output), "--feature_cache", str(cache)]
    return train_hf.main([*arguments, *SMALL, *options])


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    assert run(folder, output / "model", output / "cache", "--num_train_epochs", "2") == 0
    return output / "model"


def test_training_leaves_a_model_that_loads_and_a_report(trained, folder):
    model, processor = AutoModel.from_pretrained(trained), AutoProcessor.from_pretrained(trained)
    clip = next(iter(sorted((folder / "test").glob("*.gif"))))
    inputs = processor(videos=clip, return_tensors="pt")
    expected = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0]
    assert pipeline("video-captioning", model=str(trained))(str(clip))[0]["generated_text"] == expected
    report = json.loads((trained / "report.json").read_text())
    assert set(report["scores"]) >= {"cider", "bleu4", "rougeL", "exact", "distinct"}
    assert set(report["controls"]) == set(CONTROLS)
    assert report["parameters"] == model.num_parameters() and report["skipped_clips"] == []
    assert set(report["coverage"].values()) == {report["clips"]}
    for name in ("report.html", "training_curve.png", "training_log.jsonl", "README.md", "model.safetensors"):
        assert (trained / name).stat().st_size > 0
    assert not list(trained.glob("*.bin"))


def test_attention_is_written_out_on_cpu_whatever_the_precision(trained, folder, tmp_path, monkeypatch):
    seen = []

    def stop(model, **kwargs):
        seen.append(model.config._attn_implementation)
        raise ValueError("seen")

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(train_hf, "VideoCaptionTrainer", stop)
    assert run(folder, tmp_path / "model", trained.parent / "cache") == 1
    assert seen == ["eager"]


def test_going_on_from_a_trained_model(trained, folder, tmp_path, capsys):
    again = ["--model_name_or_path", str(trained), "--max_steps", "3", "--per_device_train_batch_size", "4"]
    arguments = ["--dataset", str(folder), "--feature_cache", str(tmp_path / "cache"), *again]
    refined = tmp_path / "refined"
    self_critical = ["--output_dir", str(refined), "--self_critical_samples", "3", "--logging_steps", "1"]
    assert train_hf.main([*arguments, *self_critical]) == 0
    log = [json.loads(line) for line in (refined / "training_log.jsonl").read_text().splitlines()]
    assert [entry["reward"] for entry in log if "reward" in entry]
    before, after = (AutoModel.from_pretrained(path) for path in (trained, refined))
    assert before.config.hidden_size == after.config.hidden_size
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert after.novelty.fitted
    assert after.generation_config.similarity_weight == 0.1
    changes = ["--color_dropout", "0.3", "--contrastive_weight", "0", "--num_beams", "2", "--max_steps", "1"]
    assert train_hf.main([*arguments, "--output_dir", str(tmp_path / "changed"), *changes]) == 0
    changed = AutoModel.from_pretrained(tmp_path / "changed")
    assert (changed.config.color_dropout, changed.generation_config.num_beams) == (0.3, 2)
    assert changed.generation_config.similarity_weight == 0.0
    assert train_hf.main([*arguments, "--output_dir", str(tmp_path / "m"), "--guidance_scale", "2"]) == 1
    assert "train with --video_dropout" in capsys.readouterr().err
    assert train_hf.main([*arguments, "--output_dir", str(tmp_path / "m"), "--hidden_size", "256"]) == 1
    assert "--hidden_size is a matter of the model" in capsys.readouterr().err


def test_every_part_can_be_asked_for_at_once(folder, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a red circle grows and then spins\n" * 3)
    wanted = {
        "masked_word_weight": 0.5,
        "scheduled_sampling": 0.2,
        "video_dropout": 0.1,
        "color_bins": 3,
        "fusion": "joint",
        "temporal_pyramid": 1,
        "reversed_negatives": True,
    }
    options = [f"--{name}={value}" for name, value in wanted.items()]
    options += ["--augment", "crop,color,speed", "--near_misses", "word,order", "--ema_decay", "0.9"]
    options += ["--loss_warmup", "0.5", "--text_corpus", str(corpus), "--text_warmup_steps", "2"]
    assert (
        run(folder, tmp_path / "model", tmp_path / "cache", *options, "--max_steps", "4", "--logging_steps", "1") == 0
    )
    config = AutoModel.from_pretrained(tmp_path / "model").config
    assert {name: getattr(config, name) for name in wanted} == wanted
    log = [json.loads(line) for line in (tmp_path / "model" / "training_log.jsonl").read_text().splitlines()]
    parts = [entry for entry in log if "masked_word_loss" in entry]
    assert len(parts) == 4 and all("contrastive_loss" in entry for entry in parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "2m"], "--preset 2m: there are 1m, 8m"),
        (["--near_misses", "words"], "name some of word, order"),
        (["--near_misses", "word", "--contrastive_weight", "0"], "set --contrastive_weight above 0"),
        (["--ema_decay", "1.5"], "ema_decay 1.5 must lie between 0 and 1"),
        (["--loss_warmup", "2"], "--loss_warmup 2.0 is a share of the run"),
        (["--word_dropout_warmup", "2"], "--word_dropout_warmup 2.0 is a share of the run"),
        (["--train_sampling_strategy", "sequential"], "--train_sampling_strategy sequential: each epoch shows"),
        (
            ["--streaming", "True", "--max_steps", "2", "--dataloader_num_workers", "3"],
            "give --decoding_workers 3 in its place",
        ),
        (["--save_minutes", "-1"], "--save_minutes -1.0: 0, or minutes between checkpoints"),
        (["--self_critical_anchor", "1"], "does nothing without --self_critical_samples"),
        (["--contrastive_type", "sigmoid", "--contrastive_weight", "0"], "does nothing without --contrastive_weight"),
        (["--augment", "zoom"], "zoom"),
        (["--frame_pool", "3"], "--frame_pool 3: 4 frames are drawn of it"),
        (["--augment", "crop", "--direction_words", "wax"], "add flip to --augment"),
        (["--text_corpus", "missing.txt"], "missing.txt"),
        (["--backbone_stages", "4"], "--backbone_stages: cnn has none to choose from, leave them out"),
        (["--color_bins", "0", "--color_dropout", "0.5"], "set `color_bins` above 0"),
    ],
)
def test_parts_that_cannot_work_are_refused_in_one_line(folder, tmp_path, capsys, options, message):
    try:
        assert run(folder, tmp_path / "model", tmp_path / "cache", *options) == 1
    except SystemExit as refused:  # by the parser
        assert refused.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and error.splitlines()[-1].startswith("train_hf.py: error:")


def test_words_that_the_model_to_go_on_from_lacks_are_refused(trained, tmp_path, capsys):
    folder = tmp_path / "clips"
    generate_demo_data(folder, train=4, validation=1, test=0, size=32)
    for metadata in folder.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        lines = [json.dumps({"file_name": row["file_name"], "caption": "ein Kater schläft"}) for row in rows]
        metadata.write_text("\n".join(lines))
    arguments = ["--dataset", str(folder), "--output_dir", str(tmp_path / "m"), "--model_name_or_path", str(trained)]
    assert train_hf.main([*arguments, "--feature_cache", str(tmp_path / "cache")]) == 1
    assert "its tokenizer lacks" in capsys.readouterr().err


def test_time_budget_ends_the_run_and_keeps_the_best(folder, tmp_path):
    options = ["--max_train_minutes", "0.1", "--evaluations", "3", "--processor_time", "True"]
    assert run(folder, tmp_path / "m", tmp_path / "cache", *options) == 0
    history = [json.loads(line) for line in (tmp_path / "m" / "training_log.jsonl").read_text().splitlines()]
    evaluations = [entry["eval_cider"] for entry in history if "eval_cider" in entry]
    assert len(evaluations) >= 3
    assert json.loads((tmp_path / "m" / "report.json").read_text())["train_seconds"] < 300


def test_steps_may_end_before_the_time(folder, tmp_path):
    options = ["--max_train_minutes", "100", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    options += ["--load_best_model_at_end", "False"]
    assert run(folder, tmp_path / "m", tmp_path / "cache", *options) == 0
    assert json.loads((tmp_path / "m" / "report.json").read_text())["steps"] == 2


def test_streaming_trains_without_a_cache(folder, tmp_path):
    assert run(folder, tmp_path / "m", tmp_path / "cache", "--streaming", "True", "--max_steps", "4") == 0
    assert (tmp_path / "m" / "model.safetensors").exists()


def test_broken_clips_stop_the_run_or_are_listed(folder, tmp_path, capsys):
    broken = tmp_path / "clips"
    shutil.copytree(folder, broken)
    victim = sorted((broken / "train").glob("*.mp4"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    assert run(broken, tmp_path / "m", tmp_path / "cache", "--max_steps", "2") == 1
    error = capsys.readouterr().err
    assert victim.name in error and "1 of 16 clips" in error and "--skip_broken_clips" in error
    assert not (tmp_path / "m" / "config.json").exists()
    assert run(broken, tmp_path / "m", tmp_path / "cache", "--max_steps", "2", "--skip_broken_clips", "True") == 0
    skipped = json.loads((tmp_path / "m" / "report.json").read_text())["skipped_clips"]
    assert [each["file_name"] for each in skipped] == [victim.name] and skipped[0]["reason"]


def test_without_validation_split_train_gives_up_a_share(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "clips")
    shutil.rmtree(tmp_path / "clips" / "validation")
    assert run(tmp_path / "clips", tmp_path / "m", tmp_path / "cache", "--max_steps", "2") == 0
    history = (tmp_path / "m" / "training_log.jsonl").read_text()
    assert "eval_cider" in history


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "a.mp4"}', "no caption"),
        ('{"file_name": "a.mp4", "caption": "  "}', "empty or not text"),
        ('{"file_name": "a.mp4", "captions": ["fine", 3]}', "3 is empty or not text"),
        ('{"file_name": "a.mp4", "captions": []}', "list of captions is empty"),
        ('{"caption": "a cat"}', 'no "file_name"'),
        ('{"file_name": ', "not JSON"),
    ],
)
def test_metadata_mistakes_are_named_by_line(tmp_path, line, message):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "b.mp4", "caption": "a dog"}\n' + line + "\n")
    with pytest.raises(DatasetError, match=message) as error:
        load_clips(tmp_path, "train")
    assert "line 2" in str(error.value)


def test_bad_usage_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_hf.main(["--dataset", "x", "--output_dir", "y", "--no_such_option", "1"])
    assert exit_.value.code == 2
    assert train_hf.main(["--dataset", str(tmp_path / "none"), "--output_dir", str(tmp_path / "m")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert not Path(tmp_path / "m").exists()


@pytest.mark.parametrize(("tolerance", "kept"), [(1.0, [1, 2, 2, 4, 4, 6]), (0.0, [1, 1, 1, 4, 4, 4])])
def test_last_checkpoint_within_an_error_of_the_best_is_kept(tmp_path, processor, clips, tolerance, kept):
    options = {"eval_strategy": "steps", "save_strategy": "best", "metric_for_best_model": "cider"}
    trainer = make_trainer(tmp_path, processor, clips, best_model_tolerance=tolerance, **options)
    trainer.caption_scores.standard_errors = {"cider": 5.0}
    steps = []
    # 94 is too far below 100, and 97 within reach of 102, which stays what later scores are compared with.
    for trainer.state.global_step, score in enumerate((100.0, 97.0, 94.0, 102.0, 96.9, 97.0), start=1):
        saved = trainer._determine_best_metric({"eval_cider": score}, None)
        assert saved == (trainer.state.best_global_step == trainer.state.global_step)
        steps.append(trainer.state.best_global_step)
    assert steps == kept and trainer.state.best_metric == 102.0


def test_standard_errors_are_those_of_means_over_clips(tmp_path, processor, clips):
    scores = make_trainer(tmp_path, processor, clips).caption_scores
    said = [*CAPTIONS[:6], CAPTIONS[0], CAPTIONS[0]]  # two of eight are wrong
    tokens = processor.tokenizer(said, padding=True, return_tensors="np")["input_ids"]
    returned = scores(SimpleNamespace(predictions=tokens))
    assert returned["exact"] == 0.75
    assert scores.standard_errors["exact"] == pytest.approx((0.75 * 0.25 / 8) ** 0.5)
    assert scores.standard_errors["cider"] > 0


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="--best_model_tolerance -1.0 counts standard errors"):
        VideoCaptionTrainingArguments(best_model_tolerance=-1.0)
