"""Loads an exported folder in every promised way and reports the results.

Run by its path, `python -I probe.py FOLDER_OR_HUB_ID RESULT.json [PART ...]` does so in a process that cannot import
this project, and therefore needs the code in the folder. At run time this file imports nothing of the project.
"""

import json
import sys
from collections.abc import Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    BaseVideoProcessor,
    PreTrainedTokenizerBase,
    pipeline,
)

if TYPE_CHECKING:
    from modeling_vidcap import VideoCaptionForConditionalGeneration
    from processing import VideoCaptionProcessor

TASK: Any = "video-captioning"  # transformers' types list its own tasks only
PACKAGES = ("hub_card", "modeling_vidcap", "processing", "train_hf", "vidcap")
PARTS = ("model", "processor")
MAX_NEW_TOKENS = 20


class NotInstalled(MetaPathFinder):
    """Hides this project's packages, however they are installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def probe(
    source: str, *, trust_remote_code: bool, parts: Collection[str] = PARTS, hub: dict[str, Any] | None = None
) -> dict[str, Any]:
    """
    Load a folder or repository through the Auto classes and `pipeline`, and caption two synthetic clips.

    Args:
        source (`str`): the exported folder, or a Hub id.
        trust_remote_code (`bool`): run the code in the folder; otherwise the package must have been imported.
        parts (`Collection[str]`): `"model"`, `"processor"` or both.
        hub (`dict`, *optional*): further options of `from_pretrained`, such as `revision`.

    Returns:
        `dict`: JSON values: the results of [`measure`], the names of the loaded `classes`, and `missing`, weights that
        only the model or only the file has. With both parts, the `captions` are those of the pipeline.
    """
    options: Any = {"trust_remote_code": trust_remote_code, **(hub or {})}
    loaded: list[Any] = []
    results: dict[str, Any] = {"missing": []}
    model = processor = None
    if "model" in parts:
        model, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
        wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
        results["missing"] = sorted(map(str, wrong))
        other = AutoModelForImageTextToText.from_pretrained(source, **options)
        loaded += [AutoConfig.from_pretrained(source, **options), model, other]
    if "processor" in parts:
        processor = AutoProcessor.from_pretrained(source, **options)
        video_processor = AutoVideoProcessor.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        loaded += [processor, video_processor, tokenizer]
        alone = {"pixels": _pixels(video_processor), "tokens": _tokens(tokenizer)}
        together = {"pixels": _pixels(processor.video_processor), "tokens": _tokens(processor.tokenizer)}
        if alone != together:
            raise RuntimeError("AutoVideoProcessor and AutoTokenizer give other results than AutoProcessor")
    results |= measure(model, processor)
    if model is not None and processor is not None:
        captioner = pipeline(TASK, model=source, **options)
        loaded.append(captioner)
        captions = captioner(synthetic_clips(), max_new_tokens=MAX_NEW_TOKENS)
        results["captions"] = [outputs[0]["generated_text"] for outputs in captions]
    return {**results, "classes": [type(part).__name__ for part in loaded]}


def measure(
    model: "VideoCaptionForConditionalGeneration | None" = None, processor: "VideoCaptionProcessor | None" = None
) -> dict[str, Any]:
    """
    The results of a model and its processor, or one of these, for two synthetic clips.

    Returns:
        `dict`: JSON values: first-word `logits` of the model, for the clips or, without a processor, for made-up
        features; with both, `captions`; from the processor `pixels`, a few sums over the clips, and `tokens` of a
        sentence.
    """
    results: dict[str, Any] = {}
    if processor is not None:
        results |= {"pixels": _pixels(processor.video_processor), "tokens": _tokens(processor.tokenizer)}
    if model is None:
        return results
    config, training = model.config, model.training
    if processor is None:
        shape = (2, config.num_frames // config.frame_stride, config.feature_grid**2, config.cell_features)
        # Not negative, as they include a histogram of colours.
        features = torch.arange(torch.Size(shape).numel()).view(shape) % 17 / 16
        inputs = {"video_features": features.to(model.dtype)}
    else:
        inputs = dict(processor.video_processor(synthetic_clips(), return_tensors="pt").to(model.dtype))
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    model.eval()
    with torch.inference_mode():
        start = torch.full((2, 1), config.decoder_start_token_id, device=model.device)
        results["logits"] = model(**inputs, decoder_input_ids=start).logits[:, 0, :256].float().flatten().tolist()
        if processor is not None:
            options: dict[str, Any] = {**inputs, "max_new_tokens": MAX_NEW_TOKENS}
            results["captions"] = processor.post_process_generation(model.generate(**options))
    model.train(training)
    return results


def _pixels(video_processor: BaseVideoProcessor) -> list[float]:
    pixels = video_processor(synthetic_clips(), return_tensors="pt")["pixel_values_videos"].float()
    return [*pixels.mean(dim=(2, 3, 4)).flatten().tolist(), float(pixels.std())]


def _tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer("a red circle slides left, and then it grows")["input_ids"]


def synthetic_clips() -> list[torch.Tensor]:
    return [synthetic_clip(1), synthetic_clip(3)]


def synthetic_clip(speed: int, *, frames: int = 20, height: int = 48, width: int = 64) -> torch.Tensor:
    """A colourful stripe that moves `speed` pixels per frame: uint8 `(T, H, W, 3)`."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    for index in range(frames):
        left = speed * index % width
        clip[index, :, left : left + 8] = torch.tensor([60 * speed, 255 - 40 * speed, 10 * index], dtype=torch.uint8)
    return clip


if __name__ == "__main__":
    sys.meta_path.insert(0, NotInstalled())
    result = probe(sys.argv[1], trust_remote_code=True, parts=sys.argv[3:] or PARTS)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
