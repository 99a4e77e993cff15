"""train.py with a fault in it, ``FAULT=KIND:RANK:STEP``, which strikes in the first attempt only.

Run in place of train.py, with the same arguments.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from launch.program import run_program

import train
from training.trainer import Trainer


def _signal(number):
    return lambda trainer: os.kill(os.getpid(), number)


def _raise(error):
    def strike(trainer):
        raise error

    return strike


@torch.no_grad()
def _drift(trainer):
    trainer.model.fc6.weight[0, 0] += 1e-3


def _not_a_number(trainer):
    prepare = trainer.preprocess
    trainer.preprocess = lambda *given, **named: prepare(*given, **named) * float("nan")


def _slow(trainer):
    prepare = trainer.preprocess

    def prepare_late(*given, **named):
        time.sleep(1)
        return prepare(*given, **named)

    trainer.preprocess = prepare_late


FAULTS = {
    "kill": _signal(signal.SIGKILL),
    "segfault": _signal(signal.SIGSEGV),
    "terminate": _signal(signal.SIGTERM),
    "stop": _signal(signal.SIGSTOP),
    "hang": lambda trainer: time.sleep(3600),
    "leave": lambda trainer: os._exit(0),
    "raise": _raise(KeyError("injected")),
    "memory": _raise(torch.OutOfMemoryError("injected: tried to allocate 2.00 GiB")),
    "nan": _not_a_number,
    "drift": _drift,
    "slow": _slow,
}
KIND, RANK, STEP = os.environ["FAULT"].split(":")
HERE = os.environ.get("RANK", "0") == RANK
FIRST_ATTEMPT = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

train_step = Trainer.train_step


def strike_and_train(trainer, batch):
    """The training step, which is the one after ``trainer.steps``."""
    if HERE and FIRST_ATTEMPT and trainer.steps + 1 == int(STEP):
        FAULTS[KIND](trainer)
    return train_step(trainer, batch)


if __name__ == "__main__":
    Trainer.train_step = strike_and_train  # type: ignore[method-assign]
    run_program(train.main)
