"""Turns measurements into the rows of the comparison."""

from dataclasses import asdict
from statistics import median
from typing import Any

from comparison.placements import Placement
from distributed.timer import StepCost
from planning.formulas import Net, bytes_sent
from planning.job import job_of
from training.config import Config

Measurement = dict[str, Any]
"""``placement``, ``global_batch``, ``round``, and the keys of ``steady_speed`` or an ``error``."""


def bytes_by_formula(config: Config, ranks: int, net: Net, batch: int) -> dict[str, int]:
    """Bytes that a rank sends in a step, by boundary: activations and gradients."""
    job = job_of(config, batch, net.channels, net.classes)
    return bytes_sent(net, config.plan(ranks), batch, job.activation_size, job.gradient_size)


def make_row(
    placement: Placement,
    batch: int,
    measurements: list[Measurement],
    *,
    net: Net,
    config: Config,
    peak_gflops: float,
    devices: int,
) -> dict[str, Any]:
    """A row for one placement and batch, from all ``measurements``; ``config`` is the placement's.

    Its keys are flat but for ``bytes_at`` and ``bytes_at_formula``, bytes sent by boundary.
    Figures are medians over the rounds. ``speedup`` (over ``single``) and ``speedup_local`` are
    medians of the ratios within a round. ``efficiency`` is the speedup per GPU used; on a CPU it is
    the speedup, because every placement uses all cores. A placement whose measurements all failed
    has an ``error`` and no figures.
    """
    here = [each for each in measurements if each["global_batch"] == batch]
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
        "global_batch": batch,
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
    formula = bytes_by_formula(config, placement.ranks, net, batch)
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
