"""Calls a program's ``main`` in this process, for tests whose subject is not the process."""

import importlib
import io
import logging
import signal
import sys
from contextlib import contextmanager
from unittest import mock

from launch.signals import SIGNALS

import pytest
import torch
import torch.distributed as dist

from common.errors import ReportedError
from recording.folder import RunFolder


def call(program, *arguments):
    """(exit status, what it said) of ``program.py`` with ``arguments``; raises its errors."""
    said = io.StringIO()
    # A claim on a run's folder ends with its process, so here it would outlast the call.
    unclaimed = mock.patch.object(RunFolder, "claim")
    with _log_to(said), _process_kept(), unclaimed:
        module = importlib.import_module(program)
        with mock.patch.object(sys, "argv", [f"{program}.py", *map(str, arguments)]):
            status = module.main()
    return status, said.getvalue()


def refusal(program, *arguments):
    """The one line with which ``program.py`` refuses ``arguments``."""
    with pytest.raises(ReportedError) as caught:
        call(program, *arguments)
    assert caught.value.status == 2
    message = str(caught.value)
    assert message.isprintable()
    return message


@contextmanager
def _log_to(stream):
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.addHandler(logging.StreamHandler(stream))
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(before):  # a run's log.txt too
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


@contextmanager
def _process_kept():
    """Put back what a program changes of its process: signals, threads, its process group."""
    handlers, threads = [signal.getsignal(number) for number in SIGNALS], torch.get_num_threads()
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
