"""A captioner that is built in milliseconds, for every test that needs one: config, model, tokenizer, processor, clip.

Its weights are random and large, so that different clips get different captions.
"""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modeling_vidcap import VideoCaptionConfig, VideoCaptionForConditionalGeneration
from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (
    "a and then red green blue circle square star grows shrinks spins blinks slides left right up down the small "
    "large dog cat runs jumps sleeps slowly fast over under"
).split()


def tiny_config(**changes: Any) -> VideoCaptionConfig:
    """Two frame stages, one layer of each kind, width 32; `changes` replace single values."""
    values: dict[str, Any] = {
        "vocab_size": len(SPECIAL_TOKENS) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "encoder_layers": 1,
        "text_layers": 1,
        "multimodal_layers": 1,
        "cnn_hidden_sizes": [8, 16],
        "feature_size": 16,
        "feature_grid": 2,
        "num_frames": 4,
        "projection_dim": 16,
        "initializer_range": 0.5,
    }
    return VideoCaptionConfig(**{**values, **changes})


def tiny_model(*, seed: int = 54, **changes: Any) -> VideoCaptionForConditionalGeneration:
    """A captioner in evaluation mode; `changes` are for [`tiny_config`].

    Equal seeds give equal weights. With this one, captions of different clips differ; with others they may not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VideoCaptionForConditionalGeneration(tiny_config(**changes)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words of [`WORDS`], split at spaces, with EOS behind each caption."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_processor(**options: Any) -> VideoCaptionProcessor:
    """Four frames of 32 x 32 pixels a clip; `options` are for the video processor."""
    video_processor = VideoCaptionVideoProcessor(**{"num_frames": 4, "size": {"height": 32, "width": 32}, **options})
    return VideoCaptionProcessor(video_processor, tiny_tokenizer())


def tiny_clip(seed: int = 0, *, frames: int = 8) -> np.ndarray:
    """A clip of uint8 frames `(T, 24, 32, 3)`: random colours in large blocks, other ones for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (frames, 3, 4, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)
