"""Starts the project's programs as a user would, and looks after what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "launch", "--nproc-per-node"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]


def ranks(count):
    """The command that starts ``count`` ranks; one process without a launcher for none."""
    return [*LAUNCH, str(count)] if count else [sys.executable]


def start(*command, **environment):
    """The program, in a session of its own, with its output on pipes."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=150):
    """(exit status, standard output, standard error), once it has ended."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run(*command, timeout=150, **environment):
    return finish(start(*command, **environment), timeout)


def processes_mentioning(text):
    """Ids of the other processes whose command line or environment holds ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            if text in words.decode(errors="replace") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {timeout} s"
        time.sleep(0.1)
