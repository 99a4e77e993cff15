"""How a program ends: one sentence for the user's mistakes, one traceback for ours."""

import os
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist

from distributed.mesh import launched_world
from model.errors import InputError


def run_program(main: Callable[[], None]) -> None:
    """Run ``main`` and end the process; of several ranks that fail, only the first one speaks.

    Exit status: 0, 2 after an InputError, 1 after any other exception. A failing rank leaves at
    once, without waiting for collectives that will never complete.
    """
    try:
        main()
    except Exception as error:
        status, is_first = _report_failure(2 if isinstance(error, InputError) else 1)
        if is_first:
            if isinstance(error, InputError):
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if dist.is_initialized():
        dist.destroy_process_group()


def _report_failure(status: int) -> tuple[int, bool]:
    """(exit status of the first failure, whether it is this rank's)."""
    if not dist.is_initialized():
        return status, launched_world()[0] == 0
    try:
        store = dist.distributed_c10d._get_default_store()
        if store.add("failures", 1) == 1:
            store.set("failure_status", str(status))
            return status, True
        return int(store.get("failure_status")), False
    except RuntimeError:  # the store has gone with the launcher
        return status, False
