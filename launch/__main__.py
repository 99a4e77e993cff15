"""torchrun that prints one line for a failed rank and ends with that rank's exit status.

Run as ``python -m launch [torchrun flags] PROGRAM [arguments]``. torchrun itself buries the failing
rank's message under tracebacks of its own, ends with status 1 after every failure, and listens to
every network (see ``launch.agent``).
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

SHUTDOWN_SECONDS = "60"
"""From a signal, which ranks receive too, to SIGKILL: time to write a checkpoint."""


def choose_rendezvous(args: argparse.Namespace) -> None:
    """Complete the flags of the rendezvous by the only meaning that those given can have."""
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


def main(argv: list[str] | None = None) -> int:
    """Start the ranks, wait for them, and return the exit status."""
    end_on_signals()  # until there are ranks to end first
    # torch reads this as it is imported. It prints a page for each connection that ends.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError

    from launch import agent
    from launch.world import LAUNCHER

    if "LOGLEVEL" not in os.environ:  # torchrun's own variable: who sets it wants its messages
        for name in ("torch.distributed.elastic", "torch.distributed.run"):
            logger = logging.getLogger(name)
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    agent.install()

    parser = torchrun.get_args_parser()
    args = parser.parse_args(argv)
    if args.run_path:
        parser.error("--run-path is not supported: name the program")
    choose_rendezvous(args)
    # Ranks end with their parent, which of a program that is no Python file is not this process.
    os.environ[LAUNCHER] = "" if args.no_python else str(os.getpid())
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and hasattr(args, "signals_to_handle"):
        # Started under nohup: torchrun would still end the ranks at logout.
        kept = [name for name in args.signals_to_handle.split(",") if name.strip() != "SIGHUP"]
        args.signals_to_handle = ",".join(kept)
    try:
        with tempfile.TemporaryDirectory(prefix="torchelastic_") as folder:
            if args.log_dir:
                args.log_dir = str(home_path(args.log_dir))
            if args.log_dir is None and args.redirects == args.tee == "0":
                args.log_dir = folder  # torchrun would leave its own, which is empty
            torchrun.run(args)
    except agent.RankFailedError as error:
        if error.code != ReportedError.status:  # the program has printed why
            print(error, file=sys.stderr)
        return error.code if error.code > 0 else 128 - error.code
    except SignalException as error:
        return 128 + error.sigval
    except (RendezvousError, ValueError, OSError) as error:
        print(f"cannot launch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
