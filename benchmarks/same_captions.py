"""Whether other runtimes write the captions of the model in torch, fp32.

    python benchmarks/same_captions.py my-clips --model outputs/my-model --split test

Greedy captions of every clip of a split: by the model as it was trained, by what `vidcap caption` makes of it with
each `--backend`, and by the graphs of `vidcap export-onnx` in ONNX Runtime. Given is the share of clips whose caption
is the same, word for word, and the share of exact ones, since one false caption may give way to another.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from processing.clips.rows import load_clips
from vidcap.inference.backends import BACKENDS, use_fast_backbone
from vidcap.inference.loading import load_captioner
from vidcap.inference.onnx_export import OnnxCaptioner, export_onnx

BATCH = 16


def runtimes(model: Any, processor: Any, folder: Path) -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    """Each with what writes the tokens of a batch of clips."""
    yield "torch, fp32", lambda inputs: model.generate(**inputs, num_beams=1)
    for backend in BACKENDS:
        fast = copy.deepcopy(model)
        use_fast_backbone(fast, processor, backend)
        yield f"--backend {backend}", lambda inputs, fast=fast: fast.generate(**inputs, num_beams=1)
    captioner = OnnxCaptioner(export_onnx(model, processor, folder))
    yield "ONNX", lambda inputs: captioner({name: value.numpy() for name, value in inputs.items()})[0]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub id of captioned clips")
    parser.add_argument("--model", type=Path, required=True, help="a captioner's folder")
    parser.add_argument("--split", default="test", help="[test]")
    arguments = parser.parse_args()
    model, processor = load_captioner(arguments.model, device="cpu")
    clips = load_clips(arguments.dataset, arguments.split)
    with tempfile.TemporaryDirectory() as folder:
        writers = dict(runtimes(model.float(), processor, Path(folder)))
        captions: dict[str, list[str]] = {name: [] for name in writers}
        for start in tqdm(range(0, len(clips), BATCH), desc="clips", unit="batch"):
            rows = clips[start : start + BATCH]
            inputs = dict(processor(videos=[video["path"] for video in rows["video"]], return_tensors="pt"))
            for name, write in writers.items():
                captions[name] += processor.batch_decode(write(inputs), skip_special_tokens=True)
    first, *_ = captions.values()
    print(f"{len(first)} clips of {arguments.split}\n| | the same | exact |\n|---|---|---|")
    for name, written in captions.items():
        same = sum(one == other for one, other in zip(first, written, strict=True)) / len(first)
        exact = sum(one in row["captions"] for one, row in zip(written, clips, strict=True)) / len(first)
        print(f"| {name} | {same:.4f} | {exact:.4f} |")


if __name__ == "__main__":
    main()
