"""The captioner that a run trains: built for its captions, or one that was trained before."""

import dataclasses
import logging
from typing import Any

from transformers import GenerationConfig

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from modeling_vidcap.pretrained.backbones import load_backbone, trained_part
from modeling_vidcap.pretrained.text import check_language_model, fill_embeddings, load_embeddings, load_language_model
from modeling_vidcap.settings_vidcap import check_guidance, check_similarity
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor
from processing.clips.tokenizers import load_tokenizer, train_tokenizer

from ..inference.loading import load_captioner
from .arguments.model_arguments import ModelArguments
from .data import public_name

logger = logging.getLogger("vidcap")
MAX_UNKNOWN = 0.3  # share of the words that a model to go on from may lack
SIMILARITY_WEIGHT = 0.1  # of `generate`, chosen on held-out clips (docs/log.md)


def make_captioner(
    model_args: ModelArguments, captions: list[str], corpus: list[str], given: set[str]
) -> tuple[Any, Any]:
    """Processor and model as the arguments ask for them: by [`build`] or [`continue_from`].

    Args:
        captions: Those of the training clips.
        corpus: Sentences that the decoder is to read first.
        given: Names of the options that were given; the others are defaults.
    """
    if model_args.model_name_or_path is None:
        return build(model_args, captions, corpus, given)
    if corpus:
        raise ValueError(
            "--text_corpus prepares a decoder that has seen no clip; leave out --model_name_or_path or it"
        )
    return continue_from(model_args, captions, given)


def continue_from(model_args: ModelArguments, captions: list[str], given: set[str]) -> tuple[Any, Any]:
    """A trained captioner and its processor; what shapes the loss, and what is trained, follows the arguments given.

    Raises:
        ValueError: If its tokenizer knows hardly any word of the captions, or an architecture option was given.
    """
    changeable = (
        *("word_dropout", "video_dropout", "frame_dropout", "color_dropout", "scheduled_sampling", "label_smoothing"),
        *("caption_weight", "masked_word_weight", "contrastive_weight", "reversed_negatives"),
    )
    decoding = ("num_beams", "similarity_weight", "guidance_scale")
    freezing = ("freeze_backbone", "trained_backbone_stages", "freeze_decoder")
    free = {*changeable, *decoding, *freezing, "model_name_or_path", "lora", "lora_rank", "lora_alpha"}
    fixed = {each.name for each in dataclasses.fields(ModelArguments)} - free
    if names := sorted(fixed & given):
        raise ValueError(f"--{names[0]} is a matter of the model in {model_args.model_name_or_path}; leave it out")
    model, processor = load_captioner(str(model_args.model_name_or_path), device="cpu")
    for name in given.intersection(changeable):
        setattr(model.config, name, getattr(model_args, name))
    if changes := {name: getattr(model_args, name) for name in given.intersection(freezing)}:
        if "trained_backbone_stages" in changes:
            changes = {"freeze_backbone": False} | changes
        elif "freeze_backbone" in changes:  # all or nothing of it, whatever was trained before
            changes["trained_backbone_stages"] = None
        for name, value in changes.items():
            setattr(model.config, name, value)
        model = _built_anew(model)
    VideoCaptionConfig.from_dict(model.config.to_dict())  # refuses what cannot work together
    if not model.config.contrastive_weight:
        model.generation_config.similarity_weight = 0.0  # type: ignore[attr-defined]  # its embeddings will not keep up with the rest
    for name in given.intersection(decoding):
        setattr(model.generation_config, name, getattr(model_args, name))
    check_guidance(model.config, model.generation_config.guidance_scale)
    check_similarity(model.config, getattr(model.generation_config, "similarity_weight", None))
    logger.info(f"backbone: the captioner's own, {trained_part(model.backbone)}")
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


def _built_anew(model: Any) -> Any:
    """The same weights in a model that heeds what its config now says of what is frozen."""
    config = VideoCaptionConfig.from_dict(model.config.to_dict())
    again = VideoCaptionForConditionalGeneration(config)
    again.load_state_dict(model.state_dict())
    again.generation_config = model.generation_config
    return again


def build(model_args: ModelArguments, captions: list[str], corpus: list[str], given: set[str]) -> tuple[Any, Any]:
    """Processor and model for these captions; words of the corpus join the vocabulary where there is room."""
    backbone = load_backbone(
        model_args.backbone,
        grid=model_args.feature_grid,
        stages=model_args.backbone_stages,
        frozen=model_args.freeze_backbone,
        trained_stages=model_args.trained_backbone_stages,
    )
    # What the backbone was made for, unless the user wants something else.
    for name, wanted in (("image_size", backbone.image_size), ("num_frames", backbone.num_frames)):
        if wanted is None or wanted == getattr(model_args, name):
            continue
        if name not in given:
            setattr(model_args, name, wanted)
        elif name in backbone.fixed:
            raise ValueError(
                f"--{name} {getattr(model_args, name)}: {model_args.backbone} takes {wanted}; leave --{name} out"
            )
    tokenizer: Any
    table = language_model = None
    if model_args.decoder is not None:
        for name in ("tokenizer", "text_embeddings", "text_layers", "multimodal_layers", "stochastic_depth"):
            if name in given:
                raise ValueError(f"--{name} is not for a pretrained --decoder, which has its own: leave it out")
        if corpus:
            raise ValueError("--text_corpus is for a decoder that has read nothing: leave it or --decoder out")
        check_language_model(model_args.decoder, fusion=model_args.fusion)
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
    video_processor = VideoCaptionVideoProcessor(
        num_frames=model_args.num_frames,
        size={"height": model_args.image_size, "width": model_args.image_size},
        image_mean=list(backbone.pixel_mean),
        image_std=list(backbone.pixel_std),
    )
    processor = VideoCaptionProcessor(video_processor=video_processor, tokenizer=tokenizer)
    own = {each.name for each in dataclasses.fields(VideoCaptionConfig)}
    sizes = {name: value for name, value in dataclasses.asdict(model_args).items() if name in own}
    words = {"vocab_size": len(tokenizer)}
    if table is not None:  # which may be rounded up
        words = {"vocab_size": max(len(tokenizer), len(table)), "embedding_size": table.shape[1]}
    elif language_model is not None:
        words = language_model.settings
    config = VideoCaptionConfig(
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
    model = VideoCaptionForConditionalGeneration(config)
    logger.info(backbone.fill(model.backbone))
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
