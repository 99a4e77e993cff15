"""What is there: devices, memory, topology, libraries, compilers and data."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.distributed as dist

from common.cpu import cpu_name, host_memory
from common.errors import ReportedError
from data.fashion_mnist import find
from distributed.device import name_of
from distributed.mesh import Mesh
from launch.threads import usable_cores
from native.compiler import COMPILERS
from native.fusion import why_not_compiled

GIB = 2**30
PATIENCE = 30
"""Seconds that a tool may take to answer."""


def describe(mesh: Mesh) -> dict[str, str]:
    """The facts by name, of rank 0's machine; devices are those of all ranks.

    Every rank must call it.
    """
    devices = ", ".join(sorted(mesh.union({name_of(mesh.device)})))
    ranks = mesh.plan.world_size
    return {
        "processor": f"{cpu_name()}, {usable_cores()} cores, {host_memory() / GIB:.1f} GiB",
        "GPUs": _gpus() or "none",
        **_topology(),
        "ranks": f"{ranks} on {devices}, {torch.get_num_threads()} thread(s) each",
        "collectives": _collectives(),
        "system": f"{_system()}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, torchvision {_version('torchvision')}",
        "CUDA": _cuda(),
        "compilers": _compilers(),
        "torch.compile": _compile(mesh.device),
        "Fashion-MNIST": "found" if _has_data() else "not found: a first run downloads it",
        "W&B": _version("wandb"),
    }


def _system() -> str:
    library = " ".join(platform.libc_ver())
    return f"{platform.system()} {platform.machine()} {library}".rstrip()


def _gpus() -> str:
    """A line for each GPU of this machine."""
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return "\n".join(
        f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB, compute capability {gpu.major}.{gpu.minor}"
        for gpu in found
    )


def _topology() -> dict[str, str]:
    """How the GPUs are joined, as their driver says; nothing without it."""
    drivers = _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    matrix = _answer("nvidia-smi", "topo", "-m")
    facts = {"driver": "".join(drivers.splitlines()[:1]), "topology": matrix}
    return {name: text for name, text in facts.items() if text}


def _collectives() -> str:
    backend = dist.get_backend()
    if backend != "nccl":
        return str(backend)
    return f"nccl {'.'.join(map(str, torch.cuda.nccl.version()))}"


def _cuda() -> str:
    if not torch.backends.cuda.is_built():
        return "not in this build of torch"
    usable = "" if torch.cuda.is_available() else ", no usable GPU"
    return f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}{usable}"


def _compilers() -> str:
    lines = [_answer(name, "--version").partition("\n")[0] for name in COMPILERS]
    return "\n".join(filter(None, lines)) or "none: plain forms of the kernels are used"


def _compile(device: torch.device) -> str:
    reason = why_not_compiled(device)
    return f"usable, Triton {_version('triton')}" if reason is None else f"not usable: {reason}"


def _has_data() -> bool:
    try:
        return find() is not None
    except ReportedError:  # no home folder
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _answer(tool: str, *arguments: str) -> str:
    """What a tool prints; nothing if it is missing, fails or does not answer."""
    found = shutil.which(tool)
    if found is None:
        return ""
    try:
        done = subprocess.run(
            [found, *arguments],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
