"""What a run tells: the log, the metrics file, the live line, the curves, the summary and W&B."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self, override

from common.files import writing
from distributed.timer import StepCost
from model.first_layer import Kinds
from recording.folder import RunFolder
from recording.metrics import MetricsFile, read_metrics, step_speed
from recording.progress import Progress
from recording.stuck import StuckLoss
from recording.totals import Totals
from recording.tracking import Tracker, choose_mode
from training.batches import LocalBatch
from training.config import Config
from training.settings import dump_config
from training.trainer import StepResult, Trainer, why_not_compiled

log = logging.getLogger(__name__)

SHORT = {"activation_communication": "act. comm.", "gradient_communication": "grad. comm."}
"""Names of a step's parts that are short enough for a line."""


class Listener(Protocol):
    """Something that is told the metrics of a training step or of an evaluation."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Be told."""


class Reporter:
    """Counts, and keeps silent: what every rank but the first has."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals
        self.clock = time.perf_counter()

    def trained(
        self, step: int, local: LocalBatch, result: StepResult, agreement: dict[str, float]
    ) -> None:
        """Report one optimiser step; it took the time since the last."""
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.totals.add(result.images, seconds)
        metrics = {
            "epoch": local.epochs_done,
            "train/loss": result.loss,
            "train/top1": result.top1,
            "train/images": result.images,
            "train/learning_rate": result.learning_rate,
            "step/images_per_second": result.images / seconds,
            **{f"step/{name}": value for name, value in asdict(result.cost).items()},
        }
        self.tell(step, {**metrics, **agreement})

    def tested(self, step: int, epochs_done: float, metrics: dict[str, float]) -> None:
        """Report one evaluation."""
        self.totals.tested(step, metrics)
        self.tell(step, {"epoch": epochs_done, **metrics})

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What happens inside is not training time."""
        before = time.perf_counter() - self.clock
        yield
        self.clock = time.perf_counter() - before

    def tell(self, step: int, metrics: dict[str, float]) -> None:
        """Say the metrics of a step."""

    def finish(
        self, steps: int, checkpoint: Path | None, peak_memory: float, conv1: Tensor
    ) -> None:
        """Say how the run ended: after ``steps``, with its last checkpoint and most bytes held.

        ``conv1`` (K, C, H, W) are the first layer's kernels, of all towers.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of files and services."""


class MainReporter(Reporter):
    """Rank 0's: tells the metrics file, the terminal and W&B."""

    def __init__(
        self, totals: Totals, folder: RunFolder, config: Config, facts: dict[str, Any], step: int
    ) -> None:
        """``facts`` describe the run; ``step`` is the one that training begins after."""
        super().__init__(totals)
        self.folder = folder
        self.facts = facts = {**facts, "attempt": folder.last_attempt().number}
        with writing(folder.config):
            folder.config.write_text(dump_config(config))
        self.tracker = Tracker(
            choose_mode(config.tracking.mode),
            folder.path,
            id=totals.run_id,
            project=config.tracking.project,
            group=config.tracking.group or config.name,
            job_type="train",
            name=folder.path.name,
            tags=[config.variant, facts["placement"]],
            config={**config.model_dump(mode="json"), **facts},
        )
        totals.run_id = self.tracker.run_id
        self.progress = Progress(facts["total_steps"], step)
        self.listeners: list[Listener] = [
            MetricsFile(folder.metrics, step, go_on=config.write_errors == "continue"),
            self.progress,
            self.tracker,
            StuckLoss(facts["classes"]),
        ]
        self.clock = time.perf_counter()

    @override
    def tell(self, step: int, metrics: dict[str, float]) -> None:
        for listener in self.listeners:
            listener.log(step, metrics)

    @override
    def finish(
        self, steps: int, checkpoint: Path | None, peak_memory: float, conv1: Tensor
    ) -> None:
        self.progress.close()
        last = {"peak_memory_bytes": int(peak_memory), "checkpoint": str(checkpoint or "none")}
        # matplotlib is not worth waiting for at the start
        from recording.kernels import draw_kernels, kinds_of_towers, summary_of
        from recording.plots import draw_curves

        towers, name = self.facts["towers"], self.folder.path.name
        kinds = summary_of(kinds_of_towers(conv1, towers))
        speed = step_speed(read_metrics(self.folder.metrics))
        summary = {**self.facts, "steps": steps, **self.totals.summary(), **speed, **kinds, **last}
        with writing(self.folder.summary):
            self.folder.summary.write_text(json.dumps(summary, indent=1) + "\n")
        draw_curves(self.folder.metrics, self.folder.curves, name)
        draw_kernels(conv1, towers, self.folder.kernels, name)
        self.tracker.log_image("curves", self.folder.curves)
        self.tracker.log_image("kernels", self.folder.kernels)
        self.tracker.summarize(summary)
        log.info("\n%s", closing_words(summary, self.folder, self.tracker.location))

    @override
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.close()
        self.tracker.finish(exit_code=int(kind is not None))


def start_reporter(trainer: Trainer, folder: RunFolder, totals: Totals) -> Reporter:
    """The reporter of this rank; rank 0's says what is about to be trained, and where."""
    reporter = Reporter(totals)

    def start() -> None:  # the others wait for it: W&B takes its time where the network is slow
        nonlocal reporter
        facts = facts_of(trainer)
        log.info(opening_words(facts, trainer))
        reporter = MainReporter(totals, folder, trainer.config, facts, trainer.steps)

    trainer.mesh.from_main(start)
    return reporter


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """What describes a run beside its configuration."""
    mesh, config, model = trainer.mesh, trainer.config, trainer.model
    shapes = {
        name: model.towers.full_shape(name, parameter.shape)
        for name, parameter in model.named_parameters()
    }
    return {
        "variant": config.variant,
        "towers": config.towers,
        "placement": mesh.plan.placement,
        "world_size": mesh.plan.world_size,
        "global_batch": config.batch_size,
        "precision": config.precision,
        "classes": model.fc8.out_features,
        "parameters": sum(shape.numel() for shape in shapes.values()),
        "parameters_per_rank": sum(parameter.numel() for parameter in model.parameters()),
        "total_steps": trainer.total_steps,
    }


def opening_words(facts: dict[str, Any], trainer: Trainer) -> str:
    """What is about to be trained, and where."""
    config, device = trainer.config, trainer.mesh.device
    given = config.net.changes.items()
    changes = "".join(f", net.{key}={json.dumps(value)}" for key, value in given)
    threads = f", threads per process: {torch.get_num_threads()}" if device.type == "cpu" else ""
    lines = [
        f"{config.variant}{changes}, {config.towers} tower(s), {facts['placement']}: "
        f"{facts['parameters']:,} parameters, {facts['parameters_per_rank']:,} on this rank",
        trainer.mesh.plan.picture(),
        f"{config.data.name} at {config.data.size} px, global batch {config.batch_size}, "
        f"{config.precision}, {facts['total_steps']} steps",
        f"processes on {device.type}: {facts['world_size']}{threads}",
    ]
    if config.compile and (reason := why_not_compiled(device)):
        lines.append(f"torch.compile was left off: {reason}")
    return "\n".join(lines)


def closing_words(summary: dict[str, Any], folder: RunFolder, tracked: str) -> str:
    """The outcome of a run in a few plain lines."""
    speed = {}
    if "bytes_sent" in summary:
        cost = StepCost.read(summary)
        total = sum(cost.parts.values()) or 1.0
        shares = [f"{SHORT.get(part, part)} {s / total:.0%}" for part, s in cost.parts.items()]
        speed = {
            "speed": f"{summary['images_per_second']:.1f} images/s",
            "a step's time": ", ".join(shares),
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
    if "kernels_color_0" in summary:
        lines["kernels of"] = "; ".join(
            f"tower {tower}: "
            + ", ".join(f"{summary[f'kernels_{kind}_{tower}']} {kind}" for kind in Kinds._fields)
            for tower in range(summary["towers"])
        )
    if min(summary["steps"], summary["test_step"]) < summary["total_steps"]:
        again = f"name={folder.path.name} --resume"
        lines["unfinished"] = f"to continue, add {again} to the same command"
    return "\n".join(f"{name:<15}{text}" for name, text in lines.items())
