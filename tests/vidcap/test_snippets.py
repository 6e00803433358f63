"""Every snippet of README.md, docs/ and a generated card is run as it is printed, or stands in a list with a reason.

They are run where the files that they name exist, small ones, and where the Hub is one on loopback that holds tiny
models under the names of the published ones. A command or a block of Python that stands in no table here is run;
a training that does not is an error, since it would take hours.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    TimmWrapperConfig,
)

from hub_card.card import name_card
from processing.clips.rows import load_clips
from tests.clip_server import ClipServer
from tests.hub.storage import Account, Repository
from tests.hub_server import TOKEN, HubServer
from tests.media import shades, write_video
from tests.modeling_vidcap.test_pretrained_decoders import save_language_model
from tests.snippets import Outcome, Snippet, find_snippets, run, run_elsewhere
from tests.tiny import tiny_tokenizer
from tests.tiny_families import save_family
from vidcap.cli import build_parser
from vidcap.training.arguments.command_line import parse as parse_training

ROOT = Path(__file__).resolve().parents[2]
FILES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
CARD = "a generated card"
FEW = "--max_steps 2 --per_device_train_batch_size 4"
BRIEF = "--max_train_minutes 1 --per_device_train_batch_size 4"

NOT_RUN = {
    "make demo": "takes minutes; benchmarks/seeds.py runs the same",
    "make test": "runs this test",
    "pip install '.[train,evaluate]'": "needs a package index; tests/vidcap/test_release.py installs the wheel",
    "hf auth login": "asks for a token on the terminal",
    "accelerate launch --config_file recipes/accelerate/one-machine.yaml --num_processes 4 train_hf.py --dataset "
    "my-clips ...": "needs four GPUs; tests/vidcap/training/test_processes.py runs several processes on CPUs",
    "python benchmarks/ablations.py demo --max_train_minutes 1 --jobs 2": "takes hours",
    "python -m benchmarks.filmed CLIPS": "takes minutes and filmed clips",
    "python -m benchmarks.gallery CLIPS --ours outputs/filmed/all/seed0/predictions.jsonl --baseline "
    "outputs/filmed/all/ridge.jsonl": "needs what the command before it writes",
    "python benchmarks/ablations.py my-clips --table backbones --max_train_minutes 6 --jobs 2 --hold_out 160 --kind "
    "action": "takes hours",
    "python -m benchmarks.baselines.compare demo --max_train_minutes 2 --seeds 0 1 2 --jobs 2": "the same",
    "python -m benchmarks.baselines.compare my-clips --max_train_minutes 2 --seeds 0 1 2 --jobs 2": "the same",
    "python benchmarks/ablations.py my-clips --max_train_minutes 1.5 --jobs 2 --hold_out 160 "
    "--kind action": "the same",
    "python benchmarks/ablations.py my-clips --max_train_minutes 4 --jobs 2 --hold_out 160 --kind action "
    "--seeds 0 1 2 --only 'as set' 'no word dropout'": "the same",
}
# Trainings, with what keeps them short. Options that come last win.
TRAININGS = {
    "vidcap train --dataset my-clips --output_dir my-captioner": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --max_train_minutes 6": BRIEF,
    "vidcap train recipes/demo.yaml --dataset my-clips --output_dir my-captioner --learning_rate 5e-4": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --preset 25m --ema_decay 0.999": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --backbone cnn --augment crop,flip,color,speed": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --backbone timm/resnet18.a1_in1k "
    "--trained_backbone_stages 1": FEW,
    "vidcap train --dataset my-clips USER/other-clips third.csv --output_dir my-captioner": FEW,
    "vidcap train --dataset my-clips USER/other-clips third.csv --dataset_weights 2 1 1 "
    "--output_dir my-captioner": FEW,
    "vidcap train --dataset tgif --output_dir my-captioner": FEW,
    "torchrun --nproc_per_node 2 train_hf.py --dataset my-clips --output_dir my-captioner": FEW,
    "vidcap train --dataset my-clips --output_dir better --model_name_or_path my-captioner --learning_rate 1e-4": FEW,
    "vidcap train --dataset my-clips --output_dir better --model_name_or_path my-captioner --learning_rate 2e-5 "
    "--self_critical_samples 5 --max_train_minutes 5": BRIEF,
    "vidcap train --dataset USER/my-clips --output_dir my-captioner --streaming --max_steps 10000": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --push_to_hub --hub_model_id USER/my-captioner": FEW,
    "vidcap train --dataset captions --output_dir my-captioner": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --decoder openai-community/gpt2": FEW,
    "vidcap train --dataset my-clips --output_dir my-captioner --decoder HuggingFaceTB/SmolLM2-135M --fusion joint "
    "--freeze_decoder True": FEW,
}
# Other snippets that wait for `make test-slow`, by a part of their text.
SLOW = ("torchrun --nproc_per_node 2 -m vidcap caption", "captioner.push_to_hub")
# What a block of Python takes for granted, by a part of its text.
GIVEN = {
    "scoring_facts(references)": "hypotheses, references = ['a dog runs', 'a cat'], [['a dog runs'], ['a cat']]\n"
    "train_captions = ['a dog sleeps']\n",
    "encoder.embed_clips(clips)": "import torch\nhypotheses, references = ['a dog'], [['a dog runs']]\n"
    "clips = [torch.zeros(2, 3, 32, 32, dtype=torch.uint8)]\n",
    'image_processor": "MCG-NJU': "import vidcap\nfrom transformers import pipeline\n",
    # An optional dependency of transformers, which the page names.
    "SmolVLM2-500M": "import transformers.models.smolvlm.processing_smolvlm as smolvlm\n"
    "smolvlm.num2words = smolvlm.num2words or str\n",
}
# Folders that an earlier snippet left and that this one begins anew, by a part of its text.
ANEW = {"--split train --model Qwen/Qwen2.5-VL-3B-Instruct": "captions", "torchrun --nproc_per_node 2 -m": "captions"}
FAMILIES = {
    "microsoft/git-base-vatex": "git",
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": "smolvlm",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "USER/timesformer-gpt2": "timesformer",
}
ENCODERS = ("sentence-transformers/all-MiniLM-L6-v2", "openai/clip-vit-base-patch32", "MCG-NJU/videomae-base")
DECODERS = {"openai-community/gpt2": "gpt2", "HuggingFaceTB/SmolLM2-135M": "llama"}
ON_THE_HUB = re.compile("|".join(["USER/", "timm/", *FAMILIES, *ENCODERS, *DECODERS]))


def printed() -> list[Snippet]:
    """Of the pages."""
    return [each for name in FILES for each in find_snippets((ROOT / name).read_text(encoding="utf-8"), name)]


def runnable(snippets: list[Snippet]) -> list[Snippet]:
    return [each for each in snippets if each.language in ("bash", "python") and each.text not in NOT_RUN]


def is_slow(snippet: Snippet) -> bool:
    return snippet.is_training or any(part in snippet.text for part in SLOW)


def prepared(snippet: Snippet, folder: Path) -> tuple[str, str]:
    """Language and text of a snippet with what it takes for granted, and short where it would be long."""
    text = snippet.text
    for part, name in ANEW.items():
        if part in text:
            shutil.rmtree(folder / name, ignore_errors=True)
    given = "".join(each for part, each in GIVEN.items() if part in text)
    if snippet.is_training:
        text = f"{text} {TRAININGS[text]}"
    if "--folder 3f2a" in text:  # names of folders in the cache are hashes
        text = text.replace("3f2a", next(path.name for path in (folder / "cache").iterdir() if path.is_dir())[:4])
    return snippet.language, given + text


def expect_success(snippets: list[Snippet], outcomes: list[Outcome]) -> None:
    pairs = zip(snippets, outcomes, strict=True)
    failed = [f"{each.file}: {each.text}\n{got.output[-3000:]}" for each, got in pairs if got.status]
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


@pytest.fixture(scope="module")
def world(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the snippets name."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("my-clips", "my-captioner", "cache"):
        shutil.copytree(trained / name, folder / name)
    for name in ("recipes", "train_hf.py"):
        (folder / name).symlink_to(ROOT / name)
    clips = sorted(path for path in (folder / "my-clips/train").iterdir() if path.suffix in (".mp4", ".gif"))
    shutil.copyfile(next(path for path in clips if path.suffix == ".mp4"), folder / "clip.mp4")
    for name in ("other.gif", "clip.gif"):
        shutil.copyfile(next(path for path in clips if path.suffix == ".gif"), folder / name)
    lines = "".join(f"{path},a red car\n" for path in clips[:6])
    (folder / "third.csv").write_text(f"path,caption\n{lines}")
    for name in ("before", "after"):
        (folder / name).mkdir()
        shutil.copyfile(folder / "my-captioner/report.json", folder / name / "report.json")

    images = [{"id": number, "file_name": f"COCO_val2014_{number:012}.jpg"} for number in (1, 2)]
    captions = [{"image_id": number, "id": number, "caption": f"a dog and {number} cats"} for number in (1, 2)]
    (folder / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "results.json").write_text(json.dumps([{"image_id": number, "caption": "a dog"} for number in (1, 2)]))

    (folder / "TrainValVideo").mkdir()
    (folder / "videos").mkdir()
    videos, sentences = [], []
    for number, split in enumerate(("train", "validate")):
        write_video(folder / f"TrainValVideo/video{number}.mp4", shades(20 + number))
        write_video(folder / f"videos/v_{number}.mp4", shades(40 + number))
        facts = {"video_id": f"video{number}", "split": split, "start time": 0.0, "end time": 1.0, "url": "https://x"}
        videos.append({"id": number, "category": 0, **facts})
        sentences.append({"sen_id": number, "video_id": f"video{number}", "caption": "a man drives a red car"})
    (folder / "train_val_videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    part = {"duration": 2.0, "timestamps": [[0.0, 1.0]], "sentences": ["A man drives a red car."]}
    (folder / "train.json").write_text(json.dumps({f"v_{number}": part for number in (0, 1)}))
    with ClipServer() as server:
        urls = [f"{server.url}/{number}.gif" for number in range(8)]
        (folder / "tgif-v1.0.tsv").write_text("".join(f"{url}\ta dog runs by a car {url[-5]}\n" for url in urls))
        for name, some in (("train", urls[:6]), ("val", urls[6:7]), ("test", urls[7:])):
            (folder / f"{name}.txt").write_text("".join(f"{url}\n" for url in some))
        yield folder


@pytest.fixture(scope="module")
def hub(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Holds tiny models under the names that the pages use, and data sets of USER's."""
    folder = tmp_path_factory.mktemp("published")
    for name, family in FAMILIES.items():
        save_family(family, folder / name)
    for name in ("image_processor", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / "USER/timesformer-gpt2" / name).unlink(missing_ok=True)  # the page passes these parts
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sentences, pairs, frames = (folder / name for name in ENCODERS)
    BertModel(BertConfig(vocab_size=40, **sizes)).save_pretrained(sentences)
    tiny_tokenizer().save_pretrained(sentences)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {"vocab_size": 40, "max_position_embeddings": 12, **special, **sizes}
    config = CLIPConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 16, **sizes})
    CLIPModel(config).save_pretrained(pairs)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tiny_tokenizer()).save_pretrained(pairs)
    pictures.save_pretrained(frames)
    (frames / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    for name, kind in DECODERS.items():
        save_language_model(folder / name, kind)
    resnet = TimmWrapperConfig(architecture="resnet18", do_pooling=False)
    AutoModel.from_config(resnet).save_pretrained(folder / "timm/resnet18.a1_in1k")
    for name in ("USER/other-clips", "USER/my-clips"):
        shutil.copytree(world / "my-clips", folder / name)
    with HubServer() as server:
        server.tokens[TOKEN] = Account("USER")
        for path in sorted(folder.glob("*/*")):
            kind = "dataset" if path.name.endswith("-clips") else "model"
            files = {
                each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()
            }
            repository = server.repositories[kind, path.relative_to(folder).as_posix()] = Repository(owner="USER")
            repository.commit("main", files, "published")
        yield server


def environment(hub: HubServer, world: Path) -> dict[str, str]:
    return hub.environment(world / "home") | {"VIDCAP_CACHE": str(world / "cache"), "OMP_NUM_THREADS": "1"}


def test_every_snippet_is_run_or_listed() -> None:
    """And nothing is listed that is not printed."""
    snippets = [each.text for each in printed()]
    trainings = {each.text for each in runnable(printed()) if each.is_training}
    assert trainings == set(TRAININGS) and set(NOT_RUN) <= set(snippets)
    for part in (*SLOW, *GIVEN, *ANEW):
        assert any(part in text for text in snippets), part
    known = {"bash", "python", "json", ""}
    assert {each.language for each in printed()} <= known  # others would be neither


def test_what_is_not_run_has_options_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    makefile = (ROOT / "Makefile").read_text()
    extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text().partition("extras_require]")[2], re.MULTILINE)
    for text in NOT_RUN:
        program, *arguments = shlex.split(text)
        if program == "make":
            assert all(re.search(f"^{goal}:", makefile, re.MULTILINE) for goal in arguments)
        elif program == "pip":
            assert set(arguments[1].strip(".[]").split(",")) <= set(extras)
        elif program == "python":
            script = f"{arguments[1].replace('.', '/')}.py" if arguments[0] == "-m" else arguments[0]
            options = (ROOT / script).read_text()
            assert all(f'"{word}"' in options for word in arguments if word.startswith("--"))
        elif program == "accelerate":
            assert (ROOT / arguments[arguments.index("--config_file") + 1]).is_file()
            parse_training([word for word in arguments[arguments.index("train_hf.py") + 1 :] if word != "..."]
                           + ["--output_dir", "x"])  # fmt: skip
        else:
            assert text == "hf auth login"


def test_the_options_of_every_command_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are run only by `make test-slow`, too."""
    monkeypatch.chdir(ROOT)
    for snippet in runnable(printed()):
        if snippet.is_training:
            start = snippet.argv.index("train_hf.py" if "train_hf.py" in snippet.argv else "train")
            data, _, arguments, _ = parse_training(snippet.argv[start + 1 :])
            assert data.dataset and arguments.output_dir
        elif snippet.language == "bash":
            assert "vidcap" in snippet.argv, snippet.text
            build_parser().parse_args(snippet.argv[snippet.argv.index("vidcap") + 1 :])


def test_commands(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("VIDCAP_CACHE", str(world / "cache"))
    snippets = [each for each in runnable(printed()) if each.language == "bash" and not is_slow(each)]
    snippets = [each for each in snippets if not ON_THE_HUB.search(each.text)]
    assert len(snippets) > 20
    outcomes = [run(*prepared(each, world)) for each in snippets]
    expect_success(snippets, outcomes)
    said = dict(zip((each.text for each in snippets), (each.output for each in outcomes), strict=True))
    assert "clip.mp4: " in said["vidcap caption clip.mp4 other.gif --model my-captioner"]
    assert (world / "clip.vtt").read_text().startswith("WEBVTT") and (world / "inspection/inspection.json").is_file()
    assert json.loads((world / "tgif/manifest.json").read_text())["kept"] == 8


def test_python_and_the_hub(world: Path, hub: HubServer) -> None:
    snippets = [each for each in runnable(printed()) if not is_slow(each)]
    snippets = [each for each in snippets if each.language == "python" or ON_THE_HUB.search(each.text)]
    assert len(snippets) > 15
    if not (world / "captions.jsonl").is_file():  # which a command makes
        line = {"file_name": "00000.mp4", "hypothesis": "a dog", "references": ["a dog runs"]}
        (world / "captions.jsonl").write_text(json.dumps(line) + "\n")
    of_card = find_snippets((world / "my-captioner/README.md").read_text(encoding="utf-8"), CARD)
    named = [Snippet(CARD, each.language, name_card(each.text.encode(), "USER/my-captioner").decode())
             for each in of_card]  # fmt: skip
    assert [each.language for each in named] == ["python", "bash", "python", "yaml"]
    snippets += runnable(named)  # after the push
    outcomes = run_elsewhere([prepared(each, world) for each in snippets], world, environment(hub, world))
    expect_success(snippets, outcomes)
    assert all(each.output.strip() for each in outcomes[-3:])
    pushed = hub.files("USER/my-captioner")["README.md"].decode()
    assert runnable(find_snippets(pushed, CARD)) == runnable(named)
    assert hub.repositories["model", "USER/my-captioner"].private


@pytest.mark.slow
def test_trainings_and_several_processes(world: Path, hub: HubServer) -> None:
    # Those that use `my-captioner` come before those that write over it.
    snippets = sorted((each for each in runnable(printed()) if is_slow(each)), key=lambda each: each.is_training)
    if not (world / "tgif").is_dir():
        prepare = next(each for each in printed() if each.text.startswith("vidcap data prepare tgif"))
        snippets.insert(0, prepare)
    # Which the first push makes.
    hub.repositories.setdefault(("model", "USER/my-captioner"), Repository(owner="USER", private=True))
    outcomes = run_elsewhere([prepared(each, world) for each in snippets], world, environment(hub, world))
    expect_success(snippets, outcomes)
    report = json.loads((world / "my-captioner/report.json").read_text())
    assert report["steps"] == 2


@pytest.mark.slow
def test_where_the_package_is_not_installed(world: Path, hub: HubServer) -> None:
    """Blocks that trust the code of the model's folder say so because they need nothing else."""
    blocks = [each for each in printed() if each.language == "python" and "trust_remote_code=True" in each.text]
    assert blocks
    alone = f"import sys\nsys.path.insert(0, {str(ROOT / 'hub_card')!r})\nimport probe\n"
    alone += "sys.meta_path.insert(0, probe.NotInstalled())\n"
    outcomes = run_elsewhere([("python", alone + each.text) for each in blocks], world, environment(hub, world))
    expect_success(blocks, outcomes)


def test_the_lines_of_metadata_are_read(world: Path, tmp_path: Path) -> None:
    [block] = [each for each in printed() if each.language == "json"]
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metadata.jsonl").write_text(block.text)
    lines = [json.loads(line) for line in block.text.splitlines()]
    for line in lines:
        shutil.copyfile(world / "clip.mp4", tmp_path / "train" / line["file_name"])
    rows = load_clips(str(tmp_path), "train")
    assert [row["captions"] for row in rows] == [line.get("captions") or [line["caption"]] for line in lines]
    assert np.array_equal([row["kind"] for row in rows], [line.get("kind") for line in lines])


def test_snippets_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "```bash\na 'b  c' \\\n    --d    # e\n\n# f\ng\n```\n````python\n```\n````\n```\nplain\n```\n"
    found = [(each.language, each.text) for each in find_snippets(text, "x.md")]
    assert found == [("bash", "a 'b  c' --d"), ("bash", "g"), ("python", "```\n"), ("", "plain\n")]
    assert run("python", "print('out')\nraise SystemExit(3)") == Outcome(3, "out\n")
    assert run("bash", "vidcap caption --nonsense").status == 2
