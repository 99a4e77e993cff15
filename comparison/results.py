"""Turns measurements into the rows of the comparison."""

from dataclasses import asdict
from statistics import median
from typing import Any

from comparison.placements import Placement
from distributed.timer import StepCost
from planning.job import Job
from training.config import Config

Measurement = dict[str, Any]
"""``placement``, ``global_batch``, ``round``, and the keys of ``steady_speed`` or an ``error``."""


def make_row(
    placement: Placement,
    measurements: list[Measurement],
    *,
    job: Job,
    config: Config,
    peak_gflops: float,
    devices: int,
) -> dict[str, Any]:
    """A row for one placement and the job's batch, from all ``measurements``.

    ``config`` and ``job`` are the placement's. The row's keys are flat but for ``bytes_at`` and
    ``bytes_at_formula``, bytes sent by boundary.
    Figures are medians over the rounds. ``speedup`` (over ``single``) and ``speedup_local`` are
    medians of the ratios within a round. ``efficiency`` is the speedup per GPU used; on a CPU it is
    the speedup, because every placement uses all cores. A placement whose measurements all failed
    has an ``error`` and no figures.
    """
    net = job.net
    here = [each for each in measurements if each["global_batch"] == job.batch]
    by_round = {
        (each["placement"], each["round"]): each["images_per_second"]
        for each in here
        if "error" not in each
    }
    own = [each for each in here if each["placement"] == placement.name]
    whole = [each for each in own if "error" not in each]
    row: dict[str, Any] = {
        "variant": net.name,
        "towers": net.towers,
        "placement": placement.name,
        "world_size": placement.ranks,
        "global_batch": job.batch,
        "precision": config.precision,
        "rounds": len(whole),
        "flops_per_image": net.flops(),
        "error": next((each["error"] for each in own if "error" in each), None),
    }
    if not whole:
        return row
    speeds = [each["images_per_second"] for each in whole]

    def speedup(reference: str) -> float | None:
        ratios = [
            each["images_per_second"] / by_round[reference, each["round"]]
            for each in whole
            if (reference, each["round"]) in by_round
        ]
        return median(ratios) if ratios else None

    ratio = speedup("single")
    gflops = median(speeds) * net.flops() / 1e9
    formula = job.bytes_sent(config.plan(placement.ranks))
    return {
        **row,
        "images_per_second": median(speeds),
        "images_per_second_min": min(speeds),
        "images_per_second_max": max(speeds),
        "speedup": ratio,
        "speedup_local": speedup("local"),
        "efficiency": ratio / min(placement.ranks, devices) if ratio else None,
        "gflops": gflops,
        "mfu": gflops / (peak_gflops * min(placement.ranks, devices)),
        **asdict(StepCost.median([StepCost.read(each) for each in whole])),
        "bytes_sent_formula": sum(formula.values()),
        "bytes_at_formula": formula,
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in whole),
        "parameters": whole[0]["parameters"],
        "parameters_per_rank": whole[0]["parameters_per_rank"],
    }
