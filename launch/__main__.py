"""torchrun with plain endings: one line for a failed rank, and that rank's own exit status.

Run as ``python -m launch [torchrun flags] PROGRAM [arguments]``. torchrun itself buries
the failing rank's message under its own tracebacks, answers every failure with status 1, and
listens to every network (see ``launch.agent``).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING

from common.errors import ReportedError

if TYPE_CHECKING:
    from types import FrameType

SHUTDOWN_SECONDS = "60"  # from a forwarded signal to SIGKILL: time to write a checkpoint


def choose_rendezvous(args: argparse.Namespace) -> None:
    """Default to what the flags given can only mean."""
    from launch.agent import LOOPBACK

    if args.rdzv_endpoint:
        # An endpoint alone means c10d; static rendezvous is spelled --master-addr, --node-rank.
        args.rdzv_backend = "c10d" if args.rdzv_backend == "static" else args.rdzv_backend
        # Otherwise gloo would find the addresses of an attempt's ranks in the next one's store.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    elif args.standalone or (
        args.rdzv_backend == "static" and args.master_port is None and args.nnodes in ("1", "1:1")
    ):
        args.standalone, args.rdzv_backend = False, LOOPBACK


def end_at_once_when_asked_twice() -> None:
    """Have a second signal end the launcher itself, which takes its ranks with it.

    torchrun's handler would wait for them again.
    """
    from torch.distributed.elastic.multiprocessing import api

    ask = api._terminate_process_handler

    def handle(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, lambda signum, _: os._exit(128 + signum))
        ask(signum, frame)

    api._terminate_process_handler = handle


def main(argv: list[str] | None = None) -> int:
    """Launch the workers, wait for them, and return the exit status."""
    # Until there are workers to look after, Ctrl-C simply ends us. Hence the late imports: torch's
    # take seconds, in which it would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Of a connection that ends, torch's C++ would print a page; what it means is said in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError

    from launch import agent

    if "LOGLEVEL" not in os.environ:  # torchrun's own switch: whoever sets it wants to read on
        for name in ("torch.distributed.elastic", "torch.distributed.run"):
            logger = logging.getLogger(name)
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    end_at_once_when_asked_twice()
    agent.install()

    args = torchrun.get_args_parser().parse_args(argv)
    choose_rendezvous(args)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and hasattr(args, "signals_to_handle"):
        # Started under nohup: torchrun would still end the workers at logout.
        kept = [name for name in args.signals_to_handle.split(",") if name.strip() != "SIGHUP"]
        args.signals_to_handle = ",".join(kept)
    try:
        with tempfile.TemporaryDirectory(prefix="torchelastic_") as folder:
            if args.log_dir is None and args.redirects == args.tee == "0":
                args.log_dir = folder  # torchrun's would stay, though it holds nothing to read
            torchrun.run(args)
    except agent.RankFailedError as error:
        if error.code != ReportedError.status:  # there the program has said it all
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
