"""What rank 0 tells of a run: the log, the metrics file, the live line, the curves and W&B."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from model.alexnet import AlexNet
from training.config import Config, dump_config
from training.folder import RunFolder
from training.meters import PARTS
from training.plots import draw_curves
from training.progress import Progress
from training.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass
class Reporter:
    """Rank 0's voice."""

    folder: RunFolder
    tracker: Tracker
    progress: Progress
    train_seconds: float = 0.0
    images_seen: int = 0
    part_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    last_test: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def step(self, step: int, epoch: float, count: int, metrics: dict[str, Any]) -> None:
        """Report one optimiser step on ``count`` images; its seconds are the time since the last.

        ``metrics`` holds loss, train_top1, learning_rate and the parts of the step's time.
        """
        seconds = time.perf_counter() - self.started
        self.restart_clock()
        self.train_seconds += seconds
        self.images_seen += count
        for part in PARTS:
            self.part_seconds[part] += metrics[part]
        rate = count / seconds
        self.folder.append_metrics(
            {"step": step, "epoch": epoch, "images_per_second": rate, **metrics}
        )
        logged = {f"train/{key}": value for key, value in metrics.items() if key not in PARTS}
        logged |= {f"time/{part}": metrics[part] for part in PARTS}
        self.tracker.log({**logged, "train/images_per_second": rate, "train/epoch": epoch}, step)
        self.progress.update(1, loss=metrics["loss"], images_per_second=rate, epoch=epoch)

    def restart_clock(self) -> None:
        """What has passed since the last step (an evaluation, a checkpoint) is not training."""
        self.started = time.perf_counter()

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self.last_test = metrics
        self.folder.append_metrics({"step": step, "epoch": epoch, **metrics})
        self.tracker.log({key.replace("_", "/", 1): v for key, v in metrics.items()}, step)
        self.progress.note(
            f"epoch {epoch:.2f}: test loss {metrics['test_loss']:.4f}, "
            f"top-1 {metrics['test_top1']:.4f}, top-5 {metrics['test_top5']:.4f}"
        )

    def finish(self, step: int, facts: dict[str, Any]) -> None:
        """Draw the curves, write ``summary.json`` and print the summary."""
        rate = self.images_seen / self.train_seconds if self.train_seconds else 0.0
        mean = {f"seconds_{part}": s / max(step, 1) for part, s in self.part_seconds.items()}
        summary = {
            **facts,
            **self.last_test,
            "images_per_second": rate,
            "train_seconds": self.train_seconds,
            "images_seen": self.images_seen,
            **mean,
        }
        self.folder.write_summary(summary)
        draw_curves(self.folder.metrics, self.folder.curves, self.folder.path.name)
        self.tracker.log_image("curves", self.folder.curves, step)
        self.tracker.summarize(summary)
        self.tracker.finish()
        for line in summary_lines(summary, self):
            log.info(line)


def summary_lines(summary: dict[str, Any], reporter: Reporter) -> list[str]:
    """The end of a run in a few plain lines."""
    total = sum(reporter.part_seconds.values()) or 1.0
    shares = ", ".join(f"{p} {s / total:.0%}" for p, s in reporter.part_seconds.items())
    accuracy = (
        f"{summary['test_top1']:.4f} (top-5 {summary['test_top5']:.4f})"
        if "test_top1" in summary
        else "not evaluated"
    )
    return [
        "",
        f"test accuracy   {accuracy}",
        f"throughput      {summary['images_per_second']:.1f} images/s, "
        f"{summary['train_seconds']:.0f} s of training",
        f"a step's time   {shares}",
        f"checkpoint      {summary['checkpoint']}",
        f"curves          {reporter.folder.curves}",
        f"W&B run         {reporter.tracker.location}",
    ]


def describe(config: Config, model: AlexNet, picture: str, steps: int) -> str:
    """What is about to be trained, and where."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{config.variant}, {config.towers} tower(s), {parameters:,} parameters on this rank\n"
        f"{picture}\n"
        f"{config.data.name} at {config.data.size} px, global batch {config.batch_size}, "
        f"{config.precision}, {steps} steps"
    )


def start_reporter(
    config: Config, folder: RunFolder, facts: dict[str, Any], state: dict[str, Any], steps: int
) -> Reporter:
    """Open the run's files, the tracker and the progress line; ``state`` is what was resumed."""
    folder.config.write_text(dump_config(config))
    folder.truncate_metrics(state["step"])
    tracker = Tracker.start(
        mode=config.tracking.mode,
        project=config.tracking.project,
        group=config.tracking.group or config.name,
        job_type="train",
        name=folder.path.name,
        tags=[config.variant, facts["placement"]],
        config={**config.model_dump(mode="json"), **facts},
        folder=folder.path,
        run_id=state["run_id"],
    )
    progress = Progress(total=steps, done=state["step"])
    return Reporter(folder, tracker, progress, last_test=state["test"])
