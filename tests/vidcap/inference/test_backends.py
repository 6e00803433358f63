"""Backbones that only have to run: the same features by every back end, and what cannot be had is refused."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from modeling_vidcap.pretrained.backbones import load_backbone
from tests.media import texture, write_video
from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.demo.demo_data import generate_demo_data
from vidcap.inference import backends
from vidcap.inference.backends import fast_backbone, use_fast_backbone
from vidcap.inference.clip_cache import feature_extractor, open_clip_cache

ENGINES = ("torch", "openvino")


@pytest.fixture(scope="module")
def lite():
    return tiny_model(**load_backbone("efficientnet_lite0", grid=2).settings, thumbnail_size=2, color_bins=3)


def clip(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("backend", ENGINES)
@torch.no_grad()
def test_features_are_the_same_for_any_number_of_frames(lite, backend: str) -> None:
    backbone = lite.backbone
    fast = fast_backbone(backbone, clip(2), backend)
    for frames in (1, 5):
        wanted, found = backbone(clip(frames, seed=1)), fast(clip(frames, seed=1))
        assert (found - wanted).abs().max() <= (1e-4 if backend == "torch" else 0.05) * wanted.abs().max()
        pixels = wanted.shape[-1] - 472  # thumbnail and histogram do not go through the network
        torch.testing.assert_close(found[..., -pixels:], wanted[..., -pixels:])
    assert backbone.maps.__self__ is backbone


@torch.no_grad()
def test_threads_do_not_get_the_features_of_one_another(lite) -> None:
    fast = fast_backbone(lite.backbone, clip(2), "openvino", streams=2)
    clips = [clip(2, seed) for seed in range(8)]
    alone = [fast(each) for each in clips]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(torch.no_grad()(fast), clips))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


def test_a_process_outlives_its_back_ends() -> None:
    program = """
import gc, signal, subprocess, sys
from modeling_vidcap.pretrained.backbones import load_backbone
from tests.vidcap.inference.test_backends import clip, fast_backbone, tiny_model
model = tiny_model(**load_backbone("efficientnet_lite0", grid=2).settings)
first = fast_backbone(model.backbone, clip(2), "openvino")
second = fast_backbone(model.backbone, clip(2), "openvino")
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGCHLD, lambda *_: print("heard of the child's end"))
subprocess.run([sys.executable, "-c", ""], check=True)
"""
    root = Path(__file__).parents[3]
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert (ran.returncode, ran.stdout) == (0, "heard of the child's end\n"), ran.stderr


def test_the_cache_of_one_serves_the_other(tmp_path: Path) -> None:
    settings = load_backbone("efficientnet_lite0", grid=2).settings
    model, processor = tiny_model(**settings), tiny_processor()
    source = {"path": str(write_video(tmp_path / "clip.mp4", texture(8))), "bytes": None}
    caches = [open_clip_cache(model, processor, folder=tmp_path / name, backend=name) for name in ENGINES]
    assert caches[0].folder.name == caches[1].folder.name
    one, other = (cache.load(source)["video_features"].float() for cache in caches)
    assert one.shape == other.shape and (one - other).abs().max() <= 0.05 * one.abs().max()


def test_features_of_frames_of_the_usual_size_can_be_compiled() -> None:
    loaded, processor = load_backbone("efficientnet_lite0"), tiny_processor(num_frames=16)
    model = tiny_model(**loaded.settings, num_frames=16)
    loaded.fill(model.backbone.train())  # as it is when training opens its cache
    processor.video_processor.size = {"height": 160, "width": 160}
    clips = torch.rand(1, 2, 3, 160, 160, generator=torch.Generator().manual_seed(1)) * 2 - 1
    one, other = (feature_extractor(model, processor, workers=1, backend=each)(clips) for each in ENGINES)
    assert (one - other).abs().mean() <= 0.05 * one.abs().mean()


def test_captions_are_the_same_by_every_back_end(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    clips = [str(write_video(tmp_path / f"{count}.mp4", texture(count))) for count in (6, 9)]
    written = []
    for backend in ENGINES:
        command = ["caption", *clips, "--model", str(tmp_path / "model"), "--max_new_tokens", "6"]
        assert main([*command, "--backend", backend]) == 0
        written.append(capsys.readouterr().out)
    inputs = processor(videos=clips, return_tensors="pt")
    captions = processor.batch_decode(model.generate(**inputs, max_new_tokens=6), skip_special_tokens=True)
    assert written[0] == written[1] == "".join(f"{file}: {text}\n" for file, text in zip(clips, captions, strict=True))


def test_evaluation_runs_a_trained_backbone_by_the_back_end_too(tmp_path: Path, monkeypatch) -> None:
    compiled, compile_maps = [], backends._compiled_maps
    monkeypatch.setattr(backends, "_compiled_maps", lambda *args: compiled.append(args) or compile_maps(*args))
    generate_demo_data(tmp_path / "clips", train=2, validation=0, test=3, size=32)
    for frozen in (False, True):
        model, processor = tiny_model(freeze_backbone=frozen), tiny_processor()
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        command = ["evaluate", "--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "clips")]
        command += ["--output", str(tmp_path / "r.json"), "--feature_cache", str(tmp_path / "c"), "--controls", "none"]
        assert main([*command, "--backend", "openvino", "--max_new_tokens", "4"]) == 0
        assert len(compiled) == 1
        compiled.clear()
    with pytest.raises(ValueError, match="openvino computes features of a frozen backbone"):
        open_clip_cache(tiny_model(freeze_backbone=False), processor, folder=tmp_path / "c", backend="openvino")


def test_openvino_is_taken_by_itself_where_it_gains(lite, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, cpu = lite.backbone, torch.device("cpu")
    for in_bf16, installed, wanted in ((True, True, "openvino"), (True, False, "torch"), (False, True, "torch")):
        monkeypatch.setattr(backends, "computes_in_bf16", lambda device, answer=in_bf16: answer)
        monkeypatch.setattr(backends, "find_spec", lambda name, answer=installed: answer or None)
        assert backends.choose_backend(backbone, cpu) == wanted


def test_what_cannot_be_had_is_refused(lite, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = lite.backbone
    with pytest.raises(ValueError, match="auto, torch, openvino, got 'tensorrt'"):
        fast_backbone(backbone, clip(1), "tensorrt")
    seeing_clips = tiny_model(own_backbone="s3d", feature_size=1024, num_frames=8)
    with pytest.raises(ValueError, match="backend openvino"):
        use_fast_backbone(seeing_clips, tiny_processor(), "openvino")
    with monkeypatch.context() as patch:
        patch.setattr(backends, "TOLERANCE", 0.0)
        with pytest.raises(ValueError, match="backend openvino: features differ"):
            fast_backbone(backbone, clip(1), "openvino")
    with monkeypatch.context() as patch:
        patch.setattr(backends, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"openvino: pip install 'vidcap\[openvino\]'"):
            fast_backbone(backbone, clip(1), "openvino")


@torch.no_grad()
def test_a_captioner_keeps_its_captions(lite, tmp_path: Path) -> None:
    model = tiny_model(seed=3)
    inputs = tiny_processor()(videos=[tiny_clip(0), tiny_clip(1)], return_tensors="pt")
    before = model.generate(**inputs, max_new_tokens=6)
    original = model.backbone
    use_fast_backbone(model, tiny_processor(), "torch")
    assert model.backbone is original
    use_fast_backbone(model, tiny_processor(), "openvino")
    assert model.backbone is not original
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), before)
    with pytest.raises(ValueError, match="use_fast_backbone"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.get_encoder().backbone = original
    model.save_pretrained(tmp_path / "model")
