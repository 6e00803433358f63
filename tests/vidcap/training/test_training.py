"""`train_hf.py`, from a folder to a model that loads; the trainer itself is tested in `test_trainer.py`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

import train_hf
from processing.clips.rows import load_clips
from processing.clips.sources import DatasetError
from vidcap.cli import main as command
from vidcap.demo.demo_data import generate_demo_data
from vidcap.evaluation.controls.controls import CONTROLS
from vidcap.training import run as training_run
from vidcap.training.arguments.command_line import parse

SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 4 --max_caption_length 16 "
    "--decoding_workers 1 --disable_tqdm True"
).split()


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
    monkeypatch.setattr(training_run, "VideoCaptionTrainer", stop)
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
    assert "--video_dropout 0.1" in capsys.readouterr().err
    assert train_hf.main([*arguments, "--output_dir", str(tmp_path / "m"), "--hidden_size", "256"]) == 1
    assert "--hidden_size is fixed by the model" in capsys.readouterr().err
    assert train_hf.main([*arguments, "--output_dir", str(tmp_path / "m"), "--decoder_learning_rate", "1e-4"]) == 1
    assert "--decoder_learning_rate 0.0001 has no effect" in capsys.readouterr().err


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
        (["--preset", "2m"], "--preset 2m must be one of 1m, 8m"),
        (["--near_misses", "words"], "word, order"),
        (["--near_misses", "word", "--contrastive_weight", "0"], "set --contrastive_weight above 0"),
        (["--ema_decay", "1.5"], "ema_decay 1.5 must lie between 0 and 1"),
        (["--loss_warmup", "2"], "--loss_warmup 2.0 must be a share"),
        (["--word_dropout_warmup", "2"], "--word_dropout_warmup 2.0 must be a share"),
        (["--train_sampling_strategy", "sequential"], "--train_sampling_strategy sequential: "),
        (
            ["--streaming", "True", "--max_steps", "2", "--dataloader_num_workers", "3"],
            "use --decoding_workers 3",
        ),
        (["--save_minutes", "-1"], "--save_minutes -1.0 must be 0 or more"),
        (["--num_beams", "0"], "--num_beams 0 must be 1 or more"),
        (["--generation_num_beams", "0"], "--generation_num_beams 0 must be 1 or more"),
        (["--max_validation_clips", "0"], "--max_validation_clips 0 must be 1 or more"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0 must be 1 or more"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0 must be 1 or more"),
        (["--learning_rate", "nan"], "--learning_rate nan must be 0 or more"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0.0 must be above 0"),
        (["--max_steps", "0"], "--max_steps 0 must be 1 or more"),
        (["--max_train_minutes", "nan"], "--max_train_minutes nan must be above 0"),
        (["--max_caption_length", "1"], "--max_caption_length 1 must be 2 or more"),
        (["--max_vocab_size", "4"], "<pad>"),
        (["--eval_strategy", "no"], "--eval_strategy no "),
        (["--predict_with_generate", "False"], "--predict_with_generate False: "),
        (["--prediction_loss_only", "True"], "--prediction_loss_only True: "),
        (["--metric_for_best_model", "meteor"], "--metric_for_best_model meteor must be one of cider, bleu4"),
        (["--remove_unused_columns", "True"], "--remove_unused_columns True "),
        (["--do_train", "False"], "--do_train False: "),
        (["--output_dir", __file__], "is a file; name a folder"),
        (["--resume_from_checkpoint", "nosuch"], "--resume_from_checkpoint nosuch: no such folder"),
        (["--resume_from_checkpoint", "tests"], "--resume_from_checkpoint tests: not a checkpoint"),
        (["--self_critical_anchor", "1"], "has no effect without --self_critical_samples"),
        (["--contrastive_type", "sigmoid", "--contrastive_weight", "0"], "has no effect without --contrastive_weight"),
        (["--augment", "zoom"], "zoom"),
        (["--frame_pool", "3"], "--frame_pool 3 must be at least the 4 frames"),
        (["--augment", "crop", "--direction_words", "wax"], "add flip to --augment"),
        (["--text_corpus", "missing.txt"], "missing.txt"),
        (["--backbone_stages", "4"], "--backbone_stages"),
        (["--color_bins", "0", "--color_dropout", "0.5"], "color_bins"),
        (["--max_vocab_size", "9", "--tokenizer", "x"], "--max_vocab_size 9 has no effect beside --tokenizer"),
        (
            ["--backbone_learning_rate", "0.1", "--freeze_backbone", "True"],
            "--backbone_learning_rate 0.1 has no effect",
        ),
        (["--feature_backend", "openvino"], "but this one is trained"),
    ],
)
def test_parts_that_cannot_work_are_refused_in_one_line(folder, tmp_path, capsys, options, message):
    try:
        assert run(folder, tmp_path / "model", tmp_path / "cache", *options) == 1
    except SystemExit as refused:  # by the parser
        assert refused.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and error.splitlines()[-1].startswith("train_hf.py: error:")


def test_a_failing_test_evaluation_leaves_the_model_and_no_scores_of_another(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "model"
    output.mkdir()
    (output / "report.json").write_text('{"scores": {"cider": 900}}')

    def fail(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(training_run, "evaluate_on_test", fail)
    assert run(folder, output, tmp_path / "cache", "--max_steps", "2", "--eval_steps", "2") == 1
    assert "train_hf.py: error: no such thing" in capsys.readouterr().err
    AutoModel.from_pretrained(output)
    assert not (output / "report.json").exists()


def test_the_best_checkpoint_is_the_one_of_the_lowest_loss_or_the_highest_score(tmp_path):
    for metric, greater in (("loss", False), ("eval_loss", False), ("exact", True), ("eval_cider", True)):
        args = parse(["--dataset", "x", "--output_dir", str(tmp_path), "--metric_for_best_model", metric])[2]
        assert args.greater_is_better is greater


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
    assert 2 <= len(evaluations) <= 3  # on a busy machine a single step may come past two shares
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
    with pytest.raises(SystemExit):
        command(["train", "--dataset", "x", "--output_dir", "y", "--num_beams", "0"])
    assert capsys.readouterr().err.startswith("vidcap train: error: --num_beams 0 must be 1 or more")
