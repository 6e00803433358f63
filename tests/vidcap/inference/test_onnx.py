"""ONNX graphs of a captioner: the model's words and scores by ONNX Runtime, on clips they were not made with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.cli import main
from vidcap.inference import onnx_export
from vidcap.inference.onnx_export import OnnxCaptioner, check, export_onnx


@pytest.fixture(scope="module")
def model():
    made = tiny_model(seed=1, encoder_layers=2, text_layers=2, color_bins=2, thumbnail_size=2)
    made.generation_config.update(suppress_tokens=[0, 1, 3], max_new_tokens=8)
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tiny_processor(), tmp_path_factory.mktemp("onnx"))


@pytest.mark.parametrize("frames", [[8], [3, 8, 5, 1]])
@torch.no_grad()
def test_onnx_runtime_writes_what_the_model_writes(model, folder: Path, frames: list[int]) -> None:
    """Of one clip and of four, of which some are shorter than the batch."""
    inputs = tiny_processor()(videos=[tiny_clip(seed, frames=n) for seed, n in enumerate(frames)], num_frames=6)
    words, scores = OnnxCaptioner(folder)({name: value.numpy() for name, value in inputs.items()})
    options = {"num_beams": 1, "output_scores": True, "return_dict_in_generate": True}
    wanted = model.generate(**inputs, **options)
    assert np.array_equal(words, wanted.sequences.numpy())
    for step, expected in enumerate(wanted.scores):
        np.testing.assert_allclose(scores[:, step], expected.numpy(), atol=1e-4)
    assert len(frames) == 1 or len(np.unique(words, axis=0)) > 1
    assert OnnxCaptioner(folder)({name: value.numpy() for name, value in inputs.items()}, max_words=2)[0].shape[1] == 3


def test_graphs_of_another_model_are_found_out(model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny_model(seed=2, encoder_layers=2, text_layers=2, color_bins=2, thumbnail_size=2)
    other.generation_config = model.generation_config
    with pytest.raises(RuntimeError, match="captions of ONNX Runtime differ"):
        check(other, tiny_processor(), folder)
    check(model, tiny_processor(), folder)
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match="scores of ONNX Runtime differ"):
        check(model, tiny_processor(), folder)


def test_the_command_line_exports_and_says_what_cannot_be(tmp_path: Path, capsys, monkeypatch) -> None:
    tiny_model(fusion="joint").save_pretrained(tmp_path / "joint")
    tiny_processor().save_pretrained(tmp_path / "joint")
    clips = tiny_model(own_backbone="s3d", feature_size=1024, num_frames=8)
    with pytest.raises(ValueError, match="a clip encoder cannot be exported to ONNX"):
        export_onnx(clips, tiny_processor(num_frames=8), tmp_path / "never")
    command = ["export-onnx", "--model", str(tmp_path / "joint"), "--output", str(tmp_path / "onnx")]
    assert main(command) == 1
    assert "`fusion` 'joint' cannot be exported to ONNX" in capsys.readouterr().err
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    assert main(command) == 1
    assert "onnx, onnxscript, onnxruntime: pip install 'vidcap[onnx]'" in capsys.readouterr().err
    written = []
    monkeypatch.setattr(onnx_export, "export_onnx", lambda model, processor, output: written.append(output))
    (tmp_path / "onnx").mkdir()  # of an earlier export, say
    assert main(command) == 0 and written == [tmp_path / "onnx"]
