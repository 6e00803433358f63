"""bf16 is tried where the machine has instructions for it, and taken where it is faster."""

import time
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp

import train_hf
from processing.clips.collator import VideoCaptionCollator
from tests.tiny import tiny_model, tiny_processor
from tests.trainers import Clips
from vidcap import precision as of_device
from vidcap.demo.demo_data import generate_demo_data
from vidcap.precision import computes_in_bf16, faster_in_bf16
from vidcap.training import precision
from vidcap.training.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("slower_in_bf16", [True, False])
def test_the_faster_of_the_two_is_taken(monkeypatch, slower_in_bf16):
    monkeypatch.setattr(of_device, "computes_in_bf16", lambda device: True)
    faster_in_bf16(lambda: None, CPU)  # what is loaded by the first use of autocast is not timed
    answer = faster_in_bf16(
        lambda: time.sleep(0.02 if torch.is_autocast_enabled("cpu") == slower_in_bf16 else 0.001), CPU
    )
    assert answer is not slower_in_bf16


def test_a_cpu_without_instructions_for_bf16_is_not_made_to_try(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    assert not faster_in_bf16(lambda: pytest.fail("tried"), CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    for torch_may, computes in (("AVX512", True), ("AVX2", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda answer=torch_may: answer)
        assert computes_in_bf16(CPU) is computes


def _rank_answer(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    of_device.computes_in_bf16 = lambda device: True
    faster_on_this = rank == 1
    answer = faster_in_bf16(
        lambda: time.sleep(0.001 if torch.is_autocast_enabled("cpu") == faster_on_this else 0.02), CPU
    )
    of_device.computes_in_bf16 = lambda device: rank == 1
    torch.save((answer, faster_in_bf16(lambda: None, CPU)), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_that_measure_differently_take_the_same_precision(tmp_path):
    mp.spawn(_rank_answer, args=(str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)] == [(False, False)] * 2


def test_a_precision_that_was_asked_for_is_not_tried(tmp_path, monkeypatch, caplog):
    generate_demo_data(tmp_path / "clips", train=4, validation=2, test=0, size=32)
    monkeypatch.setattr(precision, "faster_in_bf16", lambda *arguments: True)
    command = [
        *("--dataset", str(tmp_path / "clips"), "--output_dir", str(tmp_path / "m"), "--test_split", "none"),
        *("--feature_cache", str(tmp_path / "cache"), "--decoding_workers", "1", "--use_cpu", "True"),
        *"--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64".split(),
        *"--num_attention_heads 2 --max_steps 1 --per_device_train_batch_size 2 --max_caption_length 16".split(),
        *"--save_strategy no --eval_strategy no --load_best_model_at_end False".split(),
    ]
    assert train_hf.main([*command, "--bf16", "False"]) == 0
    assert "): fp32, Muon and AdamW" in caplog.text
    assert train_hf.main(command) == 0
    assert "): bf16, Muon and AdamW" in caplog.text


def test_trying_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(of_device, "computes_in_bf16", lambda device: True)
    processor, model = tiny_processor(), tiny_model()
    model.norm = torch.nn.BatchNorm1d(3)  # as those of a backbone
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = SimpleNamespace(per_device_train_batch_size=4, device=CPU, bf16=None, mixed_precision=None)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(model.norm(torch.rand(4, 3)).requires_grad))
    choose_precision(args, set(), model, VideoCaptionCollator(processor), Clips(processor))
    assert len(seen) == 8 and args.mixed_precision == ("bf16" if args.bf16 else "no")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
