"""The captioner that a run trains, new or trained before."""

import dataclasses
import logging
from collections.abc import Collection
from typing import Any, NamedTuple

import datasets
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from modeling_vidcap.pretrained.backbones import EFFICIENTNETS, Backbone, load_backbone, trained_part
from modeling_vidcap.pretrained.text import (
    LanguageModel,
    check_language_model,
    fill_embeddings,
    load_embeddings,
    load_language_model,
)
from modeling_vidcap.settings_vidcap import check_guidance, check_similarity
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor
from processing.clips.tokenizers import load_tokenizer, train_tokenizer

from ..files import public_name
from ..inference.loading import load_captioner
from .arguments.model_arguments import ModelArguments
from .frame_size import SQUARE, fitting_frame_size

logger = logging.getLogger(__name__)
MAX_UNKNOWN = 0.3  # share of the words that the tokenizer of a model to continue from may lack
SIMILARITY_WEIGHT = 0.1  # of `generate`, chosen on held-out clips (docs/log.md)
# Options that may differ from those of a model to continue from: its losses, its caption search, what is trained.
LOSSES = (
    *("word_dropout", "video_dropout", "frame_dropout", "color_dropout", "scheduled_sampling", "label_smoothing"),
    *("caption_weight", "masked_word_weight", "contrastive_weight", "reversed_negatives"),
)
SEARCH = ("num_beams", "similarity_weight", "memory_weight", "guidance_scale")
FREEZING = ("freeze_backbone", "trained_backbone_stages", "freeze_decoder")


class Captioner(NamedTuple):
    """A model to train, its processor, and its options, defaults filled in."""

    model: VideoCaptionForConditionalGeneration
    processor: VideoCaptionProcessor
    arguments: ModelArguments


class Text(NamedTuple):
    """The tokenizer of a new captioner, and pretrained weights for its decoder."""

    tokenizer: PreTrainedTokenizerBase
    embeddings: torch.Tensor | None = None
    language_model: LanguageModel | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The part of a [`VideoCaptionConfig`] that follows from them."""
        if self.language_model is not None:
            return self.language_model.settings
        if self.embeddings is not None:  # a table of embeddings may be rounded up
            size = max(len(self.tokenizer), len(self.embeddings))
            return {"vocab_size": size, "embedding_size": self.embeddings.shape[1]}
        return {"vocab_size": len(self.tokenizer)}


def make_captioner(
    arguments: ModelArguments,
    captions: list[str],
    corpus: list[str],
    given: Collection[str],
    clips: datasets.Dataset,
) -> Captioner:
    """Make the model and processor that the options ask for.

    Args:
        captions: Training captions.
        corpus: Sentences that the decoder is trained on first.
        given: Names of the options that were given.
        clips: Rows whose clips show the shape of frames.
    """
    if arguments.model_name_or_path is None:
        return build(arguments, captions, corpus, given, clips)
    if corpus:
        raise ValueError("--text_corpus trains a new decoder; leave out --model_name_or_path or --text_corpus")
    return continue_from(arguments, captions, given)


def continue_from(arguments: ModelArguments, captions: list[str], given: Collection[str]) -> Captioner:
    """Load a trained captioner, and apply the given options.

    Raises:
        ValueError: If its tokenizer lacks most words of the captions, or another option of the model was given.
    """
    source = str(arguments.model_name_or_path)
    free = {*LOSSES, *SEARCH, *FREEZING, "model_name_or_path", "lora", "lora_rank", "lora_alpha"}
    fixed = {each.name for each in dataclasses.fields(ModelArguments)} - free
    if names := sorted(fixed.intersection(given)):
        raise ValueError(f"--{names[0]} is fixed by the model in {source}; leave it out")
    model, processor = load_captioner(source, device="cpu")
    for name in set(LOSSES).intersection(given):
        setattr(model.config, name, getattr(arguments, name))
    if changes := {name: getattr(arguments, name) for name in FREEZING if name in given}:
        if "trained_backbone_stages" in changes:
            changes = {"freeze_backbone": False} | changes
        elif "freeze_backbone" in changes:  # the whole backbone, whatever was trained before
            changes["trained_backbone_stages"] = None
        for name, value in changes.items():
            setattr(model.config, name, value)
        model = _rebuild(model)
    VideoCaptionConfig.from_dict(model.config.to_dict())  # refuses what cannot work together
    search: Any = model.generation_config  # this package adds attributes to it
    if not model.config.contrastive_weight:
        search.similarity_weight = 0.0  # embeddings will not keep up with the rest of the model
    for name in set(SEARCH).intersection(given):
        setattr(search, name, getattr(arguments, name))
    check_guidance(model.config, search.guidance_scale)
    check_similarity(model.config, getattr(search, "similarity_weight", None))
    logger.info(f"backbone: the captioner's own, {trained_part(model.backbone)}")
    tokens = processor.tokenizer(captions)["input_ids"]
    unknown = sum(ids.count(model.config.unk_token_id) for ids in tokens) / sum(map(len, tokens))
    logger.info(f"continuing from {public_name(source)}; its tokenizer lacks {unknown:.1%} of the words")
    if unknown > MAX_UNKNOWN:
        raise ValueError(
            f"{source}: its tokenizer lacks {unknown:.0%} of the words of these captions (at most {MAX_UNKNOWN:.0%} "
            "are allowed); train a new model without --model_name_or_path"
        )
    return Captioner(model, processor, arguments)


def _rebuild(model: VideoCaptionForConditionalGeneration) -> VideoCaptionForConditionalGeneration:
    """A model of the same weights, frozen as its config now says."""
    rebuilt = VideoCaptionForConditionalGeneration(VideoCaptionConfig.from_dict(model.config.to_dict()))
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.generation_config = model.generation_config
    return rebuilt


def build(
    arguments: ModelArguments,
    captions: list[str],
    corpus: list[str],
    given: Collection[str],
    clips: datasets.Dataset,
) -> Captioner:
    """Build a new captioner, with a vocabulary of captions and corpus."""
    backbone = load_backbone(
        arguments.backbone,
        grid=arguments.feature_grid,
        stages=arguments.backbone_stages,
        frozen=arguments.freeze_backbone,
        trained_stages=arguments.trained_backbone_stages,
    )
    arguments = _with_backbone_defaults(arguments, backbone, given)
    if arguments.image_size is None:
        fitted = arguments.backbone in EFFICIENTNETS and backbone.settings["freeze_backbone"]
        height, width = fitting_frame_size(clips) if fitted else SQUARE
        arguments = dataclasses.replace(arguments, image_size=[width, height])
        logger.info(f"frames: {width} x {height} pixels")
    sides = arguments.image_size or [*SQUARE]
    width, height = sides[0], sides[-1]  # one number is both
    text = _load_text(arguments, captions, corpus, given)
    video_processor = VideoCaptionVideoProcessor(
        num_frames=arguments.num_frames,
        size={"height": height, "width": width},
        image_mean=list(backbone.pixel_mean),
        image_std=list(backbone.pixel_std),
    )
    processor = VideoCaptionProcessor(video_processor=video_processor, tokenizer=text.tokenizer)
    config = _make_config(arguments, backbone, text)
    check_guidance(config, arguments.guidance_scale)
    if arguments.similarity_weight is None:
        weight = SIMILARITY_WEIGHT if config.contrastive_weight else 0.0
        arguments = dataclasses.replace(arguments, similarity_weight=weight)
    check_similarity(config, arguments.similarity_weight)
    model = VideoCaptionForConditionalGeneration(config)
    logger.info(backbone.fill(model.backbone))
    if text.embeddings is not None:
        logger.info(fill_embeddings(model, text.embeddings))
    if text.language_model is not None:
        logger.info(text.language_model.fill(model))
    model.generation_config = GenerationConfig(
        max_new_tokens=arguments.max_caption_length,
        num_beams=arguments.num_beams,
        similarity_weight=arguments.similarity_weight,
        memory_weight=0.0,  # until training has chosen it
        guidance_scale=arguments.guidance_scale if arguments.guidance_scale != 1 else None,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        suppress_tokens=[config.unk_token_id, config.bos_token_id],
    )
    return Captioner(model, processor, arguments)


def _with_backbone_defaults(arguments: ModelArguments, backbone: Backbone, given: Collection[str]) -> ModelArguments:
    """Options with the frames that the backbone was made for, unless others were given."""
    changes: dict[str, Any] = {}
    size = None if backbone.image_size is None else [backbone.image_size]
    for name, value in (("image_size", size), ("num_frames", backbone.num_frames)):
        current = getattr(arguments, name)
        if value is None or value == current:
            continue
        if name not in given:
            changes[name] = value
        elif name in backbone.fixed:
            shown, taken = (" ".join(map(str, each)) if isinstance(each, list) else each for each in (current, value))
            raise ValueError(f"--{name} {shown}: {arguments.backbone} takes {taken}; leave --{name} out")
    return dataclasses.replace(arguments, **changes)


def _load_text(arguments: ModelArguments, captions: list[str], corpus: list[str], given: Collection[str]) -> Text:
    length = arguments.max_caption_length
    if arguments.decoder is not None:
        for name in ("tokenizer", "text_embeddings", "text_layers", "multimodal_layers", "stochastic_depth"):
            if name in given:
                raise ValueError(f"--{name} is fixed by a pretrained --decoder; leave one of them out")
        if corpus:
            raise ValueError("--text_corpus trains a new decoder; leave out --decoder or --text_corpus")
        check_language_model(arguments.decoder, fusion=arguments.fusion)
        tokenizer = load_tokenizer(arguments.decoder, max_length=length)
        model = load_language_model(arguments.decoder, fusion=arguments.fusion, vocab_size=len(tokenizer))
        return Text(tokenizer, language_model=model)
    if arguments.text_embeddings is not None:
        if arguments.tokenizer not in (None, arguments.text_embeddings):
            raise ValueError("--text_embeddings brings the tokenizer of its own model; leave --tokenizer out")
        tokenizer = load_tokenizer(arguments.text_embeddings, max_length=length)
        return Text(tokenizer, embeddings=load_embeddings(arguments.text_embeddings))
    if arguments.tokenizer is not None:
        return Text(load_tokenizer(arguments.tokenizer, max_length=length))
    return Text(train_tokenizer(captions, corpus, vocab_size=arguments.max_vocab_size, max_length=length))


def _make_config(arguments: ModelArguments, backbone: Backbone, text: Text) -> VideoCaptionConfig:
    names = {each.name for each in dataclasses.fields(VideoCaptionConfig)}
    sizes = {name: value for name, value in dataclasses.asdict(arguments).items() if name in names}
    tokenizer = text.tokenizer
    return VideoCaptionConfig(
        **(sizes | backbone.settings | text.settings),
        max_position_embeddings=arguments.max_caption_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        unk_token_id=tokenizer.unk_token_id,
    )
