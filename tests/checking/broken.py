"""check.py with one thing broken, for tests of what it then says: ``broken.py FAULT …``.

gradients: no rank's gradients are summed. wandb: the package cannot be imported.
"""

import sys

from launch.program import run_program

import torch

import check
from distributed import replication


def _own_gradients(state, bucket):
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


fault = sys.argv.pop(1)
if fault == "gradients":
    replication._sum_bucket = _own_gradients
elif fault == "wandb":
    sys.modules["wandb"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    run_program(check.main)
