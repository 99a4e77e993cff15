"""A program of several ranks, of which rank 1 sends itself a signal while the others wait for it.

Run as ``python -m launch --nproc 2 -m checking.victim SIGKILL``.
"""

import os
import signal
import sys

from launch.program import run_program

import torch

from checking.steps import small_config
from distributed.mesh import Mesh
from launch.world import launched_world

TIMEOUT = 10.0
"""Seconds that the ranks wait for each other."""
ROUNDS = 3


def main() -> int:
    """Meet, lose a rank, and wait for it."""
    config = small_config(launched_world().size, "fp32", placement="ddp")
    plan, has_one_gpu = config.plan(launched_world().size), torch.cuda.device_count() == 1
    mesh = Mesh.start(plan, TIMEOUT, share_devices=has_one_gpu)
    for _ in range(ROUNDS):
        mesh.largest(0.0)
    if mesh.rank == 1:
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    mesh.largest(0.0)
    return 0


if __name__ == "__main__":
    run_program(main)
