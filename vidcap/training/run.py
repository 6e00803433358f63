"""One training from its options to a checked folder, evaluated and, if wanted, pushed."""

import dataclasses
import logging
import os
import sys
import time
from typing import Any

import datasets
from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hub_card.exporter import export_model, push_to_hub
from processing.clips.collator import VideoCaptionCollator
from processing.support.progress import shows_bars
from vidcap.evaluation import score_captions
from vidcap.evaluation.report.examples import sample_clips
from vidcap.evaluation.scores.bootstrap import scores_per_clip
from vidcap.inference.clip_cache import open_clip_cache
from vidcap.messages import as_options
from vidcap.training.arguments.command_line import Arguments, parse
from vidcap.training.arguments.data_arguments import DataArguments
from vidcap.training.arguments.model_arguments import ModelArguments
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.checkpoints import checkpoint_to_resume, mark_finished, read_manifest, run_settings
from vidcap.training.clips import FrameDraw, TrainingClips, read_augmentation, read_near_misses
from vidcap.training.data import load_training_data
from vidcap.training.lora import add_lora, merge_lora
from vidcap.training.model import make_captioner
from vidcap.training.objectives.novelty_fitting import fit_novelty
from vidcap.training.objectives.self_critical import CiderReward, SelfCriticalLoss
from vidcap.training.objectives.text_warmup import read_corpus, warm_up_text
from vidcap.training.optimization.parameter_groups import own_rates
from vidcap.training.optimization.passes import check_passes
from vidcap.training.precision import choose_precision, describe_training
from vidcap.training.report import evaluate_on_test, remove_reports, report_of_run, write_run
from vidcap.training.trainer import VideoCaptionTrainer

logger = logging.getLogger("vidcap")


def main(argv: list[str] | None = None, program: str = "train_hf.py") -> int:
    """Runs one training; errors of the user's making become one line, which begins with `program`, and status 1."""
    try:
        run(sys.argv[1:] if argv is None else argv, program)
    except (ValueError, ImportError, OSError) as error:
        if os.environ.get("VIDCAP_DEBUG"):
            raise
        print(f"{program}: error: {as_options(str(error))}", file=sys.stderr)
        return 1
    return 0


def run(argv: list[str], program: str) -> None:
    """Runs one training from its command line, and raises its errors; `program` names it in messages."""
    started = time.perf_counter()
    data, model_args, args, given = parse(argv, program)
    logging.basicConfig(format="%(message)s")
    for name in ("hub_card", "modeling_vidcap", "processing", "vidcap"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not shows_bars():  # the libraries' own would fill a log file with carriage returns
        datasets.disable_progress_bars()
        disable_hub_bars()
        transformers_logging.disable_progress_bar()
    train(data, model_args, args, given, started)


def train(
    data: DataArguments,
    model_args: ModelArguments,
    args: VideoCaptionTrainingArguments,
    given: set[str],
    started: float,
) -> None:
    """One run: model, clips, training, evaluation, export.

    Args:
        given: Names of the options that were given; the others are defaults.
        started: `time.perf_counter()` at its start.
    """
    assert args.output_dir is not None  # transformers sets a default
    set_seed(args.seed)
    augmentation = read_augmentation(data)
    corpus = read_corpus(data.text_corpus) if data.text_corpus else []
    sources = load_training_data(data, args)
    by_clip = sources.captions()
    captions = [caption for of_clip in by_clip for caption in of_clip]

    processor, model = make_captioner(model_args, captions, corpus, given)
    adapters = add_lora(model, model_args.lora or (), rank=model_args.lora_rank, alpha=model_args.lora_alpha)
    own_rates(model, args)  # refuses those of what is not trained
    logger.info(
        f"parameters: {model.num_parameters():,}, of them trained: {model.num_parameters(only_trainable=True):,}"
    )
    frames = FrameDraw.for_model(data, augmentation, model.config, processor.video_processor.num_frames)
    near_misses = read_near_misses(data, model.config, by_clip)
    model.to(args.device)

    settings = run_settings(args, vars(data) | vars(model_args), captions)
    resume = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint, settings)
    if corpus and resume is None:
        warm_up_text(model, processor, corpus, steps=args.text_warmup_steps)

    cache = open_clip_cache(
        model,
        processor,
        folder=data.feature_cache,
        workers=data.decoding_workers,
        backend=data.feature_backend,
        limit=data.feature_cache_limit,
    )
    clips = TrainingClips(data, sources, cache, rank=args.process_index, world_size=args.world_size)
    validation = clips.validation()
    training = clips.training(processor, frames, seed=args.draw_seed)

    eval_collator = VideoCaptionCollator(processor, max_length=model.config.max_position_embeddings)
    self_critical = None
    if args.self_critical_samples:
        self_critical = SelfCriticalLoss(processor, CiderReward(by_clip), samples=args.self_critical_samples)
    if args.device.type == "cpu":
        model.set_attn_implementation({"": "eager"})  # faster there for short sequences, whatever the precision
    manifest = None if resume is None else read_manifest(resume)
    choose_precision(args, given, model, eval_collator, validation, manifest=manifest)
    if resume is None:
        check_passes(args, model, eval_collator, training, validation)
    trainer = VideoCaptionTrainer(
        model=model,
        args=args,
        train_dataset=training,
        eval_dataset=validation,
        data_collator=dataclasses.replace(
            eval_collator, draw=True, references=self_critical is not None, near_misses=near_misses
        ),
        eval_collator=eval_collator,
        processing_class=processor,
        score=score_captions,
        score_clips=scores_per_clip,
        self_critical=self_critical,
        settings=settings,
    )
    logger.info(describe_training(args))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    facts = {"train_seconds": trainer.seconds, "steps": trainer.state.global_step}
    model = trainer.whole_model()
    merge_lora(adapters)
    if trainer.is_world_process_zero():
        fit_novelty(model, eval_collator, training, validation)
        history = trainer.state.log_history
        began = started - trainer.seconds_before
        finish_run((data, model_args, args, given), model, processor, clips, captions, history, facts, began)


def finish_run(
    arguments: Arguments,
    model: Any,
    processor: Any,
    clips: TrainingClips,
    captions: list[str],
    history: list[dict[str, Any]],
    facts: dict[str, Any],
    began: float,
) -> None:
    """What one process does with a trained model: export, evaluation on the test split, report, push.

    Args:
        captions: Those of the training clips.
        history: The log of the training.
        facts: What the report is to say of it.
        began: `time.perf_counter()` at the start of the run; of an interrupted one as if there had been no pause.
    """
    args = arguments[2]
    assert args.output_dir is not None
    if broken := [name for name, each in model.named_parameters() if not each.isfinite().all()]:
        raise ValueError(
            f"training diverged: {broken[0]} and {len(broken) - 1} other tensors hold NaN or infinities, and "
            "nothing was exported; lower --learning_rate, and add --resume_from_checkpoint no"
        )
    # Before the evaluation too, which may fail, or be cut off; scores of an earlier model do not belong to this one.
    directory = export_model(model, processor, args.output_dir)
    remove_reports(directory)
    evaluation = evaluate_on_test(model, processor, clips, captions)
    facts = facts | {"total_seconds": time.perf_counter() - began}
    report = report_of_run(*arguments, clips=clips, captions=captions, model=model, evaluation=evaluation, facts=facts)
    samples, pictures = sample_clips(evaluation.examples)
    export_model(model, processor, directory, facts=report | {"samples": samples}, samples=pictures)
    write_run(directory, report, evaluation.examples, history)
    if clips.skipped:
        logger.warning(
            f"{len(clips.skipped)} clips could not be read and were left out; they are listed in report.json"
        )
    if clips.cache.limit is not None:
        clips.cache.limit.trim()
    mark_finished(args.output_dir)
    logger.info(f"model and report: {directory}")
    if args.push_to_hub:
        access: Any = {"private": args.hub_private_repo, "token": args.hub_token}
        logger.info(f"pushed: {push_to_hub(directory, args.repository, **access, model=model, processor=processor)}")
