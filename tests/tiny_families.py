"""Captioners of other families, built in milliseconds: the real classes of model and processor, random weights.

Weights are random and large, so that different clips get different captions.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers.models.smolvlm.processing_smolvlm as smolvlm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    TimesformerConfig,
    VideoMAEConfig,
    VideoMAEImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VivitConfig,
    VivitImageProcessor,
)

from tests.tiny import WORDS
from vidcap.adapters import SeparateProcessor

CAPTIONS = [" ".join(WORDS[start : start + 6]) for start in range(0, len(WORDS), 6)]
SIZE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
LAYER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = LAYER | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'video' %}<video>\n{% else %}{{ c.text }} "
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_bytes_tokenizer(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """Byte pairs of a few captions, and `special` tokens from 0 on."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_git(*, num_frames: int | None = 4, size: dict[str, Any] = SIZE) -> tuple[Any, Any]:
    """Four frames; word pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    processor = GitProcessor(
        CLIPImageProcessor(**size), BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    )
    config = GitConfig(
        vision_config=LAYER | {"image_size": 32, "patch_size": 16},
        vocab_size=len(words),
        bos_token_id=2,
        eos_token_id=3,
        num_image_with_embedding=num_frames,
        **LAYER,
    )
    model = GitForCausalLM(config)
    model.generation_config.min_new_tokens = 4
    return processor, model


def tiny_blip() -> tuple[Any, Any]:
    """An image captioner, of no family that comes with the package."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = LAYER | ids | {"vocab_size": len(words), "encoder_hidden_size": 16}
    vision = LAYER | {"image_size": 32, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, **ids))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.5)
    return processor, model.eval()


def tiny_vision_encoder_decoder(kind: str) -> tuple[Any, Any]:
    """`timesformer`, `vivit` or `videomae` with four frames, and GPT-2."""
    small = LAYER | {"image_size": 32, "num_frames": 4}
    encoder, image_processor = {
        "timesformer": lambda: (TimesformerConfig(patch_size=16, **small), VideoMAEImageProcessor(**SIZE)),
        "vivit": lambda: (VivitConfig(tubelet_size=[2, 16, 16], **small), VivitImageProcessor(**SIZE)),
        "videomae": lambda: (VideoMAEConfig(patch_size=16, tubelet_size=2, **small), VideoMAEImageProcessor(**SIZE)),
    }[kind]()
    tokenizer = tiny_bytes_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    decoder = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config)
    for token in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(model.generation_config, token, 0)
    return SeparateProcessor(tokenizer, image_processor), model


def tiny_smolvlm() -> tuple[Any, Any]:
    """At most four frames, one a second."""
    special = "<pad> <|im_start|> <end_of_utterance> <image> <video> <fake_token_around_image> <global-img>".split()
    tokenizer = tiny_bytes_tokenizer(special, pad_token="<pad>", eos_token="<end_of_utterance>")
    sampling = {"max_frames": 4, "fps": 1, "video_size": {"longest_edge": 64}}
    video_processor = SmolVLMVideoProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, video_sampling=sampling
    )
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(),
        tokenizer,
        video_processor,
        image_seq_len=4,
        chat_template=smolvlm.DEFAULT_CHAT_TEMPLATE,
    )
    config = SmolVLMConfig(
        vision_config=LAYER | {"image_size": 32, "patch_size": 8},
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer)},
        scale_factor=2,
        image_token_id=3,
        pad_token_id=0,
    )
    return processor, SmolVLMForConditionalGeneration(config)


def tiny_qwen(version: str) -> tuple[Any, Any]:
    """`2` or `2.5`; any number of frames."""
    special = "<pad> <|im_start|> <|im_end|> <|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|>".split()
    tokenizer = tiny_bytes_tokenizer(special, pad_token="<pad>", eos_token="<|im_end|>")
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 64}}
    sizes["size"]["longest_edge"] = 1024
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_scaling": rope}
    ids = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2}
    parts = (Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(cap_pixels_per_frame=False, **sizes))
    if version == "2":
        config = Qwen2VLConfig(text_config=text, vision_config=vision | {"embed_dim": 16, "mlp_ratio": 2}, **ids)
        return Qwen2VLProcessor(*parts, chat_template=QWEN_TEMPLATE), Qwen2VLForConditionalGeneration(config)
    vision |= {"out_hidden_size": 16, "intermediate_size": 32, "window_size": 16, "fullatt_block_indexes": [0]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    return Qwen2_5_VLProcessor(*parts, chat_template=QWEN_TEMPLATE), Qwen2_5_VLForConditionalGeneration(config)


def tiny_llava() -> tuple[Any, Any]:
    """Any number of frames."""
    special = ["<pad>", "<s>", "</s>", "<image>", "<video>"]
    tokenizer = tiny_bytes_tokenizer(special, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    processor = LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**SIZE),
        LlavaNextImageProcessor(**SIZE),
        tokenizer,
        chat_template=LLAVA_TEMPLATE,
        patch_size=8,
        vision_feature_select_strategy="default",
    )
    vision = LAYER | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = LlavaNextVideoConfig(
        vision_config=vision | {"num_hidden_layers": 2},
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_id=3,
        video_token_id=4,
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=[[32, 64]],
    )
    return processor, LlavaNextVideoForConditionalGeneration(config)


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "git": tiny_git,
    "timesformer": lambda: tiny_vision_encoder_decoder("timesformer"),
    "vivit": lambda: tiny_vision_encoder_decoder("vivit"),
    "videomae": lambda: tiny_vision_encoder_decoder("videomae"),
    "smolvlm": tiny_smolvlm,
    "qwen2_vl": lambda: tiny_qwen("2"),
    "qwen2_5_vl": lambda: tiny_qwen("2.5"),
    "llava_next_video": tiny_llava,
}


def tiny_family(name: str, *, seed: int = 1) -> tuple[Any, Any]:
    """Processor and model of one of [`MAKERS`], in evaluation mode; with this seed captions of clips differ."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        if smolvlm.num2words is None:  # an optional dependency of transformers, for a number in the prompt
            patch.setattr(smolvlm, "num2words", str)
        torch.manual_seed(seed)
        processor, model = MAKERS[name]()
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                # What is seen shall matter more than the words before.
                text = any(part in parameter_name for part in ("embed_tokens", "word_embeddings", "wte", "wpe"))
                parameter.data.normal_(std=0.1 if text else 0.6)
    return processor, model.eval()


def save_family(name: str, folder: Any) -> None:
    """Writes one as its repository would be."""
    processor, model = tiny_family(name)
    model.save_pretrained(folder)
    parts = (
        [processor.tokenizer, processor.image_processor] if isinstance(processor, SeparateProcessor) else [processor]
    )
    for part in parts:
        part.save_pretrained(folder)
