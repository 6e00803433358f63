"""A captioner as two ONNX graphs, for use without torch.

`encoder.onnx` takes the outputs of the processor and returns keys and values for the decoder; `decoder.onnx` takes the
last word and the cache, and returns the scores of the next word and the new cache. `captioner.json` names the special
tokens. [`OnnxCaptioner`] runs both, and checks the export.

Guarantees: any number of clips, frames and words; an export whose greedy captions differ from the model's is an error.
Limitations: no beams (which are a loop around the same graph), joint fusion, pretrained decoders or novelty.
"""

import argparse
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modeling_vidcap.decoding_vidcap import LayerStep, attention_bias, decoder_layers, is_unmodified, video_states
from modeling_vidcap.modeling_vidcap import VideoCaptionForConditionalGeneration
from processing import VideoCaptionProcessor

from .loading import load_captioner

logger = logging.getLogger(__name__)
ENCODER, DECODER, SETTINGS = "encoder.onnx", "decoder.onnx", "captioner.json"
VIDEO = ("pixel_values_videos", "video_mask", "video_times")
DECODER_INPUTS = ("input_ids", "past_keys", "past_values", "video_keys", "video_values", "video_mask")
TOLERANCE = 1e-3  # between the scores of ONNX Runtime and of torch
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Encoder(nn.Module):
    """Clips -> keys and values `(layers, B, heads, S, head_dim)` for cross-attention, and their mask `(B, S)`."""

    def __init__(self, model: VideoCaptionForConditionalGeneration):
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values_videos: torch.Tensor, video_mask: torch.Tensor, video_times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = self.model.get_encoder()(pixel_values_videos, video_mask, video_times)
        states = video_states(self.model.model.decoder, encoded.last_hidden_state, encoded.token_times)
        keys, values = zip(*[state for state in states if state is not None], strict=True)
        return torch.stack(keys), torch.stack(values), encoded.attention_mask


class Decoder(nn.Module):
    """The last word `(B, 1)` -> scores of the next word `(B, V)`, and keys and values of L + 1 words.

    Further inputs are keys and values of the L previous words, `(layers, B, heads, L, head_dim)`, and the outputs of
    the encoder.
    """

    def __init__(self, model: VideoCaptionForConditionalGeneration):
        super().__init__()
        self.model = model
        self.steps = [LayerStep(layer) for layer in decoder_layers(model.model.decoder)]

    def forward(
        self,
        input_ids: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        video_keys: torch.Tensor,
        video_values: torch.Tensor,
        video_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        decoder = self.model.model.decoder
        hidden_states = decoder.embed(input_ids)
        position = torch.arange(past_keys.shape[3] + 1, device=input_ids.device)[None, -1:]
        rotation = decoder.text_rotation(position, hidden_states.dtype)
        mask = attention_bias(video_mask == 0, hidden_states.dtype)
        all_keys, all_values = [], []
        for index, step in enumerate(self.steps):
            query, key, value = step.project(hidden_states, rotation)
            keys, values = torch.cat([past_keys[index], key], dim=2), torch.cat([past_values[index], value], dim=2)
            above = index - len(decoder.text_layers)
            video = (video_keys[above], video_values[above]) if above >= 0 else None
            hidden_states = step.attend(hidden_states, query, (keys, values), video, mask)
            all_keys.append(keys)
            all_values.append(values)
        logits = self.model.lm_logits(decoder.norm(hidden_states))[:, -1]
        return logits, torch.stack(all_keys), torch.stack(all_values)


def run(arguments: argparse.Namespace) -> int:
    """`vidcap export-onnx`."""
    model, processor = load_captioner(arguments.model, device="cpu")
    export_onnx(model.float(), processor, arguments.output_folder)
    print(f"{arguments.output_folder}: wrote {ENCODER} and {DECODER}; ONNX Runtime writes the same words as the model")
    return 0


@torch.no_grad()
def export_onnx(
    model: VideoCaptionForConditionalGeneration, processor: VideoCaptionProcessor, folder: str | Path
) -> Path:
    """Write both graphs, the settings and the processor, and compare them with the model.

    Args:
        model: The captioner, on the CPU, in fp32.
        processor: Its processor.
        folder: Created if needed.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime are missing.
        ValueError: For a model that cannot be exported.
        RuntimeError: If the results of the graphs differ from the model's.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ImportError(f"the ONNX export needs {', '.join(missing)}: pip install 'vidcap[onnx]'")
    config = model.config
    if config.decoder_config is not None:
        raise ValueError(
            "a pretrained decoder cannot be exported to ONNX: take a model with a decoder of this package"
        )
    if weight := getattr(model.generation_config, "memory_weight", None):
        logger.warning(
            f"the graphs write the decoder's own captions, without those that the model remembers (memory_weight "
            f"{weight:g})"
        )
    if config.fusion != "cross_attention":
        raise ValueError(f"`fusion` {config.fusion!r} cannot be exported to ONNX: take a model with 'cross_attention'")
    if config.encodes_clips:
        raise ValueError(
            "a clip encoder cannot be exported to ONNX: take a model with a backbone that sees each frame alone"
        )
    if not is_unmodified(model.model.decoder):
        raise ValueError("the decoder has adapters, quantised layers or hooks: merge or remove them before the export")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    clips = random_clips(processor, frames=config.num_frames)
    encoder, decoder = Encoder(model).eval(), Decoder(model).eval()
    keys, values, mask = encoder(**clips)
    layers = len(decoder.steps)
    # Keys and values as two tensors: a shared one would become a single input of the graph.
    past = keys.new_zeros(layers, len(keys[0]), keys.shape[2], 3, keys.shape[4])
    step = (torch.full((len(mask), 1), config.decoder_start_token_id), past, past.clone(), keys, values, mask)

    _write(
        encoder, tuple(clips.values()), VIDEO, ("video_keys", "video_values", "mask"), ((0, 1),) * 3, folder / ENCODER
    )
    axes = ((0,), (1, 3), (1, 3), (1, 3), (1, 3), (0, 1))
    _write(decoder, step, DECODER_INPUTS, ("logits", "keys", "values"), axes, folder / DECODER)
    settings = {
        "layers": layers,
        "heads": keys.shape[2],
        "head_dim": keys.shape[4],
        "start": config.decoder_start_token_id,
        "end": config.eos_token_id,
        "pad": config.pad_token_id,
        "suppressed": list(model.generation_config.suppress_tokens or []),
        "max_words": model.generation_config.max_new_tokens or config.max_position_embeddings,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1))
    processor.save_pretrained(folder)
    check(model, processor, folder)
    return folder


def _write(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    dynamic: tuple[tuple[int, ...], ...],
    path: Path,
) -> None:
    shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in dynamic)
    program = torch.onnx.export(
        module,
        inputs,
        input_names=list(names),
        output_names=list(outputs),
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def random_clips(processor: VideoCaptionProcessor, *, frames: int, count: int = 2) -> dict[str, torch.Tensor]:
    """Noise in the form of the processor's outputs; the last clip is a frame shorter."""
    size = processor.video_processor.size
    noise = torch.rand(count, frames, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))
    mask = torch.ones(count, frames, dtype=torch.long)
    mask[-1, -1] = 0 if frames > 1 else 1
    times = torch.arange(frames, dtype=torch.float32).expand(count, -1) / 4
    return {"pixel_values_videos": noise * 2 - 1, "video_mask": mask, "video_times": times.clone()}


class OnnxCaptioner:
    """Greedy captions by ONNX Runtime alone.

    Args:
        folder: Written by [`export_onnx`].
    """

    def __init__(self, folder: str | Path):
        import onnxruntime

        folder = Path(folder)
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
            for name in (ENCODER, DECODER)
        )
        self.settings = json.loads((folder / SETTINGS).read_text())

    def __call__(
        self, inputs: dict[str, np.ndarray], *, max_words: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Caption B clips.

        Args:
            inputs: `pixel_values_videos`, `video_mask` and `video_times`, from the processor.
            max_words: Maximum length of a caption in tokens, EOS included.

        Returns:
            Tokens `(B, 1 + L)` with the start token, padded, and the scores `(B, L, V)` of each step.
        """
        settings = self.settings
        *video, mask = self.encoder.run(None, {name: inputs[name] for name in VIDEO})
        shape = (settings["layers"], len(mask), settings["heads"], 0, settings["head_dim"])
        cache = [np.zeros(shape, np.float32)] * 2
        words = np.full((len(mask), 1), settings["start"], np.int64)
        scores: list[np.ndarray] = []
        done = np.zeros(len(mask), bool)
        while not done.all() and len(scores) < (max_words or settings["max_words"]):
            step = dict(zip(DECODER_INPUTS, (words[:, -1:], *cache, *video, mask), strict=True))
            logits, *cache = self.decoder.run(None, step)
            logits[:, settings["suppressed"]] = -np.inf
            scores.append(logits)
            best = np.where(done, settings["pad"], logits.argmax(axis=-1))
            words = np.concatenate([words, best[:, None]], axis=1)
            done |= np.isin(best, settings["end"])
        return words, np.stack(scores, axis=1)


@torch.no_grad()
def check(model: VideoCaptionForConditionalGeneration, processor: VideoCaptionProcessor, folder: str | Path) -> None:
    """Compare an export with its model, on other numbers of clips and frames than in the trace.

    Raises:
        RuntimeError: If words differ, or scores by more than `TOLERANCE`.
    """
    captioner, config = OnnxCaptioner(folder), model.config
    frames = config.num_frames if config.encodes_clips else config.num_frames + 1
    clips = random_clips(processor, frames=frames, count=3)
    limit = min(16, captioner.settings["max_words"])
    words, scores = captioner({name: value.numpy() for name, value in clips.items()}, max_words=limit)
    options: dict[str, Any] = {"max_new_tokens": limit, "num_beams": 1, "do_sample": False, **clips}
    expected = model.generate(**options, memory_weight=0.0, output_scores=True, return_dict_in_generate=True)
    if not np.array_equal(words, expected.sequences.numpy()):
        raise RuntimeError(f"{folder}: the captions of ONNX Runtime differ from the model's; do not use this export")
    onnx_scores = torch.from_numpy(scores)
    allowed = onnx_scores.isfinite()  # all but suppressed words
    difference = (onnx_scores - torch.stack(expected.scores, dim=1))[allowed].abs().max().item()
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{folder}: the scores of ONNX Runtime differ from the model's by {difference:.2g}, more than "
            f"{TOLERANCE}; do not use this export"
        )
    logger.info(f"{folder}: the same words as the model's, scores within {difference:.1g}")
