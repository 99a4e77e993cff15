"""A comparison of speed in progress; each measurement is saved at once."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import ReportedError
from common.files import read_objects, writing
from comparison.announce import announced
from comparison.measure import TrainingError, steady_speed, train
from comparison.placements import Placement
from comparison.results import Measurement
from training.config import Config
from training.settings import flatten, load_config

NOT_PLANNED = {"tracking", "runs"}
"""Settings that may change between the parts of a comparison."""


class Job(NamedTuple):
    """The key of one measurement."""

    round: int
    global_batch: int
    placement: str


@dataclass
class Comparison:
    """Placements × global batches in rounds of A B C D; ``steps`` are timed after ``warmup``.

    ``source`` and ``overrides`` are the file and the overrides that ``config`` was read from.
    """

    config: Config
    source: Path
    overrides: list[str]
    placements: list[Placement]
    batches: list[int]
    rounds: int
    steps: int
    warmup: int

    def configs(self) -> dict[str, Config]:
        """The settings of each placement; raises ReportedError if the net cannot be placed so."""
        configs = {
            placement.name: load_config(self.source, [*self.overrides, *placement.overrides])
            for placement in self.placements
        }
        for placement in self.placements:
            configs[placement.name].plan(placement.ranks)
        return configs

    def jobs(self) -> list[Job]:
        """All measurements in the order of execution."""
        return [
            Job(number, batch, placement.name)
            for number in range(1, self.rounds + 1)
            for batch in self.batches
            for placement in self.placements
        ]

    def measure(self, folder: Path) -> list[Measurement]:
        """Make the measurements that ``folder`` lacks; returns all measurements.

        Each is saved at once. A placement that failed at a batch is not tried again. Raises
        ReportedError if the folder holds measurements with other settings.
        """
        plan = {
            "config": self.config.model_dump(mode="json", exclude=NOT_PLANNED),
            "steps": [self.warmup, self.steps],
        }
        check_plan(folder, plan)
        path = folder / "measurements.jsonl"
        measurements = read_objects(path)
        done = {_job(each) for each in measurements}
        with writing(path), path.open("a", buffering=1) as file:
            for job in announced([job for job in self.jobs() if job not in done], self._title):
                if any("error" in each and _job(each)[1:] == job[1:] for each in measurements):
                    continue
                measurements.append({**job._asdict(), **self._measure(job)})
                file.write(json.dumps(measurements[-1]) + "\n")
        return measurements

    def _title(self, job: Job) -> str:
        """Such as round 1/3: ddp, global batch 256."""
        number = f"round {job.round}/{self.rounds}"
        return f"{number}: {job.placement}, global batch {job.global_batch}"

    def _measure(self, job: Job) -> dict[str, Any]:
        placement = next(each for each in self.placements if each.name == job.placement)
        steps = self.warmup + self.steps
        settings = [
            *self.overrides,
            *placement.overrides,
            *(f"batch_size={job.global_batch}", f"max_steps={steps}", f"epochs={steps}"),
            "keep_checkpoints=0",
            f"data.synthetic_length={job.global_batch * steps}",
        ]
        with tempfile.TemporaryDirectory(prefix="compare-") as runs:
            try:
                run = train(self.source, placement.ranks, settings, "run", Path(runs))
            except TrainingError as failure:
                return {"error": str(failure)}
            return steady_speed(run, self.warmup)


def check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Add the entries of ``plan`` to the plan that ``folder`` holds, if it holds one.

    A setting that is newer than that plan had its default there. Raises ReportedError, which names
    the first entry with another value.
    """
    path = folder / "plan.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    defaults = {"config": Config().model_dump(mode="json")} if "config" in kept else {}
    before = {**dict(flatten(defaults)), **dict(flatten(kept))}
    for key, value in flatten(plan):
        if before.get(key, value) != value:
            raise ReportedError(
                f"the comparison in {folder} had {key.removeprefix('config.')} = {before[key]}, "
                f"and now it is {value}: set it back, or start a new comparison without --resume"
            )
    with writing(path):
        path.write_text(json.dumps({**kept, **plan}))


def _job(measurement: Measurement) -> Job:
    return Job(*(measurement[field] for field in Job._fields))
