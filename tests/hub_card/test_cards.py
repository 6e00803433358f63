"""Cards: what they tell is what the run found, the Hub's client reads it, and no text of the data becomes markup."""

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, constants, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from hub_card import model_card
from hub_card.card import name_card
from tests.hub_server import HubServer
from tests.media import shades, write_video
from tests.snippets import find_snippets, run
from vidcap.cli import main
from vidcap.data.cards import WRITTEN, origin
from vidcap.evaluation.report.clip_pictures import ReportExample
from vidcap.evaluation.report.errors import word_facts
from vidcap.evaluation.report.examples import sample_clips
from vidcap.training import run_facts as run_facts_file
from vidcap.training.arguments.command_line import parse
from vidcap.training.run_facts import code_commit, run_facts

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# What a caption, a name or a file may hold.
NASTY = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</code></p><h1>big</h1><!--",
    "[here](javascript:alert(1)) ![x](https://example.com/x.png) <https://example.com>",
    "`` ` ``` code\n```\n# A heading\n\n<b>bold</b>",
    "a\\` <i>x</i> `b` \\",
    "\n---\nlicense: mit\n---\n",
    "| a | b |\n|---|---|\n| c \\| d |",
    "# heading",
    "- item",
    "1. item",
    "***bold*** ~~gone~~ $x$ &lt;b&gt;",
    "a\u202eb\u0000c\u2028d",
    "!!python/object/apply:os.system ['true']",
    "'\": {a: [b, *c, &d",
    "   ",
)


def tokens(card: str) -> list[Token]:
    """The card's Markdown without its metadata, as a renderer takes it apart, what stands inside lines included."""
    found = []
    for token in MARKDOWN.parse(ModelCard(card).text):
        found += [token, *(token.children or ())]
    return found


def facts_with(text: str) -> dict[str, Any]:
    """A run all of whose texts are this one."""
    return {
        "scores": {"cider": 12.5, "exact": 0.25},
        "controls": {"other_clip": {"cider": 1.0, "exact": 0.0, "gap": {"cider": [11.5, 9.0, 13.0]}}, text: {}},
        "verdict": [{"sentence": text}],
        "data_sets": [{"name": text, "train": 3, "test": 2, "license": text, "annotated": 4, "kept": 3}],
        "words": {
            "captions": 3,
            "words": 2,
            "subjects": {text: 0.5},
            "references": 2,
            "never_said": 1,
            "never_said_most": {text: 1},
            "not_grounded": [text],
        },
        "samples": [{"file": "clip-1.gif", "hypothesis": text, "references": [text], "exact": False}],
        "hardware": {"cpu": text, "cpu_count": 2, "threads": 1, "processes": 1, "gpus": [text]},
        "recipe": {"backbone": text, "augment": [text], "seed": 0},
        "versions": {"torch": text},
        "commit": text,
        "backbone": text,
        "license": text,
        "tags": [text],
        "language": text,
        "name": text,
        "arguments": {"dataset": text, "test_split": text, "model_name_or_path": text},
    }


@pytest.mark.parametrize("text", NASTY)
def test_no_text_becomes_markup(text: str) -> None:
    plain = "a red circle"
    card, usual = model_card(facts_with(text)), model_card(facts_with(plain))

    def shape(card: str) -> list[tuple[str, str]]:
        kept = [token for token in tokens(card) if token.type not in ("text", "text_special", "softbreak")]
        return [(token.type, token.tag) for token in kept if token.type not in ("code_inline", "entity")]

    assert shape(card) == shape(usual)
    assert not [token for token in tokens(card) if token.type.startswith(("html", "link"))]
    images = [token.attrs["src"] for token in tokens(card) if token.type == "image"]
    assert images == ["samples/clip-1.gif"]
    # A renderer shows the text itself, in its code span or its cell.
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if shown:
        assert sum(token.content == shown for token in tokens(card) if token.type == "code_inline") >= 5
        blocks = MARKDOWN.parse(ModelCard(card).text)
        cells = [blocks[index + 1].children for index, token in enumerate(blocks) if token.type == "td_open"]
        assert ["".join(part.content for part in cell) for cell in cells].count(shown) == 2  # name and licence

    data = ModelCard(card).data
    assert set(data.to_dict()) == set(ModelCard(usual).data.to_dict())
    assert (data.license, data.language, data.tags[-1]) == (text, text, text)
    assert [result.dataset_name for result in data.eval_results] == [text] * 2
    recipe = next(token for token in tokens(card) if token.type == "fence" and token.info == "yaml")
    assert yaml.safe_load(recipe.content) == facts_with(text)["recipe"]


def test_the_clients_own_loaders_read_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "repo_id": "me/shapes",
        "scores": {"cider": 123.44, "bleu4": 50.0, "rougeL": 61.20009, "exact": 0.5, "distinct": 0.9},
        "data_sets": [{"name": "me/clips", "train": 9, "test": 0}, {"name": "me/others", "train": 9, "test": 3}],
        "arguments": {"dataset": ["me/clips", "me/others"], "test_split": "test", "backbone": "timm/resnet18"},
    }
    path = tmp_path / "README.md"
    path.write_text(model_card(facts), encoding="utf-8")
    metadata = metadata_load(path)
    assert metadata["datasets"] == ["me/clips", "me/others"] and metadata["base_model"] == ["timm/resnet18"]
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "shapes" and eval_results_to_model_index(name, results) == metadata["model-index"]
    found = {(result.metric_type, result.metric_name): result.metric_value for result in results}
    assert found == {
        ("cider", "CIDEr"): 123.44,
        ("bleu", "BLEU-4"): 50.0,
        ("rouge", "ROUGE-L"): 61.2001,
        ("exact_match", "exact"): 0.5,
    }
    assert metadata["metrics"] == ["cider", "bleu", "rouge", "exact_match"]
    for result in results:
        assert (result.dataset_type, result.dataset_split) == ("me/others", "test")
        assert result.task_type == metadata["pipeline_tag"] == "video-text-to-text"
    card = ModelCard.load(path)
    assert card.data.eval_results == results
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        card.validate()
        assert hub.requests == ["POST /api/validate-yaml"]


def test_a_score_that_is_none_is_no_result() -> None:
    facts = {"scores": {"cider": float("nan"), "exact": 1.0}, "dataset": "/data/clips"}
    [result] = ModelCard(model_card(facts)).data.eval_results
    assert (result.metric_type, result.dataset_type, result.dataset_name) == ("exact_match", "custom", "clips")
    assert "model-index" not in metadata_of(model_card({"scores": {}}))


def metadata_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---")[1])


def test_a_name_that_no_repository_can_have() -> None:
    for name in ("a\nb", 'a"b/c', "a/b/c", "a b"):
        with pytest.raises(ValueError, match="repo_id="):
            model_card({"repo_id": name})
    card = model_card({})
    named = name_card(card.encode(), "me/shapes").decode()
    assert card.count("FOLDER_OR_HUB_ID") == named.count("me/shapes") == 3
    assert named == model_card({"repo_id": "me/shapes"}).replace("# shapes", "# Video captioner")


def test_a_card_tells_what_its_run_found(trained: Path) -> None:
    card = (trained / "my-captioner" / "README.md").read_text(encoding="utf-8")
    report = json.loads((trained / "my-captioner" / "report.json").read_text(encoding="utf-8"))
    [data_set] = report["data_sets"]
    assert data_set == {"name": "my-clips", "train": 24, "validation": 4, "test": 6, "license": "cc-by-4.0"}
    assert "| my-clips | cc-by-4.0 | 24 | 4 | 6 |\n" in card
    results = {each.metric_name: each.metric_value for each in ModelCard(card).data.eval_results}
    assert results["CIDEr"] == round(report["scores"]["cider"], 4) and results["exact"] == report["scores"]["exact"]
    assert all(each["sentence"].split("(")[0] in card for each in report["verdict"])
    gap, low, high = report["controls"]["other_clip"]["gap"]["cider"]
    assert f"| {gap:.1f} ({low:.1f} to {high:.1f}) |" in card
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe == report["recipe"] and recipe["backbone"] == "cnn" and recipe["dataset"] == "my-clips"
    for fact in (f"- CPU: {report['hardware']['cpu'].split('(')[0]}", f"torch {report['versions']['torch']}"):
        assert fact in card
    assert report["commit"].split(",")[0] in card if "commit" in report else "commit" not in card
    assert f"- {report['words']['captions']:,} training captions with {report['words']['words']} different" in card
    assert "The most frequent subjects of the training captions" in card
    files = sorted(path.name for path in (trained / "my-captioner" / "samples").glob("*.gif"))
    assert files == [f"clip-{number}.gif" for number in (1, 2, 3, 4)]
    assert re.findall(r"!\[sample \d\]\(samples/(.*)\)", card) == files
    for file in files:
        path = trained / "my-captioner" / "samples" / file
        assert path.stat().st_size <= 100_000
        with Image.open(path) as picture:
            assert picture.is_animated and max(picture.size) <= 160
    lines = [json.loads(line) for line in (trained / "my-clips/test/metadata.jsonl").read_text().splitlines()]
    truths = {line["caption"] for line in lines}
    shown = re.findall("`: a reference is `(.*)`", card)
    assert len(shown) + card.count("`: equals a reference") == 4 and set(shown) <= truths
    assert str(trained) not in card


def test_samples_are_a_fair_draw() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 120, 180, 3), dtype=np.uint8)  # noise: large as a GIF
    examples = [
        ReportExample(f"{draw}.mp4", frames[: 20 if draw else 1], f"caption {draw}", ["truth"], False, draw=draw)
        for draw in (5, 3, 0, 9, 1)
    ]
    texts, files = sample_clips(examples, 3)
    assert [each["hypothesis"] for each in texts] == ["caption 0", "caption 1", "caption 3"]
    assert list(files) == [each["file"] for each in texts]
    assert all(len(content) <= 100_000 for content in files.values())
    with Image.open(io.BytesIO(files["clip-2.gif"])) as picture:
        assert picture.n_frames == 16 and picture.width > picture.height >= 16
    assert sample_clips([]) == ([], {})


def test_what_the_captions_are_made_of() -> None:
    train = ["A dog runs.", "a dog sleeps", "the brown cat jumps", "it rains"]
    assert word_facts(train) == {
        "captions": 4,
        "words": 10,
        "subjects": {"dog": 0.5, "cat": 0.25},
    }
    predictions = [
        {"hypothesis": "a dog runs", "references": ["a dog runs", "the dog is running"]},
        {"hypothesis": "a dog runs", "references": ["a cat runs"]},
        {"hypothesis": "a dog runs", "references": ["a cat jumps"]},
    ]
    grounding = {
        "words": {
            "dog": {"count": 9, "fall": 0.6},
            "runs": {"count": 5, "fall": 0.01},
            "cat": {"count": 4, "fall": 0.0},
            "jumps": {"count": 6, "fall": -0.1},
        }
    }
    found = word_facts(train, predictions, grounding)
    assert found["references"] == 5 and found["never_said"] == 3
    assert found["never_said_most"] == {"cat": 2, "jumps": 1, "running": 1}
    assert found["not_grounded"] == ["jumps", "runs"]


def test_the_recipe_and_the_machine() -> None:
    arguments = {"dataset": "clips", "seed": 3, "hidden_size": 32, "hub_model_id": "me/x", "report_to": "none"}
    arguments["fsdp_config"] = "/home/me/fsdp.json"
    facts = run_facts(
        {"seed", "dataset", "hub_model_id", "report_to", "output_dir", "fsdp_config"}, arguments, processes=2
    )
    assert facts["recipe"] == {"dataset": "clips", "fsdp_config": "fsdp.json", "seed": 3}
    assert facts["hardware"]["processes"] == 2 and facts["hardware"]["cpu_count"] >= 1 and facts["hardware"]["cpu"]


def test_the_commit_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "checkout" / "vidcap"
    package.mkdir(parents=True)
    assert code_commit(package, distribution="no-such-distribution") is None
    (package.parent / ".git").mkdir()
    answers = {"rev-parse": "abc123", "status": ""}
    monkeypatch.setattr(run_facts_file, "_git", lambda root, command, *_: answers[command])
    assert code_commit(package) == "abc123"
    answers["status"] = " M vidcap/cli.py"
    assert code_commit(package) == "abc123, changed"

    def fail(*_: str) -> str:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(run_facts_file, "_git", fail)
    assert code_commit(package) is None
    installed = tmp_path / "site-packages" / "somewhere-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: somewhere\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    assert code_commit(installed.parent, distribution="somewhere") is None
    for info, commit in (({"vcs_info": {"vcs": "git", "commit_id": "def456"}}, "def456"), ({"dir_info": {}}, None)):
        (installed / "direct_url.json").write_text(json.dumps({"url": "https://example.com", **info}))
        assert code_commit(installed.parent, distribution="somewhere") == commit


def test_what_a_data_set_tells_of_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert origin(str(tmp_path)) == {}
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: [mit, cc-by-4.0]\n---\n")
    (tmp_path / "manifest.json").write_text('{"annotated": 5, "kept": 4}')
    assert origin(str(tmp_path)) == {"license": "mit, cc-by-4.0", "annotated": 5, "kept": 4}
    assert not caplog.records
    card.write_text("---\nlicense: [mit\n---\n")
    assert origin(str(tmp_path)) == {"annotated": 5, "kept": 4}
    assert origin("nobody/no-clips") == {}  # offline
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "nobody/no-clips: the data set card cannot be read" in caplog.text


def msrvtt(folder: Path) -> Path:
    """Annotations of five clips: one of them stands still, one is not there, one has a caption of nothing."""
    (folder / "clips").mkdir()
    videos, sentences = [], []
    for number, split in enumerate(("train", "train", "validate", "train", "test")):
        if number != 3:
            frames = [*shades(9)[number:], *shades(2)] if number != 1 else shades(1) * 8
            write_video(folder / f"clips/video{number}.mp4", frames)
        facts = {"video_id": f"video{number}", "split": split, "start time": 0.0, "end time": 1.0}
        videos.append({"id": number, **facts})
        caption = "  " if number == 4 else "a <b>grey</b> frame  |\n# <script>"
        sentences.append({"sen_id": number, "video_id": f"video{number}", "caption": caption})
    path = folder / "annotations.json"
    path.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    return path


@pytest.mark.parametrize("form", ["parquet", "webdataset", "folder"])
def test_the_card_of_a_prepared_data_set(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = msrvtt(tmp_path)
    output = tmp_path / "my | <b>clips"
    command = ["data", "prepare", str(annotations), "--format", "msrvtt", "--clips", str(tmp_path / "clips")]
    command += ["--output", str(output), "--shards", form]
    assert main([*command, "--license", "cc-by-4.0"]) == 0
    card = DatasetCard.load(output / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.pretty_name == output.name
    assert card.data.size_categories == "n<1K" and card.data.task_categories == ["video-text-to-text"]
    blocks = MARKDOWN.parse(card.text)
    assert [each.content for each in blocks if each.type == "html_block"] == [WRITTEN + "\n"]
    cells = [blocks[index + 1].content for index, token in enumerate(blocks) if token.type == "td_open"]
    assert cells[:8] == ["train", "1", "3", "33.3%", "validation", "1", "1", "100.0%"]
    assert {"still", "missing", "no\\_caption"} <= set(cells)
    assert "2 of 5 captions were kept" in card.text

    rows = load_dataset(str(output))
    assert {split: len(each) for split, each in rows.items()} == {"train": 1, "validation": 1}
    monkeypatch.chdir(tmp_path)
    [snippet] = [each.text for each in find_snippets(card.text, "") if each.language == "python"]
    said = run("python", snippet.replace('"FOLDER_OR_HUB_ID"', repr(str(output))))
    assert said.status == 0 and "num_rows: 1" in said.output
    [training] = [each for each in find_snippets(card.text, "") if each.is_training]
    assert parse(training.argv[2:])[0].dataset == ["FOLDER_OR_HUB_ID"]
    assert origin(str(output)) == {"license": "cc-by-4.0", "annotated": 5, "kept": 2}

    before = card.content
    assert main([*command, "--license", "cc-by-4.0"]) == 0 and DatasetCard.load(output / "README.md").content == before
    assert main(command) == 0 and DatasetCard.load(output / "README.md").data.license is None
    (output / "README.md").write_text("# Mine\n")
    assert main(command) == 0 and (output / "README.md").read_text() == "# Mine\n"
    assert "README.md was not written by vidcap data prepare" in caplog.text
