"""Train a video captioner on a folder or Hub data set of captioned clips.

    python train_hf.py --dataset FOLDER --output_dir DIR
    python train_hf.py --dataset FOLDER --output_dir DIR --max_train_minutes 6
    python train_hf.py --dataset FOLDER user/name clips.csv --dataset_weights 2 1 1 --output_dir DIR
    python train_hf.py recipes/demo.yaml --dataset FOLDER --output_dir DIR
    python train_hf.py --dataset user/name --output_dir DIR --streaming --max_steps 10000 --push_to_hub
    torchrun --nproc_per_node 2 train_hf.py --dataset FOLDER --output_dir DIR

The same command, given again after a run was interrupted, goes on from its last checkpoint.

`DIR` then loads by `AutoModel.from_pretrained`, `pipeline("video-captioning")` and `vidcap caption --model DIR`;
scores and controls on the test split are in `DIR/report.json` and `.html`. A YAML file gives the same arguments.
"""

import dataclasses
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, set_seed

import vidcap
from hub_card.exporter import export_model, push_to_hub
from modeling_vidcap.checkpoints import checkpoint_to_resume, mark_finished, read_manifest, run_settings
from modeling_vidcap.command_line import parse
from modeling_vidcap.generation_vidcap import check_guidance, check_similarity
from modeling_vidcap.lora import add_lora, merge_lora
from modeling_vidcap.parameter_groups import own_rates
from modeling_vidcap.precision import choose_precision
from modeling_vidcap.pretrained_backbones import load_backbone
from modeling_vidcap.pretrained_text import fill_embeddings, load_embeddings, load_language_model
from modeling_vidcap.ranks import from_each_rank
from modeling_vidcap.self_critical import SelfCriticalLoss
from modeling_vidcap.text_warmup import read_corpus, warm_up_text
from modeling_vidcap.training_arguments import DataArguments, ModelArguments, VideoCaptionTrainingArguments, chosen
from modeling_vidcap.training_vidcap import VideoCaptionTrainer
from processing.augmentation import ClipAugmentation
from processing.captions import load_tokenizer, train_tokenizer
from processing.collator import VideoCaptionCollator
from processing.datasets import ClipDataset
from processing.near_misses import NearMisses
from processing.streams import StreamedClips
from vidcap.clip_cache import keeps_features, open_clip_cache
from vidcap.evaluation import score_captions
from vidcap.evaluation.bootstrap import scores_per_clip
from vidcap.evaluation.evaluate import coverage_of, evaluate_model, peak_rss_mb
from vidcap.evaluation.examples import sample_clips
from vidcap.evaluation.report import plot_history, write_report
from vidcap.evaluation.reward import CiderReward
from vidcap.evaluation.words import word_facts
from vidcap.loading import load_captioner
from vidcap.run_facts import run_facts
from vidcap.training_data import load_training_data, public_name, public_names

logger = logging.getLogger("vidcap")
MAX_UNKNOWN = 0.3  # share of the words that a model to go on from may lack
SIMILARITY_WEIGHT = 0.1  # of `generate`, chosen on held-out clips (docs/log.md)
NOVELTY_SAMPLE = 5_000  # training clips that tell what is usual


def main(argv: list[str] | None = None) -> int:
    """Runs one training; errors of the user's making become one line and status 1."""
    started = time.perf_counter()
    data, model_args, args, given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s")
    for name in ("vidcap", "modeling_vidcap"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        train(data, model_args, args, given, started)
    except (ValueError, ImportError, OSError) as error:
        if os.environ.get("VIDCAP_DEBUG"):
            raise
        print(f"train_hf.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def train(
    data: DataArguments,
    model_args: ModelArguments,
    args: VideoCaptionTrainingArguments,
    given: set[str],
    started: float,
) -> None:
    """One run.

    Args:
        given: Names of the options that were given; the others are defaults.
        started: `time.perf_counter()` at its start.
    """
    assert args.output_dir is not None  # transformers sets a default
    set_seed(args.seed)
    skipped: list[dict[str, str]] = []

    def skip(file_name: str, reason: str) -> None:
        skipped.append({"file_name": file_name, "reason": reason})

    on_broken = skip if data.skip_broken_clips else None
    words = data.direction_words.split(",") if data.direction_words else ()
    augmentation = ClipAugmentation.from_parts(data.augment, direction_words=words)
    if words and not augmentation.flip:
        raise ValueError("--direction_words keep clips from being mirrored: add flip to --augment, or leave them out")
    corpus = read_corpus(data.text_corpus) if data.text_corpus else []
    sources = load_training_data(data, args)
    by_clip = sources.captions()
    captions = [caption for of_clip in by_clip for caption in of_clip]
    if model_args.model_name_or_path is None:
        processor, model = build(model_args, captions, corpus, given)
    elif corpus:
        raise ValueError(
            "--text_corpus prepares a decoder that has seen no clip; leave out --model_name_or_path or it"
        )
    else:
        processor, model = continue_from(model_args, captions, given)
    adapters = add_lora(model, model_args.lora or (), rank=model_args.lora_rank, alpha=model_args.lora_alpha)
    own_rates(model, args)  # refuses those of what is not trained
    if data.feature_backend != "torch" and not keeps_features(model.config):
        raise ValueError(
            f"--feature_backend {data.feature_backend} is for a frozen backbone, and this one is trained: leave it out"
        )
    logger.info(
        f"parameters: {model.num_parameters():,}, of them trained: {model.num_parameters(only_trainable=True):,}"
    )

    model.to(args.device)
    if keeps_features(model.config) and not data.streaming:
        augmentation.check_features()
    num_frames = processor.video_processor.num_frames
    pool = data.frame_pool or num_frames
    if pool < num_frames:
        raise ValueError(
            f"--frame_pool {pool}: {num_frames} frames are drawn of it; give as many or more, or lower --num_frames"
        )
    if pool > num_frames:
        augmentation = dataclasses.replace(augmentation, num_frames=num_frames)
    near_misses = near_misses_of(data, model, by_clip)
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
    ranks: Any = {"rank": args.process_index, "world_size": args.world_size, "gather": from_each_rank}
    validation = ClipDataset(sources.validation, cache).prepare("validation clips", on_broken=on_broken, **ranks)
    if data.streaming:
        clips: Any = StreamedClips(
            sources.train,
            processor,
            num_frames=pool,
            workers=data.decoding_workers,
            on_broken=on_broken,
            augmentation=augmentation,
            seed=args.seed,
            mixture=sources.mixture,
        )
    else:
        clips = ClipDataset(sources.train, cache.with_frames(pool), augmentation=augmentation, mixture=sources.mixture)
        clips = clips.prepare("training clips", on_broken=on_broken, **ranks)

    eval_collator = VideoCaptionCollator(processor, max_length=model.config.max_position_embeddings)
    collator = dataclasses.replace(
        eval_collator, draw=True, references=args.self_critical_samples > 0, near_misses=near_misses
    )
    self_critical = None
    if args.self_critical_samples:
        reward = CiderReward(by_clip)
        self_critical = SelfCriticalLoss(processor, reward, samples=args.self_critical_samples)
    if args.device.type == "cpu":
        model.set_attn_implementation({"": "eager"})  # faster there for short sequences, whatever the precision
    if resume is not None and "bf16" in (manifest := read_manifest(resume)):
        args.bf16 = manifest["bf16"]
        args.mixed_precision = "bf16" if args.bf16 else args.mixed_precision
    else:
        choose_precision(args, given, model, eval_collator, validation)
    trainer = VideoCaptionTrainer(
        model=model,
        args=args,
        train_dataset=clips,
        eval_dataset=validation,
        data_collator=collator,
        eval_collator=eval_collator,
        processing_class=processor,
        score=score_captions,
        score_clips=scores_per_clip,
        self_critical=self_critical,
        settings=settings,
        started=started,
    )
    training_started = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trained = time.perf_counter()
    model = trainer.whole_model()
    merge_lora(adapters)
    clips.augmentation = None
    fit_novelty(model, collator, clips, validation)
    if not trainer.is_world_process_zero():
        return

    report: dict[str, Any] = {"train_seconds": trained - (started if args.max_train_minutes else training_started)}
    examples: list[Any] = []
    predictions: list[Any] = []
    if sources.test is not None:
        test = ClipDataset(sources.test, cache).prepare("test clips", on_broken=on_broken)
        evaluation = evaluate_model(model, processor, test, train_captions=captions)
        report |= evaluation.report | {"coverage": coverage_of(sources.test, test)}
        examples, predictions = evaluation.examples, evaluation.predictions
    else:
        logger.info(f"no {data.test_split} split: the report holds no scores")
    history = trainer.state.log_history
    report |= {
        "total_seconds": time.perf_counter() - started,
        "steps": trainer.state.global_step,
        "peak_rss_mb": peak_rss_mb(),
        "parameters": model.num_parameters(),
        "skipped_clips": skipped,
        "data_sets": sources.facts(),
        "words": word_facts(captions, predictions, report.get("grounding")),
        "arguments": {
            **dataclasses.asdict(data),
            "dataset": public_names(data.dataset),
            "feature_cache": None,
            "text_corpus": public_name(data.text_corpus),
            **dataclasses.asdict(model_args),
            "backbone": public_name(model_args.backbone),
            "tokenizer": public_name(model_args.tokenizer),
            "text_embeddings": public_name(model_args.text_embeddings),
            "decoder": public_name(model_args.decoder),
            "model_name_or_path": public_name(model_args.model_name_or_path),
            **chosen(args),
        },
    }
    report |= run_facts(given, report["arguments"], processes=args.world_size)
    samples, pictures = sample_clips(examples)
    directory = export_model(model, processor, args.output_dir, facts=report | {"samples": samples}, samples=pictures)
    write_report(directory, report, examples=examples, history=history)
    plot_history(history, directory / "training_curve.png")
    (directory / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    if skipped:
        logger.warning(f"{len(skipped)} clips could not be read and were left out; they are listed in report.json")
    if cache.limit is not None:
        cache.limit.trim()
    mark_finished(args.output_dir)
    logger.info(f"model and report: {directory}")
    if args.push_to_hub:
        access: Any = {"private": args.hub_private_repo, "token": args.hub_token}
        logger.info(f"pushed: {push_to_hub(directory, args.repository, **access, model=model, processor=processor)}")


def continue_from(model_args: ModelArguments, captions: list[str], given: set[str]) -> tuple[Any, Any]:
    """A trained captioner and its processor; only what shapes the loss follows the arguments that were given.

    Raises:
        ValueError: If its tokenizer knows hardly any word of the captions, or an architecture option was given.
    """
    changeable = (
        *("word_dropout", "video_dropout", "frame_dropout", "color_dropout", "scheduled_sampling", "label_smoothing"),
        *("caption_weight", "masked_word_weight", "contrastive_weight", "reversed_negatives"),
    )
    decoding = ("num_beams", "similarity_weight", "guidance_scale")
    free = {*changeable, *decoding, "model_name_or_path", "lora", "lora_rank", "lora_alpha"}
    fixed = {each.name for each in dataclasses.fields(ModelArguments)} - free
    if names := sorted(fixed & given):
        raise ValueError(f"--{names[0]} is a matter of the model in {model_args.model_name_or_path}; leave it out")
    model, processor = load_captioner(str(model_args.model_name_or_path), device="cpu")
    for name in given.intersection(changeable):
        setattr(model.config, name, getattr(model_args, name))
    vidcap.VideoCaptionConfig.from_dict(model.config.to_dict())  # refuses what cannot work together
    if not model.config.contrastive_weight:
        model.generation_config.similarity_weight = 0.0  # its embeddings will not keep up with the rest
    for name in given.intersection(decoding):
        setattr(model.generation_config, name, getattr(model_args, name))
    check_guidance(model.config, model.generation_config.guidance_scale)
    check_similarity(model.config, getattr(model.generation_config, "similarity_weight", None))
    tokens = processor.tokenizer(captions)["input_ids"]
    unknown = sum(ids.count(model.config.unk_token_id) for ids in tokens) / sum(map(len, tokens))
    logger.info(
        f"going on from {public_name(model_args.model_name_or_path)}; its tokenizer lacks {unknown:.1%} of the words"
    )
    if unknown > MAX_UNKNOWN:
        raise ValueError(
            f"{model_args.model_name_or_path}: its tokenizer lacks {unknown:.0%} of the words of these captions (at "
            f"most {MAX_UNKNOWN:.0%}); train a new model without --model_name_or_path"
        )
    return processor, model


def build(model_args: ModelArguments, captions: list[str], corpus: list[str], given: set[str]) -> tuple[Any, Any]:
    """Processor and model for these captions; words of the corpus join the vocabulary where there is room."""
    backbone = load_backbone(
        model_args.backbone,
        grid=model_args.feature_grid,
        stages=model_args.backbone_stages,
        frozen=model_args.freeze_backbone,
        trained_stages=model_args.trained_backbone_stages,
    )
    # What the backbone insists on, unless the user insists on something else.
    for name, wanted in (("image_size", backbone.image_size), ("num_frames", backbone.num_frames)):
        if wanted is None or wanted == getattr(model_args, name):
            continue
        if name in given:
            raise ValueError(
                f"--{name} {getattr(model_args, name)}: {model_args.backbone} takes {wanted}; leave --{name} out"
            )
        setattr(model_args, name, wanted)
    tokenizer: Any
    table = language_model = None
    if model_args.decoder is not None:
        for name in ("tokenizer", "text_embeddings", "text_layers", "multimodal_layers", "stochastic_depth"):
            if name in given:
                raise ValueError(f"--{name} is not for a pretrained --decoder, which has its own: leave it out")
        if corpus:
            raise ValueError("--text_corpus is for a decoder that has read nothing: leave it or --decoder out")
        tokenizer = load_tokenizer(model_args.decoder, max_length=model_args.max_caption_length)
        language_model = load_language_model(model_args.decoder, fusion=model_args.fusion, vocab_size=len(tokenizer))
    elif model_args.text_embeddings is not None:
        if model_args.tokenizer not in (None, model_args.text_embeddings):
            raise ValueError("--text_embeddings are for the tokenizer of the same model: leave --tokenizer out")
        tokenizer = load_tokenizer(model_args.text_embeddings, max_length=model_args.max_caption_length)
        table = load_embeddings(model_args.text_embeddings)
    elif model_args.tokenizer is None:
        tokenizer = train_tokenizer(
            captions, corpus, vocab_size=model_args.max_vocab_size, max_length=model_args.max_caption_length
        )
    else:
        tokenizer = load_tokenizer(model_args.tokenizer, max_length=model_args.max_caption_length)
    video_processor = vidcap.VideoCaptionVideoProcessor(
        num_frames=model_args.num_frames,
        size={"height": model_args.image_size, "width": model_args.image_size},
        image_mean=list(backbone.pixel_mean),
        image_std=list(backbone.pixel_std),
    )
    processor = vidcap.VideoCaptionProcessor(video_processor=video_processor, tokenizer=tokenizer)
    own = {each.name for each in dataclasses.fields(vidcap.VideoCaptionConfig)}
    sizes = {name: value for name, value in dataclasses.asdict(model_args).items() if name in own}
    words = {"vocab_size": len(tokenizer)}
    if table is not None:  # which may be rounded up
        words = {"vocab_size": max(len(tokenizer), len(table)), "embedding_size": table.shape[1]}
    elif language_model is not None:
        words = language_model.settings
    config = vidcap.VideoCaptionConfig(
        **(sizes | backbone.settings | words),
        max_position_embeddings=model_args.max_caption_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        unk_token_id=tokenizer.unk_token_id,
    )
    check_guidance(config, model_args.guidance_scale)
    if model_args.similarity_weight is None:
        model_args.similarity_weight = SIMILARITY_WEIGHT if config.contrastive_weight else 0.0
    check_similarity(config, model_args.similarity_weight)
    model = vidcap.VideoCaptionForConditionalGeneration(config)
    logger.info(backbone.fill(model.model.encoder.backbone))
    if table is not None:
        logger.info(fill_embeddings(model, table))
    if language_model is not None:
        logger.info(language_model.fill(model))
    model.generation_config = GenerationConfig(
        max_new_tokens=model_args.max_caption_length,
        num_beams=model_args.num_beams,
        similarity_weight=model_args.similarity_weight,
        guidance_scale=model_args.guidance_scale if model_args.guidance_scale != 1 else None,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        suppress_tokens=[config.unk_token_id, config.bos_token_id],
    )
    return processor, model


def near_misses_of(data: DataArguments, model: Any, captions: Sequence[Sequence[str]]) -> NearMisses | None:
    if data.near_misses is None:
        return None
    if not model.config.contrastive_weight:
        raise ValueError("--near_misses are for the contrastive loss: set --contrastive_weight above 0")
    return NearMisses(captions, data.near_misses.split(","))


@torch.inference_mode()
def fit_novelty(model: Any, collator: VideoCaptionCollator, training: Any, validation: ClipDataset) -> None:
    """Stores in the model which clips are usual, so that it can tell when one is not."""
    model.eval()

    def summaries(clips: Any) -> Iterator[torch.Tensor]:
        few: Iterator[Any]
        if isinstance(clips, ClipDataset):  # spread over them: those of one source may stand together
            few = (clips[i] for i in range(0, len(clips), max(1, len(clips) // NOVELTY_SAMPLE)))
        else:
            few = clips.one_pass()
        few = itertools.islice(few, NOVELTY_SAMPLE)
        while batch := list(itertools.islice(few, 64)):
            inputs = {name: value.to(model.device) for name, value in collator.videos(batch).items()}
            features = inputs.get("video_features")
            if features is None:
                features = model.model.encoder.backbone(inputs["pixel_values_videos"])
            yield model.novelty.summarise(features, inputs["video_mask"]).cpu()

    model.novelty.fit(summaries(training), summaries(validation))


if __name__ == "__main__":
    sys.exit(main())
