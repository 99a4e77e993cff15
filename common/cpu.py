"""This machine's CPU: its model, its memory and its arithmetic."""

import os
import platform
from pathlib import Path

import torch


def cpu_emulates(dtype: torch.dtype) -> bool:
    """True if oneDNN has no convolutions and matrix products in ``dtype`` for this CPU.

    Torch's own loops then take their place. For bf16, oneDNN needs AVX-512 on x86.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    if not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return not torch.ops.mkldnn._is_mkldnn_fp16_supported()


def cpu_name() -> str:
    """The model of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
