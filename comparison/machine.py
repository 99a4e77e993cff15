"""A description of this machine."""

import platform
from typing import Any

import torch

from common.cpu import cpu_name, host_memory
from launch.threads import usable_cores


def describe_machine() -> dict[str, Any]:
    """The facts about the machine that go with every result."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(host_memory() / 2**30, 1),
        "gpus": gpus,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def in_words(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    gpus = f", {len(machine['gpus'])} × {machine['gpus'][0]}" if machine["gpus"] else ", no GPU"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpus}, "
        f"torch {machine['torch']}"
    )
