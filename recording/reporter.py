"""Reports a run: log, metrics file, live line, curves, kernels, summary and W&B."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self, override

from common.files import replacing
from distributed.device import mark_time, name_of, seconds_between
from distributed.picture import draw_plan
from distributed.timer import LABELS, StepCost
from model.initialization import initial_kernels
from native.fusion import why_not_compiled
from recording.folder import RunFolder
from recording.metrics import MetricsFile, read_metrics, step_speed
from recording.progress import Progress
from recording.stuck import StuckLoss
from recording.totals import Totals
from recording.tracking import Tracker
from training.config import Config
from training.settings import dump_config
from training.trainer import LaunchedStep, Trainer

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Receives the metrics of every training step and evaluation."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Take the metrics of one step."""


class Reporter:
    """Counts steps and time. It writes nothing: every rank but rank 0 has one of these."""

    def __init__(self, totals: Totals, device: torch.device) -> None:
        self.totals, self.device = totals, device
        self.listeners: list[Listener] = []
        self.clock = mark_time(device)
        self._last: LaunchedStep | None = None

    def trained(self, step: LaunchedStep) -> None:
        """Take an optimiser step, and report the one before, which a GPU has done by now."""
        self._report_last()
        self._last = step

    def _report_last(self) -> None:
        """Report the last step, if it is not reported yet; it took the time since the one before.

        Raises ReportedError when its loss is not finite.
        """
        if self._last is None:
            return
        step, self._last = self._last, None
        result = step.result()
        seconds, self.clock = seconds_between(self.clock, step.marks.end), step.marks.end
        self.totals.add(result.images, seconds)
        metrics = {
            "epoch": step.epochs_done,
            "train/loss": result.loss,
            "train/top1": result.top1,
            "train/images": result.images,
            "train/learning_rate": result.learning_rate,
            "step/images_per_second": result.images / seconds,
            **{f"step/{name}": value for name, value in result.cost.flat().items()},
        }
        self._tell(step.number, metrics)

    def compared(self, step: int, metrics: dict[str, float]) -> None:
        """Report a comparison of the ranks."""
        self._tell(step, metrics)

    def tested(self, step: int, epochs_done: float, metrics: dict[str, float]) -> None:
        """Report one evaluation."""
        self.totals.tested(step, metrics)
        self._tell(step, {"epoch": epochs_done, **metrics})

    def _tell(self, step: int, metrics: dict[str, float]) -> None:
        for listener in self.listeners:
            listener.log(step, metrics)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Report every step so far, and do not count the time inside as training time."""
        self._report_last()
        yield
        self.clock = mark_time(self.device)

    def finish(
        self, steps: int, checkpoint: Path | None, peak_memory: float, conv1: Tensor
    ) -> None:
        """Report the end of training.

        ``steps`` have been trained in all, ``checkpoint`` is the last one, ``peak_memory`` the
        most bytes held on a rank, ``conv1`` (K, C, H, W) the first layer's kernels of all towers.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close files and services."""


class MainReporter(Reporter):
    """Rank 0's reporter: it writes the files of the run, the terminal and W&B."""

    def __init__(
        self,
        totals: Totals,
        device: torch.device,
        folder: RunFolder,
        config: Config,
        facts: dict[str, Any],
        step: int,
    ) -> None:
        """``facts`` describe the run; training starts after ``step``."""
        super().__init__(totals, device)
        self.folder, self.config = folder, config
        self.facts = facts = {**facts, "attempt": folder.last_attempt().number}
        with replacing(folder.config) as aside:
            aside.write_text(dump_config(config))
        self.tracker = Tracker(
            config.tracking.mode,
            folder.path,
            defaults={
                "project": "alexnet",
                "run_group": config.name,
                "run_job_type": "train",
                "run_name": folder.path.name,
                "run_tags": (config.variant, facts["placement"]),
            },
            id=totals.run_id,
            project=config.tracking.project,
            group=config.tracking.group,
            config={**config.model_dump(mode="json"), **facts},
        )
        totals.run_id = self.tracker.run_id
        self.progress = Progress(facts["total_steps"], step)
        self.listeners = [
            MetricsFile(folder.metrics, step, go_on=config.write_errors == "continue"),
            self.progress,
            self.tracker,
            StuckLoss(facts["classes"]),
        ]
        self.clock = mark_time(device)

    @override
    def finish(
        self, steps: int, checkpoint: Path | None, peak_memory: float, conv1: Tensor
    ) -> None:
        self.progress.close()
        last = {"peak_memory_bytes": int(peak_memory), "checkpoint": str(checkpoint or "none")}
        # Importing matplotlib would delay the start.
        from recording.kernels import draw_kernels, in_words, kinds_of_towers, panels_of, summary_of
        from recording.plots import draw_curves

        towers, name = self.facts["towers"], self.folder.path.name
        kinds = kinds_of_towers(conv1, towers)
        speed = step_speed(read_metrics(self.folder.metrics))
        totals = {**self.totals.summary(), **speed, **summary_of(kinds)}
        summary = {**self.facts, "steps": steps, **totals, **last}
        with replacing(self.folder.summary) as aside:
            aside.write_text(json.dumps(summary, indent=1) + "\n")
        draw_curves(self.folder.metrics, self.folder.curves, name)
        panels = panels_of(conv1, towers, self._initial_kernels(conv1))
        draw_kernels(panels, self.folder.kernels, name)
        self.tracker.log_image("curves", self.folder.curves)
        self.tracker.log_image("kernels", self.folder.kernels)
        self.tracker.summarize(summary)
        words = closing_words(summary, self.folder, in_words(kinds), self.tracker.location)
        log.info("\n%s", words)

    def _initial_kernels(self, conv1: Tensor) -> Tensor | None:
        """The kernels before training, if they were drawn and not read."""
        config = self.config
        if config.weights is not None:
            return None
        return initial_kernels(conv1.shape, config.seed, config.init or config.form.init)

    @override
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.close()
        self.tracker.finish(exit_code=int(kind is not None))


def start_reporter(trainer: Trainer, folder: RunFolder, totals: Totals) -> Reporter:
    """This rank's reporter; rank 0 logs the opening words."""
    device = trainer.mesh.device
    reporter = Reporter(totals, device)

    def start() -> None:  # the other ranks wait until it returns: a slow network delays W&B
        nonlocal reporter
        facts = facts_of(trainer)
        log.info(opening_words(facts, trainer))
        reporter = MainReporter(totals, device, folder, trainer.config, facts, trainer.steps)

    trainer.mesh.from_main(start)
    return reporter


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """The facts of a run that its configuration does not hold."""
    mesh, config, model = trainer.mesh, trainer.config, trainer.model
    shapes = {
        name: model.placement.full_shape(name, parameter.shape)
        for name, parameter in model.named_parameters()
    }
    return {
        "variant": config.variant,
        "towers": config.towers,
        "placement": mesh.plan.placement,
        "world_size": mesh.plan.world_size,
        "features_shards": mesh.plan.features.shards,
        "classifier_shards": mesh.plan.classifier.shards,
        "global_batch": config.batch_size,
        "precision": config.precision,
        "classes": model.fc8.out_features,
        "parameters": sum(shape.numel() for shape in shapes.values()),
        "parameters_per_rank": sum(parameter.numel() for parameter in model.parameters()),
        "total_steps": trainer.total_steps,
    }


def opening_words(facts: dict[str, Any], trainer: Trainer) -> str:
    """Describe the net, the placement, the data and the processes of a run."""
    config, device = trainer.config, trainer.mesh.device
    changes = "".join(
        f", net.{key}={json.dumps(value)}" for key, value in config.net.changes.items()
    )
    threads = f", threads per process: {torch.get_num_threads()}" if device.type == "cpu" else ""
    lines = [
        f"{config.variant}{changes}, {config.towers} tower(s), {facts['placement']}: "
        f"{facts['parameters']:,} parameters, {facts['parameters_per_rank']:,} on this rank",
        draw_plan(trainer.mesh.plan, config.form, config.batch_size),
        f"{config.data.name} at {config.data.size} px, global batch {config.batch_size}, "
        f"{config.precision}, {facts['total_steps']} steps",
        f"processes on {name_of(device)}: {facts['world_size']}{threads}",
    ]
    if config.compile and (reason := why_not_compiled(device)):
        lines.append(f"torch.compile was left off: {reason}")
    return "\n".join(lines)


def closing_words(
    summary: dict[str, Any], folder: RunFolder, kinds: list[str], tracked: str
) -> str:
    """Describe the outcome of a run.

    ``kinds`` describes each tower's kernels of conv1, ``tracked`` says where the W&B run is.
    """
    speed = {}
    if "bytes_sent" in summary:
        cost = StepCost.read(summary)
        total = sum(cost.parts.values()) or 1.0
        fractions = [f"{LABELS[part]} {s / total:.0%}" for part, s in cost.parts.items()]
        speed = {
            "speed": f"{summary['images_per_second']:.1f} images/s",
            "a step's time": ", ".join(fractions),
            "sent": f"{cost.bytes_sent / 1e6:.2f} MB by a rank in a step",
        }
    lines = {
        "trained": f"{summary['steps']} of {summary['total_steps']} steps, "
        f"{summary['images_seen']:,} images in {summary['train_seconds']:.0f} s",
        **speed,
        "memory": f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB at most on a rank",
        "checkpoint": summary["checkpoint"],
        "curves": str(folder.curves),
        "kernels": str(folder.kernels),
        "W&B": tracked,
    }
    if "test_top1" in summary:
        accuracy = f"{summary['test_top1']:.4f} (top-5 {summary['test_top5']:.4f})"
        lines = {"test accuracy": accuracy, **lines}
    if kinds:
        lines["kernels of"] = "; ".join(kinds)
    if summary["checkpoint"] == "none":
        lines["next"] = "no weights are kept, since keep_checkpoints=0"
    elif min(summary["steps"], summary["test_step"]) < summary["total_steps"]:
        again = f"name={folder.path.name} --resume"
        lines["unfinished"] = f"to continue, add {again} to the same command"
    else:
        lines["next"] = (
            f"./launch.sh evaluate.py {folder.path}; other placements: plan.py, compare.py"
        )
    return "\n".join(f"{name:<15}{text}" for name, text in lines.items())
