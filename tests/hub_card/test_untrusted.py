"""Folders made to do harm, or damaged: refused in one line, and nothing in them runs."""

import ast
import hashlib
import json
import pickle
import shutil
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from hub_card import ExportError, export_model, push_to_hub
from hub_card.probe import synthetic_clip
from modeling_vidcap.pretrained.backbones import load_backbone
from modeling_vidcap.pretrained.text import load_embeddings, load_language_model
from processing.clips.tokenizers import load_tokenizer
from tests.tiny import tiny_model, tiny_processor
from tests.trainers import make_trainer
from vidcap.evaluation.similarity import ClipEncoder, SentenceEncoder
from vidcap.inference.loading import ModelError, load_any_captioner, load_captioner
from vidcap.training.checkpoints import explain_refused_pickle

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / "train_hf.py",
    *(
        path
        for room in ("hub_card", "modeling_vidcap", "processing", "vidcap", "benchmarks")
        for path in (ROOT / room).rglob("*.py")
    ),
]
UNPICKLERS = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


class Planted:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export_model(tiny_model(), tiny_processor(), tmp_path / "captioner")


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that foreign code would make; whoever is asked whether it is trusted says no."""
    monkeypatch.setattr("builtins.input", lambda prompt="": "n")
    return tmp_path / "was-here"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that were put to somebody who says yes to all."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": questions.append(prompt) or "y")
    return questions


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, reason: str, *, error: type[Exception] = SafetensorError) -> None:
    """By what the command line loads with, by the Auto classes, and by a push, ahead of any request."""
    with pytest.raises(ModelError, match=reason) as found:
        load_captioner(folder)
    assert "\n" not in str(found.value)
    with pytest.raises(error):
        AutoModel.from_pretrained(folder)
    with pytest.raises(ExportError) as refusal:
        push_to_hub(folder, "tester/never")
    assert "\n" not in str(refusal.value)


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def dangers(source: str) -> list[str]:
    """What in a file could run something that was read from data."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} != {"UnpicklingError"}:
            names = [node.module or ""]
        found += [f"import {name}" for name in names if name.partition(".")[0] in UNPICKLERS]
    for name, call in calls(tree):
        options = {each.arg: ast.unparse(each.value) for each in call.keywords}
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "compile", "__import__") or name in ("os.system", "os.popen"):
            found.append(name)
        elif options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(call))
        elif name in ("torch.load", "torch.jit.load", "torch.hub.load") and options.get("weights_only") != "True":
            found.append(ast.unparse(call))
        elif last in ("read_pickle", "unsafe_load", "full_load") or name == "yaml.load":
            found.append(name)
        elif options.get("trust_remote_code") == "True":
            found.append(ast.unparse(call))
    return found


# Where code that lies beside a model may run, or can not: place and reason.
LOADS_WITHOUT_SAYING = {
    ("hub_card/probe.py", "**options"): "runs, in a process of its own, code that was compared with this package's",
    ("vidcap/inference/pipelines.py", "**options"): "what the caller of `pipeline` says",
    ("vidcap/inference/pipelines.py", "for key in location"): "what the caller of `pipeline` says",
    ("processing/clips/rows.py", "load_dataset("): "`datasets` 4 and later run no code of data sets",
}
SAFE_LOADERS = ("load_pretrained", "_load", "super().from_pretrained")  # these state it, or are told


def unsaid(source: str) -> list[str]:
    """What loads a model, or its parts, and does not say that foreign code is not trusted."""
    tree = ast.parse(source)
    handed_on = {
        id(each) for name, call in calls(tree) if name in SAFE_LOADERS for arg in call.args for each in ast.walk(arg)
    }
    called = {id(call.func): call for _, call in calls(tree)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Attribute, ast.Name)):
            continue
        name = ast.unparse(node)
        last = name.rpartition(".")[2]
        loads = last == "from_pretrained" or (last == "from_config" and "Auto" in name)
        if not loads and (name not in ("pipeline", "load_dataset", "datasets.load_dataset") or id(node) not in called):
            continue
        call = called.get(id(node))
        said = call is not None and any(each.arg == "trust_remote_code" for each in call.keywords)
        if not said and name not in SAFE_LOADERS and id(node) not in handed_on:
            found.append(ast.unparse(call or node))
    return found


def test_whatever_loads_says_that_foreign_code_is_not_trusted() -> None:
    found = [(path.relative_to(ROOT).as_posix(), each) for path in SOURCES for each in unsaid(path.read_text())]
    used = {
        (file, part) for file, part in LOADS_WITHOUT_SAYING for path, each in found if path == file and part in each
    }
    assert used == set(LOADS_WITHOUT_SAYING)
    assert [each for each in found if not any(each[0] == file and part in each[1] for file, part in used)] == []


@pytest.mark.parametrize(
    "source",
    [
        *(
            "AutoModel.from_pretrained(name)",
            "kind.from_pretrained(name, **options)",
            "load = AutoModel.from_pretrained",
        ),
        *("AutoModel.from_config(config)", "pipeline('video-captioning', model=name)", "load_dataset(name)"),
    ],
)
def test_the_scan_finds_what_does_not_say_so(source: str) -> None:
    assert unsaid(source)
    assert not unsaid(
        "AutoModel.from_pretrained(name, trust_remote_code=False)\nload_pretrained(kind.from_pretrained, 1)"
    )


def test_no_source_unpickles_or_runs_what_it_reads() -> None:
    assert len(SOURCES) > 90
    found = {path.relative_to(ROOT).as_posix(): dangers(path.read_text()) for path in SOURCES}
    # The probe runs, in a process of its own, code that was compared with this package's.
    assert {path: each for path, each in found.items() if each} == {
        "hub_card/probe.py": ["probe(sys.argv[1], trust_remote_code=True, parts=sys.argv[3:] or PARTS)"]
    }


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "eval('1')", "exec(text)", "import os\nos.system('ls')"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "numpy.load(path, allow_pickle=True)"),
        *("subprocess.run(line, shell=True)", "yaml.load(text)", "pandas.read_pickle(path)"),
    ],
)
def test_the_scan_finds(source: str) -> None:
    assert dangers(source)
    assert not dangers("model.eval()\ntorch.load(path, weights_only=True)\nre.compile('a')")


def test_a_pickle_in_the_place_of_the_weights(exported: Path, mark: Path) -> None:
    (exported / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Planted(mark)}, exported / "pytorch_model.bin")
    with pytest.raises(ValueError, match="use_safetensors=False: this model is read from safetensors only"):
        AutoModel.from_pretrained(exported, use_safetensors=False)
    refused(exported, "pytorch_model.bin is a pickle, which is not loaded", error=OSError)
    (exported / "model.safetensors").write_bytes((exported / "pytorch_model.bin").read_bytes())
    refused(exported, "weights cannot be loaded")
    assert not mark.exists()


def test_pickles_beside_the_weights(exported: Path, mark: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "planted.pkl"):
        (exported / name).write_bytes(pickle.dumps(Planted(mark)))
    load_captioner(exported)
    captioner = pipeline("video-captioning", model=str(exported))
    assert captioner(synthetic_clip(1), max_new_tokens=2)
    (exported / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "", "peft_type": "LORA"}))
    (exported / "adapter_model.bin").write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(ValueError, match="adapter_model.bin is a pickle, which is not loaded"):
        AutoModel.from_pretrained(exported)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint(name: str, tmp_path: Path, mark: Path) -> None:
    trainer = make_trainer(tmp_path / "run", tiny_processor(), [])
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    torch.save({"state": Planted(mark)}, checkpoint / name)
    torch.save({}, checkpoint / "scheduler.pt")
    load = trainer._load_rng_state if name == "rng_state.pth" else trainer._load_optimizer_and_scheduler
    trainer.create_optimizer_and_scheduler(1)
    with pytest.raises(ValueError, match="checkpoint-1: its optimizer or random state"):
        with explain_refused_pickle(str(checkpoint)):
            load(str(checkpoint))
    assert not mark.exists()
    with pytest.raises(KeyError), explain_refused_pickle(str(checkpoint)):
        raise KeyError  # other errors pass


def test_foreign_code_beside_the_weights(exported: Path, mark: Path) -> None:
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for path in exported.glob("*.py"):
        path.write_text(code + path.read_text())
    (exported / "evil_vidcap.py").write_text(code)
    evil = "evil_vidcap.Evil"
    change(exported / "config.json", auto_map={"AutoConfig": evil, "AutoModel": evil, "AutoProcessor": evil})
    change(exported / "tokenizer_config.json", auto_map={"AutoTokenizer": [evil, evil]})
    load_captioner(exported)  # by the code of this package
    for trust in (None, False):
        AutoModel.from_pretrained(exported, trust_remote_code=trust)
        AutoProcessor.from_pretrained(exported, trust_remote_code=trust)
        pipeline("video-captioning", model=str(exported), trust_remote_code=trust)
    with pytest.raises(ExportError, match="vidcap.py is not the code of this version of vidcap"):
        push_to_hub(exported, "tester/never")
    assert not mark.exists()


@pytest.mark.parametrize(
    "reference",
    ["evil/repository--modeling_vidcap.Evil", "../modeling_vidcap.Evil", "absent_vidcap.Evil", "os.system"],
)
def test_a_configuration_that_leads_to_foreign_code(reference: str, exported: Path, mark: Path) -> None:
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        before = (exported / name).read_text()
        change(exported / name, auto_map={"AutoModel": reference})
        with pytest.raises(ExportError, match=f"{name} names .*, which is foreign code"):
            push_to_hub(exported, "tester/never")
        (exported / name).write_text(before)
    task = {"video-captioning": {"impl": reference, "pt": ["AutoModel"], "type": "multimodal"}}
    change(exported / "config.json", model_type="evilcap", auto_map={"AutoConfig": reference}, custom_pipelines=task)
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            load(exported, trust_remote_code=False)
    refused(exported, "is a model of type evilcap: pass one of type vidcap", error=ValueError)
    assert not mark.exists()


def test_foreign_code_of_an_unknown_type(tmp_path: Path, mark: Path, asked: list[str]) -> None:
    """Where the command line takes a model of another type: never asked about, never run."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    names = ("Config", "Model", "ModelForCausalLM", "Processor", "ImageProcessor", "VideoProcessor")
    code = {**{f"Auto{name}": "evil.Evil" for name in names}, "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evilcap", "auto_map": code}))
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"auto_map": code}))
    save_file({}, folder / "model.safetensors")
    loads: list[Any] = [
        *(load_backbone, load_embeddings, load_tokenizer, SentenceEncoder, ClipEncoder.from_pretrained),
        *(partial(load_language_model, fusion="joint", vocab_size=9), load_captioner, load_any_captioner),
    ]
    for load in loads:
        with pytest.raises(ValueError, match="foreign(: needs code of its own| is a model of type)") as found:
            load(str(folder))
        assert "\n" not in str(found.value) and "trust_remote_code" not in str(found.value)
    # A type whose configuration alone transformers knows: foreign are its model, or its image processor.
    change(folder / "config.json", model_type="align_vision_model")
    for _ in range(2):
        with pytest.raises(ValueError, match="foreign: needs code of its own"):
            load_backbone(str(folder))
        (folder / "model.safetensors").unlink(missing_ok=True)
    assert not asked and not mark.exists()


def test_foreign_code_of_a_backbone_in_a_captioner(exported: Path, mark: Path, asked: list[str]) -> None:
    (exported / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    code = {"auto_map": {"AutoModel": "evil.Evil"}, "_name_or_path": str(exported)}
    change(exported / "config.json", backbone_config={"model_type": "align_vision_model", **code})
    with pytest.raises(ModelError, match="needs code of its own"):
        load_captioner(exported)
    assert not asked and not mark.exists()


def test_damaged_weights(exported: Path) -> None:
    path = exported / "model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    for damaged in (whole[:-1], whole[: length // 2], whole[:8], b"", whole + b"\0", b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        refused(exported, "weights cannot be loaded")
    # Rewritten: another shape for the same bytes, and a weight that is missing.
    header = json.loads(whole[8 : 8 + length])
    name = "video_projection.weight"
    header[name]["shape"] = header[name]["shape"][:1]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    refused(exported, "weights cannot be loaded")
    (exported / "SHA256SUMS").unlink()  # as another program might have written it
    state = tiny_model().state_dict()
    save_file({key: state[key].contiguous() for key in state if key not in (name, "lm_head.weight")}, path)
    with pytest.raises(ModelError, match=f"{name} and 0 more are missing"):
        load_captioner(exported)
    whole = {key: value.contiguous() for key, value in state.items() if key != "lm_head.weight"}
    save_file(whole | {"more": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="no place for 1 of the tensors, such as more"):
        load_captioner(exported)


def flip_a_weight(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def test_weights_that_are_not_those_that_were_saved(exported: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models--tester--captioner"
    shutil.copytree(exported, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    load = partial(AutoModel.from_pretrained, "tester/captioner", cache_dir=cache.parent)
    load()
    for path in (exported, cache / "snapshots" / ("0" * 40)):
        flip_a_weight(path / "model.safetensors")
    refused(exported, "model.safetensors: changed", error=ValueError)
    with pytest.raises(ValueError, match="SHA256SUMS"):
        load()
    (exported / "SHA256SUMS").unlink()
    load_captioner(exported)
    for line in ("", f"{'0' * 64}  ../model.safetensors", "<html>"):
        (exported / "SHA256SUMS").write_text(line + "\n")
        refused(exported, "SHA256SUMS", error=ValueError)


def test_the_sums_are_those_of_every_shard(exported: Path) -> None:
    export_model(tiny_model(), tiny_processor(), exported, max_shard_size="50KB")
    names = sorted(path.name for path in exported.glob("model-*.safetensors"))
    assert len(names) > 1
    lines = [line.split() for line in (exported / "SHA256SUMS").read_text().splitlines()]
    assert lines == [[hashlib.sha256((exported / name).read_bytes()).hexdigest(), name] for name in names]
    load_captioner(exported)
    flip_a_weight(exported / names[-1])
    refused(exported, f"{names[-1]}: changed", error=ValueError)


@pytest.mark.parametrize("elsewhere", ["../stolen.safetensors", "/etc/stolen.safetensors", "a/b.safetensors", "x.bin"])
def test_an_index_that_leads_out_of_the_folder(elsewhere: str, exported: Path) -> None:
    model, processor = tiny_model(), tiny_processor()
    export_model(model, processor, exported, max_shard_size="50KB")
    index = exported / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    change(index, weight_map={**weight_map, next(iter(weight_map)): elsewhere})
    refused(exported, "model.safetensors.index.json: names ", error=ValueError)
    index.write_text("[]")
    refused(exported, "model.safetensors.index.json: not a valid index", error=ValueError)


def test_other_names_that_lead_out_of_the_folder(exported: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.gif"
    clip.write_bytes(b"GIF89a")
    for name in ("../clip.gif", "a/clip.gif", "/clip.gif", "clip.exe", ""):
        with pytest.raises(ExportError, match="is not a name for a sample clip"):
            export_model(tiny_model(), tiny_processor(), tmp_path / "other", samples={name: clip})
    change(exported / "config.json", transformers_weights="../other/model.safetensors")
    with pytest.raises(ModelError, match="must reference a file inside the model directory"):
        load_captioner(exported)
