"""Writes the results of a comparison: files, charts and W&B runs of one group."""

import json
import logging
from pathlib import Path
from typing import Any

from common.files import writing
from comparison.charts import draw_charts
from comparison.machine import in_words
from comparison.outcomes import rows_of
from comparison.tables import as_text, write_csv
from recording.tracking import Tracker, locations
from training.config import TrackingConfig
from training.settings import flatten

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


def write_results(folder: Path, machine: dict[str, Any], peak: float, rows: Rows) -> list[Path]:
    """Write results.json, .csv and .md and draw the charts; returns the charts' paths."""
    words = f"{in_words(machine)}; {peak:.0f} GFLOP/s in matrix products"
    content = {"machine": machine, "peak_gflops": peak, "rows": rows}
    write_csv(rows, folder / "results.csv")
    with writing(folder / "results.json"):
        (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    with writing(folder / "results.md"):
        (folder / "results.md").write_text(
            f"{words}\n\n{as_text(rows, 'github')}\n", encoding="utf-8"
        )
    log.info("\n%s\n\n%s", words, as_text(rows))
    first = rows[0]
    title = f"{first['variant']} in {first['precision']} on {in_words(machine)}"
    return draw_charts(rows, folder, title)


def track_results(
    folder: Path, tracking: TrackingConfig, machine: dict[str, Any], rows: Rows, charts: list[Path]
) -> str:
    """Log a run per placement and one with the table and charts; returns their location."""
    rows = [dict(flatten(row, separator="/")) for row in rows]
    named: dict[str, Rows] = {}
    for row in rows:
        named.setdefault(row["placement"], []).append(row)
    trackers = []
    for name, own in named.items():
        trackers.append(tracker := _start(folder, tracking, name, machine))
        for row in own:
            tracker.log(row["global_batch"], {f"bench/{key}": value for key, value in row.items()})
        tracker.summarize(own[-1])
        tracker.finish(exit_code=0)
    trackers.append(tracker := _start(folder, tracking, "comparison", machine))
    tracker.log_table("comparison", rows)
    for chart in charts:
        tracker.log_image(chart.stem, chart)
    speedups = {f"speedup/{r['placement']}/{r['global_batch']}": r.get("speedup") for r in rows}
    tracker.summarize(speedups)
    tracker.finish(exit_code=0)
    return locations(trackers)


def track_learning(
    folder: Path, tracking: TrackingConfig, sets: dict[str, Rows], charts: list[Path]
) -> str:
    """Log a run for each training and one with the tables and plots; returns their location."""
    trackers = []
    trainings = {(each["form"], each["seed"]): each for own in sets.values() for each in own}
    for outcome in trainings.values():
        name = f"{outcome['form'].replace(' ', '-')}-seed-{outcome['seed']}"
        trackers.append(tracker := _start(folder, tracking, name, {}))
        for point in outcome["curve"]:
            tracker.log(point["images"], {f"learning/{key}": point[key] for key in point})
        tracker.summarize(_flat(outcome))
        tracker.finish(exit_code=0)
    trackers.append(tracker := _start(folder, tracking, "learning", {}))
    for name, outcomes in sets.items():
        tracker.log_table(name, rows_of(outcomes))
    for chart in charts:
        tracker.log_image(chart.stem, chart)
    tracker.finish(exit_code=0)
    return locations(trackers)


def _flat(outcome: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in outcome.items() if not isinstance(value, list)}


def _start(folder: Path, tracking: TrackingConfig, name: str, machine: dict[str, Any]) -> Tracker:
    return Tracker(
        tracking.mode,
        folder,
        defaults={
            "project": "alexnet",
            "run_group": folder.name,
            "run_job_type": "bench",
            "run_name": f"{folder.name}-{name}",
            "run_tags": ("comparison", name),
        },
        id=None,
        project=tracking.project,
        group=tracking.group,
        config={"machine": machine, "placement": name},
    )
