"""bf16 is tried where the machine has instructions for it, and taken where it is faster."""

import time

import pytest
import torch

from modeling_vidcap.precision import faster_in_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("slower_in_bf16", [True, False])
def test_the_faster_of_the_two_is_taken(monkeypatch, slower_in_bf16):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    faster_in_bf16(lambda: None, CPU)  # what is loaded by the first use of autocast is not timed
    answer = faster_in_bf16(
        lambda: time.sleep(0.02 if torch.is_autocast_enabled("cpu") == slower_in_bf16 else 0.001), CPU
    )
    assert answer is not slower_in_bf16


def test_a_cpu_without_instructions_for_bf16_is_not_made_to_try(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    assert not faster_in_bf16(lambda: pytest.fail("tried"), CPU)
