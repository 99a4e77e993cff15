"""A process's share of the machine, and the timer of its time."""

import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from common.errors import ReportedError
from distributed import device
from distributed.device import backend_for, check_computes_in, take_device
from distributed.timer import PARTS, StepCost, StepTimer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


FAULTS = """
import resource, sys, torch
from distributed.device import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-10:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator that is not known")
def test_memory_that_was_freed_is_used_again_without_the_system():
    root = Path(device.__file__).parents[1]
    kept, returned = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], cwd=root))
        for how in ("kept", "returned")
    )
    assert kept < returned / 10, "once the heap has found its size"


def test_more_processes_than_gpus_are_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ReportedError, match=r"4 processes .* 2 GPUs.* share_devices"):
        take_device(3, 4)


@pytest.mark.parametrize(("ranks", "gpus"), [(4, 2), (3, 1), (2, 2)])
def test_ranks_take_the_gpus_that_they_share_in_turn_over_gloo(monkeypatch, ranks, gpus):
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    devices = [take_device(rank, ranks, shared=True) for rank in range(ranks)]
    assert taken == [device.index for device in devices] == [rank % gpus for rank in range(ranks)]
    assert {backend_for(device, shared=True) for device in devices} == {"gloo"}


def test_devices_that_nobody_shares_have_their_own_library():
    assert (backend_for(CUDA), backend_for(CPU), backend_for(CPU, shared=True)) == (
        *("nccl", "gloo"),
        "gloo",
    )


@pytest.mark.parametrize(
    ("cuda_build", "device_file", "visible", "warned"),
    [
        (True, "/dev/null", "0", True),
        (False, "/dev/null", "0", False),
        (True, "/dev/none", "0", False),
        (True, "/dev/null", "", False),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_warned_of(
    monkeypatch, caplog, cuda_build, device_file, visible, warned
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: cuda_build)
    monkeypatch.setattr(device, "FIRST_GPU", Path(device_file))
    monkeypatch.setattr(device, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert take_device(0, 1) == CPU
    assert bool(caplog.records) == warned


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False)])
def test_bf16_is_refused_where_a_gpu_emulates_it(monkeypatch, capability, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    check_computes_in(CUDA, torch.float16)
    check_computes_in(CPU, torch.bfloat16)
    with pytest.raises(ReportedError, match="fp16") if refused else nullcontext():
        check_computes_in(CUDA, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_short_dtype_that_the_cpu_emulates_is_warned_of(monkeypatch, caplog, dtype):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    check_computes_in(CPU, torch.float32)
    assert not caplog.records
    check_computes_in(CPU, dtype)
    [warning] = caplog.records
    assert "precision=fp32" in warning.getMessage()


def test_a_part_interrupts_the_part_around_it():
    timer, began = StepTimer(CPU), time.perf_counter()
    with timer.part("forward"):
        time.sleep(0.02)
        with timer.part("activation_communication"):
            time.sleep(0.08)
        time.sleep(0.02)
    inside = time.perf_counter() - began
    time.sleep(0.05)
    seconds = timer.take().cost().parts
    assert set(seconds) == set(PARTS)
    assert seconds["activation_communication"] >= 0.08
    assert seconds["forward"] >= 0.04
    assert sum(seconds.values()) <= inside


def test_a_switch_ends_with_the_part_around_it():
    timer, began = StepTimer(CPU), time.perf_counter()
    with timer.part("backward"):
        timer.switch("gradient_communication")
        time.sleep(0.02)
    averaged = time.perf_counter() - began
    with timer.part("optimizer"):
        time.sleep(0.01)
    seconds = timer.take().cost().parts
    assert seconds["gradient_communication"] >= 0.02
    assert seconds["gradient_communication"] + seconds["backward"] <= averaged
    assert seconds["optimizer"] >= 0.01


def test_what_was_taken_is_not_booked_again():
    timer = StepTimer(CPU)
    timer.sent["fc6"] += 5
    timer.sent["logits"] += 2
    with timer.part("data"):
        time.sleep(0.01)
    cost = timer.take().cost()
    assert (cost.bytes_sent, cost.bytes_at) == (7, {"fc6": 5, "logits": 2})
    assert timer.take().cost() == StepCost()


def test_own_seconds_leave_out_communication():
    cost = StepCost(1.0, 2.0, 40.0, 4.0, 50.0, 8.0)
    assert cost.own_seconds == pytest.approx(15.0)


def test_the_median_cost_is_that_of_each_field():
    costs = [StepCost(seconds_data=s, bytes_sent=b) for s, b in ((3.0, 10), (1.0, 30), (2.0, 20))]
    assert StepCost.median(costs) == StepCost(seconds_data=2.0, bytes_sent=20)
