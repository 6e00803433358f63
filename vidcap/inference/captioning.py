"""Tensors of many clips -> captions, with probabilities on request, or one vector each, in batches."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

import torch

from processing.clips.collator import VideoCaptionCollator

from ..captioner import Change, Clip, Clips, ScoredCaption, batches_of, best_first

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_vidcap import VideoCaptionForConditionalGeneration
    from modeling_vidcap.settings_vidcap import Forms
    from processing import VideoCaptionProcessor
    from processing.cache.feature_cache import ClipCache

    from ..light.model import LightCaptioner
    from ..light.processor import LightProcessor

Model = Union["VideoCaptionForConditionalGeneration", "LightCaptioner"]
Processor = Union["VideoCaptionProcessor", "LightProcessor"]


class ModelCaptioner:
    """The [`Captioner`] of a model of this package, with transformers or without.

    Args:
        model: The model.
        processor: Its processor.
    """

    gives_features = True
    left_out: Mapping[str, str] = {}

    def __init__(self, model: Model, processor: Processor):
        self.model: Any = model
        self.processor: Any = processor

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def generation_config(self) -> Any:
        return self.model.generation_config

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def video_processor(self) -> Any:
        return self.processor.video_processor

    def num_parameters(self) -> int:
        return self.model.num_parameters()

    def check_options(self, options: Mapping[str, Any], *, prefix: str = "") -> None:
        """Refuse a prompt, which models of this package do not take."""
        if options.get("prompt") is not None:
            raise ValueError(f"{prefix}prompt is for chat models, models of `vidcap train` take none: leave it out")

    def configure(self, *, num_frames: int | None = None, prompt: str | None = None) -> None:
        """Set the frames read per clip."""
        self.check_options({"prompt": prompt})
        if num_frames is not None:
            self.video_processor.num_frames = num_frames

    def use_backend(self, backend: str) -> None:
        """See [`use_fast_backbone`]."""
        from .backends import use_fast_backbone

        use_fast_backbone(self.model, self.processor, backend)

    def open_cache(
        self, *, folder: str | Path | None = None, backend: str = "auto", limit: float | None = None
    ) -> "ClipCache":
        """See [`open_clip_cache`]; if it keeps pixels, the backbone runs by `backend` when captioning."""
        from .clip_cache import keeps_features, open_clip_cache

        if keeps_features(self.config):
            return open_clip_cache(self.model, self.processor, folder=folder, backend=backend, limit=limit)
        self.use_backend(backend)
        return open_clip_cache(self.model, self.processor, folder=folder, limit=limit)

    def clip_encoder(self) -> Change | None:
        """`None` on a GPU and for a backbone that sees clips, where whole batches are faster."""
        if self.model.device.type != "cpu" or self.config.encodes_clips:
            return None
        collator = VideoCaptionCollator(self.processor)

        @torch.inference_mode()
        def encode(clip: Clip) -> Clip:
            real = clip["video_mask"].bool()  # padding of a short clip needs no features
            if not bool(real.all()):
                clip = {name: value[real] for name, value in clip.items()}
            batch = collator.videos([clip])
            batch["video_features"] = self.model.backbone(batch.pop("pixel_values_videos").to(self.model.dtype))
            return {name: value[0] for name, value in batch.items()}

        return encode

    def caption(
        self,
        clips: Clips,
        *,
        batch_size: int = 16,
        change: Change | None = None,
        progress: str | None = None,
        **generate_kwargs,
    ) -> list[str]:
        def caption(inputs: Clip) -> list[str]:
            tokens = self.model.generate(**(change(inputs) if change else inputs), **generate_kwargs)
            return self.processor.post_process_generation(tokens)

        return map_batches(caption, self.model, self.processor, clips, batch_size, progress)

    def caption_with_scores(
        self, clips: Clips, *, batch_size: int = 16, include: "Sequence[Forms]" = (), **generate_kwargs
    ) -> list[list[ScoredCaption]]:
        model, processor = self.model, self.processor
        sampled = generate_kwargs.get("do_sample", model.generation_config.do_sample)

        def caption(inputs: Clip) -> list[list[ScoredCaption]]:
            if "video_features" not in inputs:  # once for captions and novelty
                inputs["video_features"] = model.backbone(inputs.pop("pixel_values_videos").to(model.dtype))
            novelty = model.get_novelty(video_features=inputs["video_features"], video_mask=inputs["video_mask"])
            encoded = model.get_encoder()(**inputs)
            if include:
                from .phrases import generate_including

                sequences = generate_including(model, {"encoder_outputs": encoded}, include, **generate_kwargs)
            else:
                sequences = model.generate(encoder_outputs=encoded, **generate_kwargs)
            log_probabilities, mask = model.get_token_log_probabilities(sequences, encoded)
            texts = processor.batch_decode(sequences, skip_special_tokens=True)
            per_clip = len(sequences) // len(inputs["video_mask"])
            captions = [
                ScoredCaption(
                    text=texts[row].strip(),
                    tokens=processor.tokenizer.convert_ids_to_tokens(sequences[row, 1 : 1 + length].tolist()),
                    log_probabilities=log_probabilities[row, :length].tolist(),
                    novelty=None if novelty is None else novelty[row // per_clip].item(),
                )
                for row, length in enumerate(mask.sum(dim=1).tolist())
            ]
            groups = [captions[start : start + per_clip] for start in range(0, len(captions), per_clip)]
            return [best_first(group) for group in groups] if sampled else groups

        return map_batches(caption, model, processor, clips, batch_size, None)


def token_forms(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[list[int]]:
    """The ids of `text` at the start of a caption and, where the tokenizer attaches the space to the word, within one.

    Raises:
        ValueError: If it contains no word, or one that the tokenizer does not know.
    """
    text = " ".join(text.split())

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if unknown := [word for word in text.split() if set(ids(word)) & set(tokenizer.all_special_ids)]:
        raise ValueError(f"this model does not know the word {unknown[0]!r}")
    # Byte-pair tokenizers spell a word differently after a space; word-level ones do not.
    start, within = ids(text), ids(f" {text}")
    if not start:
        raise ValueError(f"{text!r} contains no word")
    return [start] if start == within else [start, within]


def embed_clips(
    model: "VideoCaptionForConditionalGeneration",
    processor: "VideoCaptionProcessor",
    clips: Clips,
    *,
    batch_size: int = 16,
) -> torch.Tensor:
    """`model.get_video_features` of many clips: `(N, P)`, L2-normalised."""
    return torch.stack(
        map_batches(lambda batch: list(model.get_video_features(**batch)), model, processor, clips, batch_size, None)
    )


@torch.inference_mode()
def embed_texts(
    model: "VideoCaptionForConditionalGeneration",
    processor: "VideoCaptionProcessor",
    texts: Sequence[str],
    *,
    batch_size: int = 64,
) -> torch.Tensor:
    """`model.get_text_features` of many captions: `(N, P)`, L2-normalised."""
    model.eval()
    embeds = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        tokens = processor.tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(model.device)
        embeds.append(model.get_text_features(tokens["input_ids"], tokens["attention_mask"]))
    return torch.cat(embeds)


@torch.inference_mode()
def map_batches(
    function: Callable[[Clip], list[Any]],
    model: Model,
    processor: Processor,
    clips: Clips,
    batch_size: int,
    progress: str | None,
) -> list[Any]:
    """The results of `function` for all clips, given batches of them on the model's device."""
    model.eval()
    collator = VideoCaptionCollator(cast("VideoCaptionProcessor", processor))
    results: list[Any] = []
    for batch in batches_of(clips, batch_size, progress):
        results += function({name: value.to(model.device) for name, value in collator.videos(list(batch)).items()})
    return results
