"""Weights & Biases: a run there, which may fail at any time without harm to the training.

``wandb`` is imported where it is used: importing it takes a third of a second, which ranks other
than 0 and runs without tracking need not wait.
"""

import logging
import os
import secrets
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

INIT_SECONDS = 10
FINISH_SECONDS = 30
FLUSH_SECONDS = 0.1
"""A SIGKILL loses what was logged in these last seconds."""


class Tracker:
    """One W&B run, online or offline.

    When it fails, an offline run of the same id goes on in another folder; ``wandb sync`` joins the
    two. A third failure ends the tracking. Each failure is one warning, and none is raised.
    """

    def __init__(self, mode: str, folder: Path, **run: Any) -> None:
        """Start a run in ``mode``: online, offline, disabled or auto.

        ``auto`` is WANDB_MODE if that is set; else online with an API key, offline without. ``run``
        are arguments of ``wandb.init``; an ``id`` of None starts a new run.
        """
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or mode
        self.run: Any = None
        self.run_id: str | None = run["id"]
        self.folders: list[str] = []
        self.complaints: list[str] = []
        self.modes = iter([] if mode == "disabled" else [mode, "offline", "offline"])
        self.arguments = {**run, "dir": folder, "resume": "allow"}
        self._start()

    def _start(self, failure: Exception | None = None) -> None:
        """Start a run in the next mode that works; warn of the first failure."""
        self.run = None
        for mode in self.modes:
            _teardown()
            try:
                self.run = self._init(mode)
                break
            except Exception as error:
                failure = failure or error
        if failure:
            how = f"the run goes on {self.location}" if self.run else "training goes on without it"
            log.warning("W&B failed (%s), %s", _line(failure), how)

    def _init(self, mode: str) -> Any:
        wandb = _set_up(self.complaints)
        self.run_id = self.arguments["id"] = self.run_id or secrets.token_hex(4)
        start = {**self.arguments, "settings": _settings()}
        try:
            run = wandb.init(mode="online" if mode == "auto" else mode, **start)
        except wandb.errors.UsageError:  # there is no API key
            if mode != "auto":
                raise
            run = wandb.init(mode="offline", **start)
        run.define_metric("global_step")
        for group in ("train/*", "test/*", "step/*"):
            run.define_metric(group, step_metric="global_step")
        run.define_metric("test/top1", step_metric="global_step", summary="max")
        self.folders.append(run.settings.sync_dir)
        self.complaints.clear()
        return run

    @property
    def location(self) -> str:
        """The URL of the run, or the folders it is in and how to upload them."""
        if not self.folders:
            return "none"
        if self.run and not self.run.offline:
            return str(self.run.url)
        return f"offline, {self._how_to_upload}"

    @property
    def _how_to_upload(self) -> str:
        folders = [os.path.relpath(folder) for folder in self.folders]
        was_online = any(Path(folder).name.startswith("run-") for folder in folders)
        flags = ["--include-online"] if was_online else []
        parts = f" its {len(folders)} parts as one run" if len(folders) > 1 else ""
        return f"to upload{parts}: {shlex.join(['wandb', 'sync', *flags, *folders])}"

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Log the metrics of one step."""
        self._do(lambda run: run.log({"global_step": step, **metrics}))

    def log_image(self, name: str, path: Path) -> None:
        """Log a picture file."""
        self._do(lambda run: run.log({name: _wandb().Image(str(path))}))

    def log_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Log rows of flat keys as a table."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[row.get(column) for column in columns] for row in rows]
        self._do(lambda run: run.log({name: _wandb().Table(columns=columns, data=cells)}))

    def summarize(self, summary: dict[str, Any]) -> None:
        """Put the outcome of the run into its summary."""
        self._do(lambda run: run.summary.update(summary))

    def finish(self, exit_code: int) -> None:
        """End the run, within ``FINISH_SECONDS``."""
        self._do(lambda run: self._end(run, exit_code))
        self.run = None
        _teardown()

    def _end(self, run: Any, exit_code: int) -> None:
        file = Path(run.settings.sync_file)
        size = file.stat().st_size
        run.finish(exit_code=exit_code)
        _teardown()
        if file.stat().st_size == size:  # wandb does not report a full disk
            self.complaints.append(f"the disk refused the last of {file}")
        if self.complaints:
            why = _line(" ".join(self.complaints))
            log.warning("W&B did not end the run well (%s); %s", why, self._how_to_upload)

    def _do(self, work: Callable[[Any], None]) -> None:
        """Do ``work`` with the run; if that fails, with the one that takes over."""
        while self.run:
            try:
                work(self.run)
                break
            except Exception as error:  # of wandb's service, the disk, the network
                self._start(error)


def _set_up(complaints: list[str]) -> Any:
    """Start wandb's service, which prints nothing; what wandb warns of goes to ``complaints``."""
    # Telemetry would contact the server from offline runs too, and wait for it at every end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = _wandb()
    silent = wandb.Settings(silent=True)  # so wandb asks nobody for an API key, either
    with _no_standard_error():
        wandb.setup(silent)
    kept = complaints.append
    wandb.termsetup(silent, SimpleNamespace(info=id, warning=kept, error=kept))
    return wandb


def _settings() -> dict[str, Any]:
    """The settings of a run, of those that this version of wandb knows."""
    wanted = {
        "console": "off",
        "silent": True,
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "x_transaction_log_flush_interval": FLUSH_SECONDS,
    }
    return {key: value for key, value in wanted.items() if key in _wandb().Settings.model_fields}


def _wandb() -> Any:
    import wandb

    return wandb


def _teardown() -> None:
    """End wandb's service, if it has been started."""
    if wandb := sys.modules.get("wandb"):
        with suppress(Exception):  # where the service has died
            wandb.teardown()


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """Start processes without standard error, where wandb's service logs if it has no cache."""
    ours = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def _line(error: object) -> str:
    """An error as one short line."""
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
