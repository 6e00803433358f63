"""The trainer: overfitting, schedules, accumulation, resume, ranks, and which checkpoint is kept."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from transformers import Seq2SeqTrainer, Trainer

from modeling_vidcap import modeling_vidcap
from modeling_vidcap.losses_vidcap import MAX_LOGIT_SCALE, contrastive_loss
from tests.tiny import tiny_model, tiny_processor
from tests.trainers import CAPTIONS, Clips, make_trainer
from vidcap.inference.captioning import ModelCaptioner
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.caption_evaluation import CaptionEvaluationTrainer
from vidcap.training.trainer import PRIVATE_OVERRIDES, VideoCaptionTrainer


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def clips(processor):
    return Clips(processor)


def test_eight_clips_are_learnt_by_heart(tmp_path, processor, clips):
    trainer = make_trainer(tmp_path, processor, clips, max_steps=200, learning_rate=3e-3)
    trainer.train()
    assert ModelCaptioner(trainer.model, processor).caption(clips, max_new_tokens=16) == list(CAPTIONS)
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


def test_the_other_losses_grow(tmp_path, processor, clips, monkeypatch):
    found, model = [], tiny_model()
    monkeypatch.setattr(type(model), "set_ramps", lambda self, **ramps: found.append(ramps))
    make_trainer(
        tmp_path, processor, clips, model=model, max_steps=4, loss_warmup=0.5, word_dropout_warmup=0.0
    ).train()
    assert found == [{"losses": losses, "word_dropout": 1.0} for losses in (0.0, 0.5, 1.0, 1.0)]


RATES = {
    ("cosine", 0.0): [1, 0.75, 0.25, 0],
    ("cosine", 2): [0, 0.5, 1, 0],
    ("linear", 0.0): [1, 2 / 3, 1 / 3],
    ("constant", 0.5): [1, 1, 1],
    ("constant_with_warmup", 2): [0, 0.5, 1],
}
OVER_TIME = {
    ("cosine", 0.5): [0.002, 0.854 * 0.5, 0.5, 0.146, 0],
    ("cosine", 2): [0.5, 0.854, 0.5, 0.146, 0],
    ("linear", 0.0): [1, 0.75, 0.5, 0.25, 0],
    ("linear", 0.8): [0.001 / 0.8, 0.75 * 0.25 / 0.8, 0.5 * 0.5 / 0.8, 0.25 * 0.75 / 0.8, 0],
    ("constant", 0.5): [1, 1, 1, 1, 1],
    ("constant_with_warmup", 4): [0.25, 0.5, 0.75, 1, 1],
}


@pytest.mark.parametrize(("kind", "warmup"), RATES)
def test_the_schedule_is_the_one_asked_for(tmp_path, processor, clips, kind, warmup):
    options = {"lr_scheduler_type": kind, "warmup_steps": warmup, "max_steps": 3, "learning_rate": 1.0}
    trainer = make_trainer(tmp_path, processor, clips, muon=False, **options)
    trainer.create_optimizer_and_scheduler(3)
    rates = []
    for _ in RATES[kind, warmup]:
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step(), trainer.lr_scheduler.step()
    assert rates == pytest.approx(RATES[kind, warmup])


@pytest.mark.parametrize(("kind", "warmup"), OVER_TIME)
def test_a_schedule_over_time_is_the_one_asked_for(tmp_path, processor, clips, kind, warmup):
    options = {"lr_scheduler_type": kind, "warmup_steps": warmup, "learning_rate": 1.0, "max_train_minutes": 1}
    trainer = make_trainer(tmp_path, processor, clips, muon=False, **options)
    trainer.budget.steps = 4
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    rates = []
    for _ in range(5):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step(), trainer.lr_scheduler.step()
    assert rates == pytest.approx(OVER_TIME[kind, warmup], abs=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scheduler_type": "polynomial"}, "--lr_scheduler_type polynomial needs the number of steps"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "--lr_scheduler_kwargs {'num_cycles': 2} has no effect"),
    ],
)
def test_a_schedule_that_needs_the_number_of_steps_is_refused_beside_a_time(options, message):
    assert VideoCaptionTrainingArguments(**options)
    with pytest.raises(ValueError, match=message):
        VideoCaptionTrainingArguments(max_train_minutes=1, **options)


@pytest.mark.parametrize("options", [{"muon": True}, {"muon": False, "ema_decay": 0.5}])
def test_the_temperature_is_kept_within_bounds_and_finds_back(tmp_path, processor, clips, options):
    model = tiny_model(logit_scale_init_value=4.7)  # a scale of 110
    trainer = make_trainer(tmp_path, processor, clips, model=model, max_steps=3, warmup_steps=0, **options)
    trainer.train()
    assert 0 < MAX_LOGIT_SCALE - model.logit_scale.item() < 0.1  # untrained embeddings ask for less
    rising = make_trainer(tmp_path, processor, clips, model=tiny_model(logit_scale_init_value=4.7), **options)
    rising.create_optimizer()
    rising.optimizer.step()
    assert rising.model.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)


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


@pytest.mark.parametrize("budget", [{}, {"max_train_minutes": 60, "processor_time": True}])
def test_a_run_that_came_to_its_end_makes_no_step_more(tmp_path, processor, clips, budget):
    options = {"per_device_train_batch_size": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 3, **budget}
    whole = make_trainer(tmp_path, processor, clips, **options)
    whole.train()
    again = make_trainer(tmp_path, processor, clips, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == whole.state.global_step == 3
    for (name, one), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
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


@pytest.mark.parametrize(("tolerance", "kept"), [(1.0, [1, 2, 2, 4, 4, 6]), (0.0, [1, 1, 1, 4, 4, 4])])
def test_last_checkpoint_within_an_error_of_the_best_is_kept(tmp_path, processor, clips, tolerance, kept):
    options = {"eval_strategy": "steps", "save_strategy": "best", "metric_for_best_model": "cider"}
    trainer = make_trainer(tmp_path, processor, clips, best_model_tolerance=tolerance, **options)
    trainer.standard_errors = {"eval_cider": 5.0}
    steps = []
    # 94 is too far below 100, and 97 within reach of 102, which stays what later scores are compared with.
    for trainer.state.global_step, score in enumerate((100.0, 97.0, 94.0, 102.0, 96.9, 97.0), start=1):
        saved = trainer._determine_best_metric({"eval_cider": score}, None)
        assert saved == (trainer.state.best_global_step == trainer.state.global_step)
        steps.append(trainer.state.best_global_step)
    assert steps == kept and trainer.state.best_metric == 102.0


@pytest.mark.parametrize("output", ["./m", "m/", "m"])
def test_the_best_weights_are_found_however_the_folder_is_written(tmp_path, processor, clips, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True}
    options |= {"max_steps": 3, "learning_rate": 0.01, "warmup_steps": 0, "save_minutes": 1e-4, "save_total_limit": 1}
    trainer = make_trainer(output, processor, clips, best_model_tolerance=0, **options)
    ciders = iter((3.0, 1.0, 2.0))
    names = ("bleu4", "rougeL", "exact", "distinct")
    trainer.caption_scores.score = lambda *_: {"cider": next(ciders), **dict.fromkeys(names, 0.0)}
    trainer.train()
    (kept,) = Path("m").glob("checkpoint-*")
    assert kept.name == "checkpoint-1" and Path(trainer.state.best_model_checkpoint) == kept
    best = load_file(kept / "model.safetensors")
    assert all(torch.equal(best[name], weight) for name, weight in trainer.model.named_parameters() if name in best)
    assert "model.decoder.text_layers.0.mlp.0.weight" in best


def test_standard_errors_are_those_of_means_over_clips(tmp_path, processor, clips):
    scores = make_trainer(tmp_path, processor, clips).caption_scores
    scores.references = [[caption] for caption in CAPTIONS]
    said = [*CAPTIONS[:6], CAPTIONS[0], CAPTIONS[0]]  # two of eight are wrong
    tokens = processor.tokenizer(said, padding=True, return_tensors="np")["input_ids"]
    returned = scores(SimpleNamespace(predictions=tokens))
    assert returned["exact"] == 0.75
    assert scores.standard_errors["exact"] == pytest.approx((0.75 * 0.25 / 8) ** 0.5)
    assert scores.standard_errors["cider"] > 0


class Renamed(torch.utils.data.Dataset):
    """Some of the clips, with other captions."""

    def __init__(self, clips, captions):
        self.clips, self.captions = clips, captions

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        return self.clips[index] | {"captions": [self.captions[index]]}


def test_any_data_set_is_scored_against_its_own_captions(tmp_path, processor, clips):
    options = {"dataloader_drop_last": True, "per_device_eval_batch_size": 3, "generation_max_length": 12}
    trainer = make_trainer(tmp_path, processor, clips, **options)
    said = ModelCaptioner(trainer.model, processor).caption(clips, max_new_tokens=11, num_beams=1)
    right, half = Renamed(clips, said), Renamed(clips, [*said[:2], "no", "no"])
    names = ("eval_exact", "test_exact", "eval_right_exact", "eval_half_exact")
    assert trainer.evaluate()[names[0]] == 0
    assert trainer.evaluate(right)[names[0]] == 1
    assert trainer.predict(half).metrics[names[1]] == 0.5
    assert trainer.evaluate()[names[0]] == 0
    metrics = trainer.evaluate({"right": right, "half": half})
    assert [metrics[name] for name in names[2:]] == [1, 0.5]
    assert [trainer.standard_errors[name] for name in names] == [0, 0.25, 0, 0.25]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from ()


def test_what_has_no_captions_or_no_end_is_not_scored(tmp_path, processor, clips):
    trainer = make_trainer(tmp_path, processor, clips)
    with pytest.raises(ValueError, match="list: a clip has no 'captions'"):
        trainer.predict([{name: value for name, value in clips[0].items() if name != "captions"}])
    with pytest.raises(ValueError, match="Stream has no length"):
        trainer.evaluate(Stream())


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="--best_model_tolerance -1.0 must be 0 or more"):
        VideoCaptionTrainingArguments(best_model_tolerance=-1.0)


def test_split_and_whole_weights_are_not_mixed(tmp_path, processor, clips):
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, processor, clips, **options).train()
    (tmp_path / "checkpoint-1" / "pytorch_model_fsdp.bin").touch()
    with pytest.raises(ValueError, match="checkpoint-1: it was trained with FSDP"):
        make_trainer(tmp_path, processor, clips, **options).train(str(tmp_path / "checkpoint-1"))


# Where a new version of transformers differs, read its method before changing this.
SIGNATURES = {
    "_save_checkpoint": "(self, model: torch.nn.modules.module.Module, trial: 'optuna.Trial | dict[str, Any] | None')"
    " -> None",
    "_determine_best_metric": "(self, metrics: dict[str, float], trial: 'optuna.Trial | dict[str, Any] | None')"
    " -> bool",
    "_run_epoch": "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
    "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
}


def test_private_methods_of_transformers_are_few_known_and_unchanged():
    ours = {**vars(CaptionEvaluationTrainer), **vars(VideoCaptionTrainer)}
    overridden = {name for name in ours if name.startswith("_") and name[:2] != "__" and hasattr(Seq2SeqTrainer, name)}
    assert overridden == PRIVATE_OVERRIDES.keys() == SIGNATURES.keys()
    for name, signature in SIGNATURES.items():
        assert str(inspect.signature(getattr(Trainer, name))) == signature, name
