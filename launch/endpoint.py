"""The endpoint at which launchers meet: what is wrong with it, told before torchrun waits there.

A host that refuses a connection may be a node that is not up yet: it is waited for, as long as
torchrun waits for a node. One that cannot be found, or that does not answer, is not.
"""

import argparse
import contextlib
import errno
import ipaddress
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from common.errors import ReportedError

PATIENCE = 8.0
"""Seconds in which a host must be found, and a store must answer."""
LATE = 600.0
"""Seconds for the endpoint's node to come up: torchrun's ``join_timeout``."""
QUIET = 5.0
"""Seconds of waiting without a word."""
DEFAULT_PORT = 29400
IN_WORDS: dict[type[Exception], str] = {
    RendezvousClosedError: "the launch at {args.rdzv_endpoint} has ended",
    RendezvousConnectionError: "lost the connection to the launcher at {args.rdzv_endpoint}",
    RendezvousTimeoutError: "too few nodes for --nnodes {args.nnodes} have come",
}
"""What torch says without a message, or with one that tells of an inner exception."""


def in_words(error: Exception, args: argparse.Namespace) -> str:
    """The line that tells why torchrun has ended with ``error``."""
    known = IN_WORDS.get(type(error), "")
    return known.format(args=args) or str(error).partition("\n")[0]


def check_endpoint(args: argparse.Namespace) -> None:
    """Wait until launchers can meet as torchrun's ``args`` say, and complete these.

    Raises ReportedError if the endpoint cannot be found, does not answer, or is taken.
    """
    if args.rdzv_backend == "static":
        host, port = args.master_addr, int(args.master_port)
        if not args.node_rank and not _is_free(port):
            raise ReportedError(
                f"port {port} is in use by another program: choose another --master-port",
                retry=True,
            )
        may_host = not args.node_rank
        _wait_for_store(host, port, lambda: may_host and bool(_addresses(host)), LATE)
    elif args.rdzv_backend == "c10d":
        host, port = parse_rendezvous_endpoint(args.rdzv_endpoint, DEFAULT_PORT)
        late = PATIENCE if _is_this_machine(host) else LATE
        _wait_for_store(host, port, lambda: _is_this_machine(host) and _is_free(port), late)
        _name_this_machine(args, host, port)


def _wait_for_store(host: str, port: int, may_host: Callable[[], bool], late: float) -> None:
    """Wait until a launcher's store answers, or this launcher may start it.

    ``late``: seconds for a host that refuses connections.
    """
    began, told = time.monotonic(), False
    while not may_host():
        limit = PATIENCE
        try:
            socket.create_connection((host, port), timeout=PATIENCE / 2).close()
            return _check_store(host, port)
        except ConnectionRefusedError as error:
            reason, limit = error.strerror, late
        except OSError as error:
            reason = error.strerror or str(error)
        waited = time.monotonic() - began
        if waited > limit:
            raise ReportedError(
                f"cannot reach {host}:{port}, where the launchers meet, within {waited:.0f} s "
                f"({reason}): name a node of this launch that the others can reach",
                retry=True,
            )
        if waited > QUIET and not told:
            print(f"waiting for the launcher at {host}:{port} ({reason})", file=sys.stderr)
            told = True
        time.sleep(0.5)
    return None


def _check_store(host: str, port: int) -> None:
    """Raise ReportedError if what listens there does not answer as a launcher does."""
    asking = multiprocessing.get_context("fork").Process(target=_ask_store, args=(host, port))
    asking.start()
    asking.join()
    if asking.exitcode:
        raise ReportedError(
            f"another program than a launcher listens at {host}:{port}: choose another port",
            retry=True,
        )


def _ask_store(host: str, port: int) -> None:
    """End this process with a failure unless a store answers."""
    signal.alarm(int(PATIENCE))  # torch waits for a silent one for ever
    limit = timedelta(seconds=PATIENCE)
    try:
        dist.TCPStore(host, port, is_master=False, timeout=limit, wait_for_workers=False)
    except RuntimeError:
        os._exit(1)


def _is_free(port: int) -> bool:
    """True if a store can listen at ``port``; raises ReportedError if the system forbids it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ReportedError(
                f"cannot listen at port {port} ({error.strerror}): choose another"
            ) from None
    return True


def _is_this_machine(host: str) -> bool:
    """True if ``host`` is an address of this machine, or the name of one."""
    for family, address in _addresses(host):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((address, 0))
            return True
    return False


def _name_this_machine(args: argparse.Namespace, host: str, port: int) -> None:
    """Set the address by which other nodes reach this one, unless its own name will do.

    All nodes look up the endpoint's host, so that name is good for its machine.
    """
    here = _is_this_machine(host)
    has_name = _addresses(socket.gethostname()) and _addresses(socket.getfqdn())
    if here:
        args.local_addr = args.local_addr or host
    elif not has_name:
        args.local_addr = args.local_addr or _address_towards(host, port)
    if not has_name and not _is_loopback(host):  # torch would look up the name to compare them
        hosts = f"is_host={here and _is_free(port)}"
        args.rdzv_conf = f"{args.rdzv_conf},{hosts}" if args.rdzv_conf else hosts


def _is_loopback(host: str) -> bool:
    return all(ipaddress.ip_address(each).is_loopback for _, each in _addresses(host))


def _address_towards(host: str, port: int) -> str:
    """The address from which this machine sends to ``host``."""
    family, address = _addresses(host)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing
        return str(probe.getsockname()[0])


def _addresses(host: str) -> list[tuple[int, str]]:
    """(family, address) of each address of ``host``; empty if it cannot be found."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return []
    return [(family, str(address[0])) for family, _, _, _, address in found]
