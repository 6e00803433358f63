"""Loads an exported folder in every promised way and tells what came out.

Run by its path, `python -I probe.py FOLDER RESULT.json` does so in a process that cannot import this project, and so
needs the code in the folder. It imports nothing of this project, to be able to.
"""

import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor, pipeline

TASK: Any = "video-captioning"  # transformers' types list its own tasks only
PACKAGES = ("hub_card", "modeling_vidcap", "processing", "train_hf", "vidcap")


class NotInstalled(MetaPathFinder):
    """Makes this project's packages look as if they were not installed, however they are."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def probe(directory: str, *, trust_remote_code: bool) -> dict[str, Any]:
    """
    Loads a folder through the Auto classes and `pipeline`, and captions two synthetic clips.

    Args:
        directory (`str`): the exported folder.
        trust_remote_code (`bool`): run the code in the folder; without it, the package must have been imported.

    Returns:
        `dict`: JSON values: the `captions` of the pipeline, first-word `logits` of [`AutoModel`], the names of the
        loaded `classes`, and `missing`, weights that the model has and the file has not or the other way round.
    """
    config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    model, info = AutoModel.from_pretrained(directory, trust_remote_code=trust_remote_code, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(directory, trust_remote_code=trust_remote_code)
    video_processor = AutoVideoProcessor.from_pretrained(directory, trust_remote_code=trust_remote_code)
    captioner = pipeline(TASK, model=directory, trust_remote_code=trust_remote_code)

    clips = [synthetic_clip(1), synthetic_clip(3)]
    inputs = video_processor(clips, return_tensors="pt")
    start = torch.full((len(clips), 1), config.decoder_start_token_id)
    with torch.inference_mode():
        logits = model.eval()(**inputs.to(model.dtype), decoder_input_ids=start).logits[:, 0, :256]
    loaded = (config, model, processor, video_processor, captioner)
    return {
        "captions": [outputs[0]["generated_text"] for outputs in captioner(clips)],
        "logits": logits.float().flatten().tolist(),
        "classes": [type(each).__name__ for each in loaded],
        "missing": sorted(map(str, [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]])),
    }


def synthetic_clip(speed: int, *, frames: int = 20, height: int = 48, width: int = 64) -> torch.Tensor:
    """A colourful stripe that moves `speed` pixels a frame: uint8 `(T, H, W, 3)`."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    for index in range(frames):
        left = speed * index % width
        clip[index, :, left : left + 8] = torch.tensor([60 * speed, 255 - 40 * speed, 10 * index], dtype=torch.uint8)
    return clip


if __name__ == "__main__":
    sys.meta_path.insert(0, NotInstalled())
    Path(sys.argv[2]).write_text(json.dumps(probe(sys.argv[1], trust_remote_code=True)), encoding="utf-8")
