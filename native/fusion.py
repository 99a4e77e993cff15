"""Chains of elementwise operations as one kernel on a GPU, made by torch.compile.

Operation by operation, a chain reads and writes a whole map for each of its links.
"""

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

GRAPHS = 64
"""Graphs of one function: the layers of all nets in a process share its code, and each has graphs
for its shapes, with and without gradients. Beyond them torch runs it uncompiled."""


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The compiled form of a function or method, made once; it compiles when first called."""
    torch.compiler.config.recompile_limit = GRAPHS
    return torch.compile(function)


def fuses(device: torch.device) -> bool:
    """True on a GPU whose machine can compile; inside torch.compile or an export that does it."""
    busy = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return device.type == "cuda" and not busy and _why_not(device) is None


def why_not_compiled(device: torch.device) -> str | None:
    """The reason why torch.compile cannot be used on ``device``; None if it can.

    On the CPU it writes C++; on CUDA Triton compiles its launchers, against Python's headers.
    """
    compilers = ("g++", "clang++") if device.type == "cpu" else ("gcc", "cc", "clang")
    if not any(shutil.which(each) for each in compilers) and "CC" not in os.environ:
        return f"there is none of the compilers {', '.join(compilers)}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if device.type == "cuda" and not header.exists():
        return f"Python's headers are missing ({header})"
    return None


_why_not = functools.cache(why_not_compiled)
