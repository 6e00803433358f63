"""From a clip on disk to its caption, against captioners of transformers with random weights.

    python benchmarks/latency.py clip.mp4 --model outputs/demo
    python benchmarks/latency.py clip.mp4 --model outputs/demo --backends torch openvino
    python benchmarks/latency.py clip.mp4 --model outputs/demo --snap_to_keyframes --skip_loop_filter

Ours reads the file, takes 16 frames and writes 16 tokens, greedily, with the model loaded, as `vidcap caption
--backend` runs it. The others, of the sizes that are on the Hub, get tensors that are ready (their preprocessing does
not count) and write 16 tokens as well: GIT-base (6 frames of 224 pixels), TimeSformer-base with GPT-2 (8 frames of
224) and SmolVLM2-256M (8 frames of 512). All in fp32, but that OpenVINO computes the backbone in bf16 where the CPU
does. They take turns; given are medians, and how many times as long as ours each takes. Leave the machine to itself
meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    TimesformerConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from vidcap.inference.backends import BACKENDS, use_fast_backbone
from vidcap.inference.loading import load_captioner
from vidcap.precision import computes_in_bf16

TOKENS = 16
READING = ("snap_to_keyframes", "skip_loop_filter")
FORCED: dict[str, Any] = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}


def ours(folder: Path, clip: str, backend: str, reading: dict[str, bool]) -> Callable[[], Any]:
    model, processor = load_captioner(folder, device="cpu")
    use_fast_backbone(model, processor, backend)

    def caption() -> list[str]:
        inputs = processor(videos=[clip], num_frames=16, decoding_threads=0, **reading, return_tensors="pt")
        return processor.batch_decode(model.generate(**inputs, **FORCED), skip_special_tokens=True)

    return caption


def git() -> Callable[[], Any]:
    model = GitForCausalLM(GitConfig(num_image_with_embedding=6)).eval()
    pixels, start = torch.rand(1, 6, 3, 224, 224), torch.tensor([[101]])
    return lambda: model.generate(pixel_values=pixels, input_ids=start, **FORCED)


def timesformer_gpt2() -> Callable[[], Any]:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        TimesformerConfig(num_frames=8), GPT2Config(add_cross_attention=True, is_decoder=True)
    )
    model = VisionEncoderDecoderModel(config).eval()
    pixels = torch.rand(1, 8, 3, 224, 224)
    ids = {"decoder_start_token_id": 50256, "pad_token_id": 50256, "eos_token_id": 50256}
    return lambda: model.generate(pixel_values=pixels, **ids, **FORCED)


def smolvlm2() -> Callable[[], Any]:
    text = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    text |= {"num_key_value_heads": 3, "vocab_size": 49280}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"image_size": 512, "patch_size": 16}
    config = SmolVLMConfig(
        text_config=AutoConfig.for_model("llama", **text), vision_config=vision, scale_factor=4, image_token_id=49190
    )
    model = SmolVLMForConditionalGeneration(config).eval()
    image = [49190] * (512 // 16 // 4) ** 2  # the tokens of one frame
    ids = torch.tensor([[1, *(token for _ in range(8) for token in [2, *image]), *range(3, 23)]])
    pixels = torch.rand(1, 8, 3, 512, 512)
    return lambda: model.generate(input_ids=ids, pixel_values=pixels, **FORCED)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="the video file")
    parser.add_argument("--model", type=Path, required=True, help="a captioner's folder")
    parser.add_argument("--backends", nargs="+", default=["torch"], choices=BACKENDS, help="what runs our backbone")
    for name in READING:
        parser.add_argument(f"--{name}", action="store_true", help=f"read the clip as `vidcap caption --{name}` does")
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    reading = {name: getattr(arguments, name) for name in READING}
    own = {f"vidcap, {each}": ours(arguments.model, arguments.clip, each, reading) for each in arguments.backends}
    captioners = own | {
        "GIT-base, 6 frames": git(),
        "TimeSformer + GPT-2, 8 frames": timesformer_gpt2(),
        "SmolVLM2-256M, 8 frames": smolvlm2(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in captioners}
    for repeat in range(arguments.repeats + 1):
        for name, caption in captioners.items():
            start = time.perf_counter()
            caption()
            if repeat:  # the first round pays for allocations
                seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    in_bf16 = "computes" if computes_in_bf16(torch.device("cpu")) else "does not compute"
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; the CPU {in_bf16} in bf16\n")
    print("| | ms | " + " | ".join(f"times {name}" for name in own) + " |\n|---|---|" + "---|" * len(own))
    for name, value in medians.items():
        print(f"| {name} | {value:.0f} | " + " | ".join(f"{value / medians[each]:.1f}" for each in own) + " |")


if __name__ == "__main__":
    main()
