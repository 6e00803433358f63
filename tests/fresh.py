"""Runs jobs in processes that have loaded torch and transformers, but nothing of this project.

    python -I tests/fresh.py JOBS.json RESULTS.json

Each job is a process of its own, forked off one that has done the slow imports. `"state"` says what it knows of this
project: `"imported"`, `"installed"` (importable, but nobody imports it) or `"absent"`. `"run"` names a function of
this file, which takes the job and returns JSON values.
"""

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from transformers import AutoModel, AutoProcessor, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
_spec: Any = importlib.util.spec_from_file_location("probe", ROOT / "hub_card" / "probe.py")
probe: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(probe)
CAPTIONS = ["a red circle grows", "the small dog jumps"]


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Everything by everything: what [`probe`] finds, and what is said where code may not be run."""
    found = {}
    if job["state"] != "imported":
        found["refusals"] = [_refusal(job["source"], loader) for loader in (AutoModel, AutoProcessor)]
        found["refusals"].append(_refusal(job["source"], None))
    found |= probe.probe(job["source"], trust_remote_code=job["state"] != "imported", hub=job.get("hub"))
    # The tokenizer needs no code.
    tokenizer = AutoTokenizer.from_pretrained(job["source"], trust_remote_code=False, **job.get("hub", {}))
    return {**found, "plain_tokens": tokenizer("a red circle")["input_ids"], "imported": _imported()}


def load_offline(job: dict[str, Any]) -> dict[str, Any]:
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # as `HF_HUB_OFFLINE=1` sets it
    assert huggingface_hub.constants.is_offline_mode()
    return load(job)


def fine_tune_and_push(job: dict[str, Any]) -> dict[str, Any]:
    """Pulls a captioner, trains it for two steps, pushes it elsewhere, and tells what the pushed one must say."""
    model = AutoModel.from_pretrained(job["source"], trust_remote_code=True).train()
    processor = AutoProcessor.from_pretrained(job["source"], trust_remote_code=True)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = processor(videos=probe.synthetic_clips(), text=CAPTIONS, padding=True, return_tensors="pt")
    labels = inputs.pop("input_ids").masked_fill(inputs.pop("attention_mask") == 0, -100)
    losses = []
    for _ in range(2):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    model.eval().push_to_hub(job["target"])
    processor.push_to_hub(job["target"])
    return {**probe.measure(model, processor), "losses": losses, "imported": _imported()}


def upload(job: dict[str, Any]) -> dict[str, Any]:
    """Folders to a repository, one commit each, each under a tag."""
    api = huggingface_hub.HfApi()
    api.create_repo(job["target"])
    for tag, folder in job["source"].items():
        api.upload_folder(repo_id=job["target"], folder_path=folder)
        api.create_tag(job["target"], tag=tag)
    return {}


def push_pipeline(job: dict[str, Any]) -> dict[str, Any]:
    """With the package: `pipeline.push_to_hub`, and what the pushed one must say."""
    captioner = transformers.pipeline(probe.TASK, model=job["source"])
    address = captioner.push_to_hub(job["target"], private=True, commit_message="A captioner")
    return {**probe.measure(captioner.model, captioner.processor), "address": address}


def push_parts(job: dict[str, Any]) -> dict[str, Any]:
    """With the package: model and processor one by one, then both by a trainer."""
    from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
    from vidcap.training.trainer import VideoCaptionTrainer

    model, processor = AutoModel.from_pretrained(job["source"]), AutoProcessor.from_pretrained(job["source"])
    model.push_to_hub("tester/parts", max_shard_size="50KB", tags="a-tag")
    processor.push_to_hub("tester/parts")
    off: Any = {"eval_strategy": "no", "load_best_model_at_end": False, "report_to": "none", "use_cpu": True}
    arguments = VideoCaptionTrainingArguments(output_dir="trained", hub_model_id="tester/trained", **off)
    options: Any = {"score": None, "score_clips": None, "data_collator": None}
    trainer = VideoCaptionTrainer(model, arguments, processing_class=processor, **options)
    trainer.push_to_hub(commit_message="Trained", license="mit")
    return probe.measure(model, processor)


def _refusal(source: str, loader: Any) -> str:
    try:
        if loader is None:
            transformers.pipeline(probe.TASK, model=source, trust_remote_code=False)
        else:
            loader.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def _imported() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules} & set(probe.PACKAGES))


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] == "absent":
        sys.meta_path.insert(0, probe.NotInstalled())
    else:
        sys.path.insert(0, str(ROOT))
    if job["state"] == "imported":
        import vidcap  # noqa: F401
    return globals()[job["run"]](job)


def main() -> None:
    results = []
    for index, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        path = Path(f"{sys.argv[2]}.{index}")
        child = os.fork()
        if child == 0:
            try:
                result = _run(job)
            except Exception:
                result = {"error": traceback.format_exc()}
            path.write_text(json.dumps(result))
            os._exit(0)
        os.waitpid(child, 0)
        results.append(json.loads(path.read_text()))
    Path(sys.argv[2]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
