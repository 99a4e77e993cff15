"""What is checked of GPUs alone, without one."""

import warnings
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from checking import gpu
from checking.gpu import check_host_is_free, check_logits, count_waits, logits_error
from checking.steps import Trainings, small_config
from distributed.device import exactly
from tests.ranks import mesh_of


@pytest.mark.parametrize("check", [check_logits, check_host_is_free])
def test_without_a_gpu_nothing_is_claimed(check):
    trainings = SimpleNamespace(mesh=SimpleNamespace(device=torch.device("cpu")))
    [outcome] = check(trainings)
    assert (outcome.holds, outcome.said) == (None, "no GPU")


@pytest.mark.parametrize("waits", [0, 2])
def test_the_waits_of_a_step_are_counted(monkeypatch, waits):
    modes: list[str] = []

    def set_mode(mode):
        modes.append(mode)
        if mode == "warn":
            warnings.warn("it does not yet detect all synchronizing operations", stacklevel=1)

    def step(local):
        for _ in range(waits):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another matter", stacklevel=1)
        return SimpleNamespace(result=lambda: modes.append("read"))

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(gpu, "next_batches", lambda trainer, number: [None] * number)
    assert count_waits(SimpleNamespace(train_step=step)) == waits  # type: ignore[arg-type]
    assert modes == ["warn", "default", "read"], "what is read after the step may wait"


def _waits_of_a_step():
    config = small_config(1, "fp32")
    trainer = Trainings(mesh_of(config.plan(1))).start(config)
    with patch.object(torch.cuda, "set_sync_debug_mode"):
        return count_waits(trainer), trainer.steps


def test_a_real_step_is_taken_to_count(one_rank):
    assert one_rank.run(_waits_of_a_step) == [(0, 1)]


def test_the_logits_of_a_device_are_held_against_the_cpus():
    assert logits_error(torch.device("cpu")) == 0


def test_exact_arithmetic_ends_where_it_was_asked_for(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    before = torch.get_float32_matmul_precision()
    try:
        with exactly(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
