"""The device of this process: all that differs between the CPU and CUDA, in one place.

The CUDA lines have been run on no GPU yet; they are kept few for that reason. What a step does on a
GPU is tested on a device without numbers (tests/training/test_on_a_device.py).
"""

import contextlib
import ctypes
import functools
import logging
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.cpu import cpu_emulates, cpu_name
from common.errors import ReportedError
from launch.heartbeat import NoAnswerError
from launch.threads import share_of_cores

log = logging.getLogger(__name__)

FIRST_GPU = Path("/dev/nvidia0")
Mark = float | torch.cuda.Event
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])


def take_device(local_rank: int, local_world_size: int, *, shared: bool = False) -> torch.device:
    """The GPU of this process or, without any, the CPU with its share of the cores.

    If GPUs may be ``shared``, the processes take them in turn. Raises ReportedError when there are
    fewer GPUs than processes on this machine, and they may not.
    """
    if not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if torch.backends.cuda.is_built() and FIRST_GPU.exists() and not hidden:
            log.warning(
                "torch %s cannot use this machine's GPU, as a driver too old for CUDA %s would "
                "explain: on the CPU",
                torch.__version__,
                torch.version.cuda,
            )
        torch.set_num_threads(share_of_cores(local_world_size))
        keep_freed_memory()
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if local_world_size > gpus and not shared:
        raise ReportedError(
            f"{local_world_size} processes were started on a machine with {gpus} GPUs: start at "
            f"most {gpus}, set share_devices=true to have several use one GPU, or set "
            "CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
        )
    torch.backends.cudnn.benchmark = True
    allow_tf32()
    own = local_rank % gpus
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


def allow_tf32() -> None:
    """Compute on a GPU's tensor cores where precision is fp32."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def compute_deterministically(device: torch.device) -> None:
    """Have a GPU give the same digits in every run; raises RuntimeError where it cannot.

    Two GPUs of different models may still differ ("Reproducibility", PyTorch documentation).
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Inside, a GPU computes in all digits of fp32 and, where it can, the same ones every time.

    Enter it before the first matrix product: cuBLAS is asked only then how it may work.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        _choose_arithmetic(exact=True)
        yield
    finally:
        _choose_arithmetic(exact=False)


def _choose_arithmetic(*, exact: bool) -> None:
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = not exact
    torch.use_deterministic_algorithms(exact, warn_only=True)


def kind_of(device: torch.device) -> str:
    """The model of a GPU, or of a CPU with the instructions that torch uses: these round alike."""
    if device.type == "cuda":
        return name_of(device)
    return f"{cpu_name()} with {torch.backends.cpu.get_cpu_capability()}"


def name_of(device: torch.device) -> str:
    """The device in a person's words: the GPU's model, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_computes_in(device: torch.device, dtype: torch.dtype) -> None:
    """Warn of a CPU that only emulates ``dtype``.

    Raises ReportedError for bf16 on a GPU that only emulates it: older than Ampere.
    """
    if device.type == "cpu" and cpu_emulates(dtype):
        log.warning(
            "this CPU only emulates %s, many times slower than fp32: set precision=fp32",
            str(dtype).removeprefix("torch."),
        )
    if device.type == "cuda" and dtype == torch.bfloat16:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            raise ReportedError(
                f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no "
                "bf16 arithmetic: set precision=fp16"
            )


def keep_freed_memory() -> None:
    """Have the C library's allocator reuse large blocks instead of returning them to the system.

    Otherwise every feature map of every step is mapped anew, page by page, and zeroed: half of
    the time of a training step. Without glibc nothing is changed.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # of malloc.h
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)  # never
        mallopt(arena_max, 1)


def backend_for(device: torch.device, *, shared: bool = False) -> str:
    """The collective library for tensors on ``device``.

    NCCL refuses two ranks on one GPU, so where GPUs are ``shared`` it is gloo, which takes their
    tensors through the host.
    """
    return "nccl" if device.type == "cuda" and not shared else "gloo"


def _is_nccl(group: dist.ProcessGroup) -> bool:
    return dist.get_backend(group) == "nccl"


def patience_of(backend: str, timeout: float) -> timedelta:
    """The time a collective library waits for a rank, where the trainer waits ``timeout`` seconds.

    Gloo raises an error, which is reported. NCCL's watchdog aborts the process, which says nothing
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", ProcessGroupNCCL Environment Variables, PyTorch
    documentation); so ``HostCopy.read`` comes first.
    """
    return timedelta(seconds=timeout * (2 if backend == "nccl" else 1))


def on_device(batches: Iterable[Tensors], device: torch.device) -> Iterator[Tensors]:
    """The batches, tuples of tensors, on ``device``.

    A GPU copies the next batch, from pinned memory and on a stream of its own, while it works on
    the one before.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, work = _copy_stream(device), torch.cuda.current_stream(device)

    def copied(batch: Tensors) -> Tensors:
        with torch.cuda.stream(copies):
            return type(batch)(*(each.to(device, non_blocking=True) for each in batch))

    def handed_over(batch: Tensors) -> Tensors:
        work.wait_stream(copies)
        for each in batch:
            each.record_stream(work)  # its memory was the copying stream's
        return batch

    ahead: Tensors | None = None
    for batch in batches:
        ready = None if ahead is None else handed_over(ahead)
        ahead = copied(batch)  # before the work on the one that is ready
        if ready is not None:
            yield ready
    if ahead is not None:
        yield handed_over(ahead)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, which the host does not wait for."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def start_gather(own: Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> "Started":
    """Begin to bring all ranks' rows together.

    Rank r has ``counts[r]`` rows, ``own`` (counts[own rank], N). Result: (1, sum of counts, N).
    """
    rows = own.new_empty(sum(counts), *own.shape[1:])
    if _is_nccl(group):
        pieces = list(rows.split(list(counts)))
        return Started(rows[None], dist.all_gather(pieces, own, group=group, async_op=True))
    # gloo's all-gather wants equal parts
    copies, sizes = own.repeat(len(counts), 1), [len(own)] * len(counts)
    work = dist.all_to_all_single(rows, copies, list(counts), sizes, group, async_op=True)
    return Started(rows[None], work)


def start_sum(parts: Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> "Started":
    """Begin to send rank r its ``counts[r]`` rows of ``parts`` (sum of counts, N), to be summed.

    Result: (ranks, counts[own rank], N), to be summed over the first dimension: in the order of the
    ranks, so that all who get the same rows have the same sums to the last digit.
    """
    # A reduce-scatter may add in another order for each rank, and gloo's sends all to everyone.
    own = counts[group.rank()]
    received = parts.new_empty(len(counts), own, *parts.shape[1:])
    sizes = [own] * len(counts)
    work = dist.all_to_all_single(
        received.flatten(0, 1), parts, sizes, list(counts), group, async_op=True
    )
    return Started(received, work)


class Started(NamedTuple):
    """A collective under way, and the tensor that it fills."""

    result: Tensor
    work: dist.Work | None

    def wait(self) -> Tensor:
        """The sum of the result over its first dimension, once the collective has ended."""
        if self.work is not None:
            self.work.wait()
        return self.result[0] if len(self.result) == 1 else self.result.sum(0)


def all_done(
    works: Sequence[dist.Work], device: torch.device, group: dist.ProcessGroup
) -> torch.futures.Future[Any]:
    """A future that is complete once all of a group's collectives on ``device`` are."""
    if _is_nccl(group):
        # Complete once its kernel is queued, and only its own then() makes the GPU wait for it. A
        # group's kernels run in order, so the last stands for all.
        return works[-1].get_future()
    if device.type == "cuda":
        for work in works:  # the GPU waits; gloo's futures know no stream in older torch
            work.wait()
        done: torch.futures.Future[Any] = torch.futures.Future()
        done.set_result(None)
        return done
    # Gloo's collectives may end in any order.
    return torch.futures.collect_all([work.get_future() for work in works])


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for a process: memory that was freed on a stream is reused on that stream only."""
    return torch.cuda.Stream(device)


def mark_time(device: torch.device) -> Mark:
    """A point in time: of the host, or of the GPU's current stream, which is not waited for."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Seconds from one mark to a later one; waits until a GPU has passed it."""
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the host; one of a GPU's tensor is complete after ``finish_copies``."""
    return tensor.to("cpu", non_blocking=True, copy=True, memory_format=torch.contiguous_format)


def finish_copies(device: torch.device) -> None:
    """Wait for every ``to_host`` so far."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


class HostCopy:
    """A copy on the host of a few numbers, which a GPU may not have computed yet.

    The copy is queued behind the work of the current stream, and the host goes on; so it can read
    the numbers of one step while the GPU computes the next.
    """

    def __init__(self, numbers: Tensor) -> None:
        # Not blocking, so torch copies to pinned memory ("Good Usage of non_blocking and
        # pin_memory", PyTorch tutorials): the copy may be read once the event behind it has passed.
        self._numbers = to_host(numbers)
        self._arrived = mark_time(numbers.device)

    def read(self, timeout: float) -> list[Any]:
        """The numbers, waited for; raises NoAnswerError after ``timeout`` seconds.

        A collective of NCCL returns at once, and its kernel waits for the other ranks. So a rank
        that does not answer is noticed here.
        """
        if not isinstance(self._arrived, float):
            _wait_for(self._arrived, timeout)
        return self._numbers.flatten().tolist()


def _wait_for(event: torch.cuda.Event, timeout: float) -> None:
    began = time.monotonic()
    while not event.query():
        if time.monotonic() - began > timeout:
            raise NoAnswerError(f"no answer within {timeout:.0f} s")
        time.sleep(1e-4)


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held: on the GPU if it has one, else resident in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
