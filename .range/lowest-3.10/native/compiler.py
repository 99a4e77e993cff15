"""C++ kernels for the CPU, compiled on first use for the machine they run on, and kept."""

import ctypes
import functools
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.cache import cache_folder
from common.errors import ReportedError
from common.files import replacing

log = logging.getLogger(__name__)

COMPILERS = ("g++", "clang++")
SOURCES = Path(__file__).parent
HEADERS = sorted(SOURCES.glob("*.h"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fopenmp", "-shared", "-fPIC"]
if platform.machine() == "x86_64":
    FLAGS.append("-mprefer-vector-width=512")

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The dtypes that kernels take, with the suffix of their functions' names."""


def run_kernel(
    source: Path, name: str, tensors: Sequence[Tensor], settings: ctypes.Structure
) -> None:
    """Call the function ``name`` of ``source``, for the dtype of ``tensors[0]``, on the tensors."""
    kernel: Callable[..., None] = getattr(load_kernels(source), f"{name}_{NAMES[tensors[0].dtype]}")
    kernel(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), settings)


@functools.cache
def load_kernels(source: Path) -> ctypes.CDLL | None:
    """Load the library compiled from ``source``; None, with one warning, if that fails."""
    try:
        return ctypes.CDLL(str(_compiled(source)))
    except (OSError, ReportedError, subprocess.CalledProcessError) as error:
        complaint = getattr(error, "stderr", None) or str(error)
        first_line = complaint.strip().partition("\n")[0]
        log.warning("no kernel from %s, the slower plain form is used: %s", source.name, first_line)
        return None


def _compiled(source: Path) -> Path:
    """The path of the kept library, which is compiled if it is missing.

    Processes that start together each compile a copy; the last replaces the others' in one step.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")
    name = f"{source.stem}-{_fingerprint(source, compiler)}.so"
    kept = cache_folder() / "kernels" / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=kept.parent) as scratch,
            replacing(kept, Path(scratch)) as made,
        ):
            command = [compiler, *FLAGS, f"-I{SOURCES}", str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)
    return kept


def _fingerprint(source: Path, compiler: str) -> str:
    """A hash of all that the library depends on: sources, flags, compiler and processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    sources = [path.read_text() for path in (source, *HEADERS)]
    parts = [*sources, *FLAGS, version.decode(), platform.processor(), *features]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
