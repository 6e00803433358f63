"""One training, from its options to a checked and evaluated folder."""

import dataclasses
import itertools
import logging
import time
from typing import Any

from transformers import set_seed

from hub_card.exporter import export_model, push_to_hub
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.streams import StreamedClips
from vidcap.evaluation import score_captions
from vidcap.evaluation.report.examples import sample_clips
from vidcap.evaluation.scores.bootstrap import scores_per_clip
from vidcap.inference.clip_cache import keeps_features, open_clip_cache

from .arguments.command_line import TrainOptions
from .blindness import BlindnessCheck
from .checkpoints import checkpoint_to_resume, mark_finished, read_manifest, run_settings
from .clips import FrameDraw, TrainingClips, read_augmentation, read_near_misses
from .data import load_training_data
from .lora import add_lora, merge_lora
from .model import make_captioner
from .objectives.memory_choice import choose_memory_share, choose_memory_weight
from .objectives.memory_fitting import FittedMemory, fit_memory
from .objectives.novelty_fitting import fit_novelty
from .objectives.self_critical import CiderReward, SelfCriticalLoss
from .objectives.text_warmup import read_corpus, warm_up_text
from .optimization.parameter_groups import pretrained_groups
from .optimization.passes import check_passes
from .precision import choose_precision, describe_training
from .report import evaluate_on_test, remove_reports, report_of_run, write_run
from .train_run import TrainRun
from .trainer import VideoCaptionTrainer

logger = logging.getLogger(__name__)


def train(options: TrainOptions, started: float) -> None:
    """Train, evaluate and export one captioner.

    Args:
        started: `time.perf_counter()` at the start of the process.

    Raises:
        ValueError: If options, data and model do not go together, or training diverges.
    """
    run = prepare_run(options, started)
    validation = run.clips.validation()
    training = run.clips.training(run.processor, run.frames, seed=run.args.draw_seed)
    collator = VideoCaptionCollator(run.processor, max_length=run.model.config.max_position_embeddings)
    memory = add_memory(run, collator, training)
    if memory is None and run.model_arguments.memory_weight:
        raise ValueError(
            f"--memory_weight {run.model_arguments.memory_weight:g} needs a memory, which only a frozen backbone that "
            "sees single frames, 20 clips or more and no --streaming give; leave it out"
        )
    trainer = make_trainer(run, collator, training, validation)
    z_score = None if memory is None else memory.z_score
    check = BlindnessCheck(collator, validation, memory_z_score=z_score, budget=trainer.budget)
    trainer.add_callback(check)
    logger.info(describe_training(run.args))
    trainer.train(resume_from_checkpoint=run.resume)
    facts = {"train_seconds": trainer.seconds, "steps": trainer.state.global_step}
    model: Any = trainer.whole_model()
    merge_lora(run.adapters)
    if trainer.is_world_process_zero():
        fit_novelty(model, collator, training, validation)
        choose_memory_share(model, collator, validation)
        weight = run.model_arguments.memory_weight
        if weight is None:
            weight = choose_memory_weight(model, collator, validation, None if memory is None else memory.ciders)
        model.generation_config.memory_weight = weight
        # As if an interrupted run had not paused.
        run = dataclasses.replace(run, model=model, started=run.started - trainer.seconds_before)
        finish_run(run, trainer.state.log_history, facts)


def prepare_run(options: TrainOptions, started: float) -> TrainRun:
    """Open the data, make the model, and find the checkpoint to resume from."""
    data, model_arguments, args, given = options
    set_seed(args.seed)
    augmentation = read_augmentation(data)
    corpus = read_corpus(data.text_corpus) if data.text_corpus else []
    sources = load_training_data(data, args)
    captions = sources.captions()
    flat = list(itertools.chain(*captions))
    model, processor, model_arguments = make_captioner(model_arguments, flat, corpus, given, sources.validation)
    adapters = add_lora(
        model, model_arguments.lora or (), rank=model_arguments.lora_rank, alpha=model_arguments.lora_alpha
    )
    pretrained_groups(model, args)  # refuses learning rates of parts that are not trained
    logger.info(f"parameters: {model.num_parameters():,}, trained: {model.num_parameters(only_trainable=True):,}")
    frames = FrameDraw.for_model(data, augmentation, model.config, processor.video_processor.num_frames)
    near_misses = read_near_misses(data, model.config, captions)
    model.to(args.device)  # type: ignore[arg-type]
    settings = run_settings(args, vars(data) | vars(model_arguments), flat)
    resume = checkpoint_to_resume(str(args.output_dir), args.resume_from_checkpoint, settings)
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
    return TrainRun(
        data=data,
        model_arguments=model_arguments,
        args=args,
        given=given,
        captions=captions,
        model=model,
        processor=processor,
        adapters=adapters,
        clips=TrainingClips(data, sources, cache, rank=args.process_index, world_size=args.world_size),
        frames=frames,
        near_misses=near_misses,
        settings=settings,
        resume=None if resume is None else str(resume),
        started=started,
    )


def add_memory(
    run: TrainRun, collator: VideoCaptionCollator, training: ClipDataset | StreamedClips
) -> FittedMemory | None:
    """Fit the caption memory, unless it is switched off or features change in training; `None` without one."""
    if run.model_arguments.memory_weight == 0 or not isinstance(training, ClipDataset):
        return None
    if not keeps_features(run.model.config):
        return None
    fitted = fit_memory(run.model, collator, training, seed=run.args.draw_seed)
    if fitted is not None:
        training.video_words = fitted.video_words
        run.model.to(run.args.device)  # type: ignore[arg-type]
    return fitted


def make_trainer(
    run: TrainRun, collator: VideoCaptionCollator, training: ClipDataset | StreamedClips, validation: ClipDataset
) -> VideoCaptionTrainer:
    """Choose the precision, warn of too little time, and make the Trainer."""
    args, model = run.args, run.model
    self_critical = None
    if args.self_critical_samples:
        self_critical = SelfCriticalLoss(run.processor, CiderReward(run.captions), samples=args.self_critical_samples)
    if args.device.type == "cpu":
        model.set_attn_implementation({"": "eager"})  # faster there for short sequences, in every precision
    manifest = None if run.resume is None else read_manifest(run.resume)
    choose_precision(args, run.given, model, collator, validation, manifest=manifest)
    if run.resume is None:
        check_passes(args, model, collator, training, validation)
    return VideoCaptionTrainer(
        model=model,
        args=args,
        train_dataset=training,
        eval_dataset=validation,
        data_collator=dataclasses.replace(
            collator, draw=True, references=self_critical is not None, near_misses=run.near_misses
        ),
        eval_collator=collator,
        processing_class=run.processor,
        score=score_captions,
        score_clips=scores_per_clip,
        self_critical=self_critical,
        settings=run.settings,
    )


def finish_run(run: TrainRun, history: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Export, evaluate, report and push a trained model, on one process.

    Args:
        history: Log of the training.
        facts: Further facts for the report.
    """
    args, model, processor = run.args, run.model, run.processor
    if broken := [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]:
        raise ValueError(
            f"training diverged: {broken[0]} and {len(broken) - 1} other tensors hold NaN or infinities, so nothing "
            "was exported; lower --learning_rate, and add --resume_from_checkpoint no"
        )
    # Before the evaluation as well, which may fail or be cut off; an earlier model's scores do not belong to this one.
    directory = export_model(model, processor, str(args.output_dir))
    remove_reports(directory)
    evaluation = evaluate_on_test(run)
    report = report_of_run(run, evaluation, facts | {"total_seconds": time.perf_counter() - run.started})
    samples, pictures = sample_clips(evaluation.examples)
    export_model(model, processor, directory, facts=report | {"samples": samples}, samples=pictures)
    write_run(directory, report, evaluation.examples, history)
    if skipped := len(run.clips.skipped):
        logger.warning(f"{skipped} clips could not be read and were left out; report.json lists them")
    if run.clips.cache.limit is not None:
        run.clips.cache.limit.trim()
    mark_finished(str(args.output_dir))
    logger.info(f"model and report: {directory}")
    if args.push_to_hub:
        access: dict[str, Any] = {"private": args.hub_private_repo, "token": args.hub_token}
        logger.info(f"pushed: {push_to_hub(directory, args.repository, **access, model=model, processor=processor)}")
