"""A step drawn over time: when a rank computes, when it waits, and what travels meanwhile.

  torchrun --nproc_per_node=2 examples/timeline.py
  torchrun --nproc_per_node=2 examples/timeline.py --folder /tmp/timeline batch_size=128

Writes timeline.png and, for each placement, a trace of all ranks for https://ui.perfetto.dev. The
upper bar of a placement is what rank 0 does; the lower one is what it has under way to others.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own messages

from launch.program import ArgumentParser, run_program

import torch.distributed as dist
from tabulate import tabulate

from common.errors import ReportedError
from common.files import home_path, writing
from examples.lesson import load, start, start_mesh
from examples.pictures import draw_steps, save
from examples.spans import covered, record

log = logging.getLogger(__name__)
PLACEMENTS = {
    "ddp": ["placement=ddp"],
    "split": ["placement=split"],
    **{f"hybrid-{a}": ["placement=hybrid", f"classifier_scheme={a}"] for a in "abc"},
}


def main() -> int:
    """Record a step of each placement; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=home_path, default=Path("runs/timeline"))
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="as for train.py")
    arguments = parser.parse_intermixed_args()
    settings = ["batch_size=32", *arguments.overrides]
    jobs = {name: load([*settings, *changes]) for name, changes in PLACEMENTS.items()}
    mesh = start_mesh(jobs["ddp"])
    if mesh.device.type != "cpu" or mesh.plan.world_size == 1:
        raise ReportedError("start it on 2 or more CPU ranks: CUDA_VISIBLE_DEVICES= torchrun …")
    with writing(arguments.folder):
        arguments.folder.mkdir(parents=True, exist_ok=True)
    steps, rows = {}, []
    for name, config in jobs.items():
        trainer, batches = start(config, mesh.replanned(config.plan(mesh.plan.world_size)))
        for _ in range(2):  # DDP chooses its buckets after the first
            trainer.train_step(next(batches)).result()
        steps[name], events = record(trainer, next(batches))
        everyone: list[Any] = [None] * mesh.plan.world_size
        dist.all_gather_object(everyone, [{**e, "pid": f"rank {mesh.rank}"} for e in events])
        if mesh.is_main:
            trace = {"traceEvents": [event for rank in everyone for event in rank]}
            (arguments.folder / f"{name}.json").write_text(json.dumps(trace))
        travels, waited = covered(steps[name].messages), covered(steps[name].exposed)
        rows.append((name, steps[name].parts[-1].end, travels, waited, 1 - waited / travels))
    if mesh.is_main:
        save(draw_steps(steps), arguments.folder / "timeline.png")
    headings = ("placement", "ms of the step", "ms under way", "waited for", "hidden")
    log.info("%s", tabulate(rows, headings, floatfmt=("", ".0f", ".0f", ".0f", ".0%")))
    log.info("\nwritten to %s", arguments.folder)
    return 0


if __name__ == "__main__":
    run_program(main)
