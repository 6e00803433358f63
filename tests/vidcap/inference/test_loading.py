"""One captioner, loaded in every way from everywhere; and pushed from everywhere, again and again."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    pipeline,
)

from hub_card import export_model, verify_export
from hub_card.exporter import code_files
from hub_card.probe import measure, synthetic_clip, synthetic_clips
from modeling_vidcap import VideoCaptionForConditionalGeneration
from tests import fresh
from tests.hub_server import HubServer
from tests.tiny import tiny_model, tiny_processor

STATES = ("imported", "installed", "absent")
FILES = {
    *("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "SHA256SUMS", "README.md"),
    *(path.name for path in code_files()),
}


class Case:
    """A model in memory, what it says, and the results of all jobs, run by one process after another."""

    def __init__(self, hub: HubServer, scratch: Path):
        self.hub = hub
        self.model, self.processor = tiny_model(), tiny_processor()
        self.expected = measure(self.model, self.processor)
        self.folder = export_model(self.model, self.processor, scratch / "captioner")
        other = export_model(tiny_model(seed=3), self.processor, scratch / "other")
        folders = {"v1": str(self.folder), "v2": str(other)}
        places = {"folder": (str(self.folder), {}), "hub": ("tester/captioner", {"revision": "v1"})}
        jobs: dict[str, dict[str, Any]] = {
            "upload": {"run": "upload", "state": "absent", "source": folders, "target": "tester/captioner"}
        }
        jobs |= {
            f"{state} {place}": {"run": "load", "state": state, "source": source, "hub": options}
            for place, (source, options) in places.items()
            for state in STATES
        }
        jobs["offline"] = {**jobs["absent hub"], "run": "load_offline"}
        jobs["push"] = {"run": "push_pipeline", "state": "imported", "source": str(self.folder), "target": "tester/g1"}
        for generation in (2, 3, 4):
            jobs[f"generation {generation}"] = {
                "run": "fine_tune_and_push",
                "state": "absent",
                "source": f"tester/g{generation - 1}",
                "target": f"tester/g{generation}",
            }
        jobs["last"] = {"run": "load", "state": "absent", "source": "tester/g4"}
        self.results = run_jobs(jobs, hub, scratch)


def run_jobs(jobs: dict[str, dict[str, Any]], hub: HubServer, scratch: Path) -> dict[str, Any]:
    (scratch / "jobs.json").write_text(json.dumps(list(jobs.values())))
    run = subprocess.run(
        [sys.executable, "-I", fresh.__file__, str(scratch / "jobs.json"), str(scratch / "results.json")],
        cwd=scratch,
        env=hub.environment(scratch / "home"),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(jobs, json.loads((scratch / "results.json").read_text()), strict=True))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with HubServer() as hub:
        yield Case(hub, tmp_path_factory.mktemp("loading"))


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert "error" not in found, found["error"]
    assert found["captions"] == expected["captions"]
    assert found["tokens"] == expected["tokens"]
    for key in ("logits", "pixels"):
        torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(expected[key]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("state", STATES)
def test_every_class_loads_and_says_the_same(case: Case, state: str, place: str) -> None:
    found = case.results[f"{state} {place}"]
    same(found, case.expected)
    assert len(set(found["captions"])) == 2  # one caption for every clip would prove nothing
    assert found["missing"] == []
    assert found["classes"] == [
        "VideoCaptionConfig",
        *["VideoCaptionForConditionalGeneration"] * 2,
        *("VideoCaptionProcessor", "VideoCaptionVideoProcessor", "TokenizersBackend", "VideoCaptioningPipeline"),
    ]
    assert found["plain_tokens"] == case.processor.tokenizer("a red circle")["input_ids"]
    assert bool(found["imported"]) == (state == "imported")  # the others ran the code of the folder
    for reason in found.get("refusals", []):
        assert "trust_remote_code=True" in reason


def test_without_a_network_the_cache_serves(case: Case) -> None:
    same(case.results["offline"], case.expected)


def test_a_pipeline_pushes_a_complete_repository(case: Case) -> None:
    pushed = case.results["push"]
    same(pushed, case.expected)
    assert pushed["address"] == f"{case.hub.url}/tester/g1"
    assert set(case.hub.files("tester/g1")) == FILES


def test_three_generations_by_remote_code_alone_lose_nothing(case: Case) -> None:
    before = case.expected
    for generation in (2, 3, 4):
        found = case.results[f"generation {generation}"]
        assert "error" not in found, found["error"]
        assert found["imported"] == []
        assert found["losses"][1] != found["losses"][0]
        assert found["logits"] != before["logits"]  # it was trained
        files = case.hub.files(f"tester/g{generation}")
        assert set(files) == FILES
        for path in code_files():
            assert files[path.name] == path.read_bytes()
        before = found
    same(case.results["last"], before)
    assert case.results["last"]["missing"] == []


def test_options_of_loading(case: Case, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "captioner").symlink_to(case.folder)
    for options in ({"device_map": "cpu"}, {"device_map": "auto"}, {"subfolder": "captioner"}):
        source = tmp_path / "models" if "subfolder" in options else case.folder
        found = AutoModel.from_pretrained(source, **options)
        assert type(found) is VideoCaptionForConditionalGeneration
        same(measure(found, case.processor), case.expected)
    folder = tmp_path / "models"
    for loader in (AutoConfig, AutoProcessor, AutoVideoProcessor, AutoTokenizer, AutoModelForImageTextToText):
        loader.from_pretrained(folder, subfolder="captioner")
    for dtype in (torch.bfloat16, "bfloat16"):
        assert AutoModel.from_pretrained(case.folder, dtype=dtype).dtype == torch.bfloat16
    captioner = pipeline("video-captioning", model=str(case.folder), device_map="cpu", dtype="bfloat16")
    assert captioner.model.dtype == torch.bfloat16
    assert captioner(synthetic_clip(1), max_new_tokens=3)
    captioner = pipeline("video-captioning", model=case.model, processor=case.processor)
    assert [each[0]["generated_text"] for each in captioner(synthetic_clips())] == case.expected["captions"]


@pytest.mark.slow
def test_parts_and_trainer_push_complete_repositories(case: Case, tmp_path: Path) -> None:
    job = {"run": "push_parts", "state": "imported", "source": str(case.folder)}
    same(run_jobs({"parts": job}, case.hub, tmp_path)["parts"], case.expected)
    parts, trained = case.hub.files("tester/parts"), case.hub.files("tester/trained")
    assert set(trained) == FILES
    assert "license: mit" in trained["README.md"].decode()
    shards = {name for name in parts if name.startswith("model-")}
    assert len(shards) > 2
    assert set(parts) == FILES - {"model.safetensors"} | shards | {"model.safetensors.index.json"}
    assert "- a-tag" in parts["README.md"].decode()
    download(parts, tmp_path / "parts")
    verify_export(tmp_path / "parts", model=case.model, processor=case.processor)


@pytest.mark.slow
def test_the_last_generation_verifies(case: Case, tmp_path: Path) -> None:
    folder = download(case.hub.files("tester/g4"), tmp_path / "last")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    same(measure(model, processor), case.results["generation 4"])
    verify_export(folder, model=model, processor=processor)


def download(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
