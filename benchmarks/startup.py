"""The time from the command to the first training step, by stage.

Runs one step of the real program on two ranks. Compiled kernels and downloaded files exist already,
as on any start but the first.
"""

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from launch.program import run_program

from tqdm import tqdm

from benchmarks.contest import Row, parser, report
from launch.children import ROOT

FIRST_LINE, FIRST_STEP = "command to first line", "command to first step done"
STAGES = {
    "Python alone": "pass",
    "torch": "import torch",
    "torchrun": "import torch.distributed.run",
    "all that train.py imports": "import train",
}


def seconds_of(program: str) -> float:
    """The duration of a Python process that runs ``program``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, env=_environment())
    return time.perf_counter() - began


def first_step() -> dict[str, float]:
    """Seconds from the command to the first line it prints, and to the end of its first step."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "launch", "--nproc-per-node", "2"]
        command += ["train.py", "--config", "configs/fashion.yaml", "max_steps=1"]
        command += [f"runs={runs}", "tracking.mode=disabled", "keep_checkpoints=0"]
        reached: dict[str, float] = {}
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                stage = FIRST_STEP if line.startswith("step 1/") else FIRST_LINE
                reached.setdefault(stage, time.perf_counter() - began)
    if FIRST_STEP not in reached:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode} before a step")
    return reached


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> int:
    """Report medians over the rounds."""
    arguments = parser(__doc__).parse_args()
    found: dict[str, list[float]] = {}
    for _ in tqdm(range(arguments.rounds), disable=None):
        for stage, program in STAGES.items():
            found.setdefault(stage, []).append(seconds_of(program))
        for stage, seconds in first_step().items():
            found.setdefault(stage, []).append(seconds)
    rows: list[Row] = [
        {"": stage, "seconds": median(times), "from": min(times), "to": max(times)}
        for stage, times in found.items()
    ]
    report("startup", {"start-up on two ranks": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
