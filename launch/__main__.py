"""torchrun that prints one line for a failed rank and ends with that rank's exit status.

Run as ``python -m launch [--nproc N] [torchrun flags] PROGRAM [arguments]``. torchrun itself buries
the failing rank's message under tracebacks of its own, ends with status 1 after every failure, and
listens to every network (see ``launch.agent``).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile

from launch.signals import end_on_signals

from common.errors import ReportedError
from common.files import home_path

CPU_PROCESSES = 2
MASTER_PORT = 29500
"""torchrun's default for a static rendezvous."""


def command_line() -> argparse.ArgumentParser:
    """The command line of torchrun, with --nproc for short."""
    from torch.distributed import run as torchrun

    parser = torchrun.get_args_parser()
    parser.usage = "./launch.sh [--nproc N] [torchrun flags] PROGRAM [arguments]"
    parser.add_argument("--nproc", dest="nproc_per_node", metavar="N", help="as --nproc-per-node")
    # None where nobody gave it; torch's own defaults differ between versions.
    parser.set_defaults(
        nproc_per_node=os.environ.get("PET_NPROC_PER_NODE"),
        master_port=os.environ.get("PET_MASTER_PORT"),
    )
    return parser


def count_processes(asked: str | None) -> int:
    """Processes on this machine: as many as asked for, or one for each GPU, or two on the CPU."""
    import torch
    from torch.distributed import run as torchrun

    if asked is None:
        return torch.cuda.device_count() if torch.cuda.is_available() else CPU_PROCESSES
    processes = torchrun.determine_local_world_size(asked)
    if processes < 1:
        raise ReportedError(f"--nproc needs a number of processes, not {asked!r}")
    return int(processes)


def choose_rendezvous(args: argparse.Namespace) -> None:
    """Complete the flags of the rendezvous by the only meaning that those given can have.

    torchrun's own choice differs between versions of torch.
    """
    from launch.agent import LOOPBACK

    if args.rdzv_endpoint:
        # An endpoint alone means c10d; a static rendezvous has --master-addr and --node-rank.
        args.rdzv_backend = "c10d" if args.rdzv_backend == "static" else args.rdzv_backend
        # Otherwise the ranks of one attempt would find the last one's addresses in the store.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    elif args.standalone or (
        args.rdzv_backend == "static" and args.master_port is None and args.nnodes in ("1", "1:1")
    ):
        args.standalone, args.rdzv_backend = False, LOOPBACK
    if args.master_port is None:
        args.master_port = MASTER_PORT


def main(argv: list[str] | None = None) -> int:
    """Start the ranks, wait for them, and return the exit status."""
    end_on_signals()  # until there are ranks to end first
    # torch reads this as it is imported. It prints a page for each connection that ends; what ends
    # a launcher is told below.
    level = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = level or "FATAL"
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError

    os.environ["TORCH_CPP_LOG_LEVEL"] = level or "ERROR"  # for the ranks

    from launch import agent, threads
    from launch.endpoint import check_endpoint, in_words
    from launch.world import LAUNCHER, twins_of

    if "LOGLEVEL" not in os.environ:  # torchrun's own variable: who sets it wants its messages
        for name in ("torch.distributed.elastic", "torch.distributed.run"):
            logger = logging.getLogger(name)
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(agent.SHUTDOWN))
    parser = command_line()
    args = parser.parse_args(argv)
    if args.run_path:
        parser.error("--run-path is not supported: name the program")
    choose_rendezvous(args)
    if args.nnodes in ("1", "1:1") and (twins := twins_of("SLURM_STEP_NUM_TASKS")):
        print(twins, file=sys.stderr)
    # Ranks end with their parent, which of a program that is no Python file is not this process.
    os.environ[LAUNCHER] = "" if args.no_python else str(os.getpid())
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Started under nohup: torchrun would still end the ranks at logout.
        kept = [name for name in args.signals_to_handle.split(",") if name.strip() != "SIGHUP"]
        args.signals_to_handle = ",".join(kept)
    try:
        agent.install()
        processes = count_processes(args.nproc_per_node)
        args.nproc_per_node = str(processes)
        os.environ[threads.VARIABLE] = str(threads.share_of_cores(processes))
        with tempfile.TemporaryDirectory(prefix="torchelastic_") as folder:
            if args.log_dir:
                args.log_dir = str(home_path(args.log_dir))
            if args.log_dir is None and args.redirects == args.tee == "0":
                args.log_dir = folder  # torchrun would leave its own, which is empty
            check_endpoint(args)
            torchrun.run(args)
    except agent.RankFailedError as error:
        if error.code != ReportedError.status:  # the program has printed why
            print(error, file=sys.stderr)
        return error.code if error.code > 0 else 128 - error.code
    except ReportedError as error:
        print(f"cannot launch: {error}", file=sys.stderr)
        return error.status
    except SignalException as error:
        return 128 + error.sigval
    except (RendezvousError, DistError, ValueError, OSError) as error:
        print(f"cannot launch: {in_words(error, args)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
