"""Weights & Biases: a run there, which may fail at any time without harm to the training.

``wandb`` is imported where it is used: importing it takes a third of a second, which ranks other
than 0 and runs without tracking need not wait.
"""

import logging
import os
import re
import secrets
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError

from common.errors import ReportedError

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

    def __init__(
        self, mode: str, folder: Path, defaults: Mapping[str, Any] | None = None, **run: Any
    ) -> None:
        """Start a run in ``mode``: online, offline, disabled or auto.

        ``auto`` is what wandb's own settings say (WANDB_MODE, ``wandb offline``, …); where they say
        nothing, it is online with an API key and offline without. ``run`` are arguments of
        ``wandb.init``; an ``id`` of None starts a new run. ``defaults`` are settings of wandb for
        what neither ``run`` nor wandb's own settings say. Raises ReportedError when those are not
        valid.
        """
        self.run: Any = None
        self.run_id: str | None = run["id"]
        self.url: str | None = None
        self.folders: list[Path] = []
        self.complaints: list[str] = []
        self.modes = iter([] if mode == "disabled" else [mode, "offline", "offline"])
        self.defaults = {"root_dir": str(folder), **(defaults or {})}
        self.arguments = {**run, "resume": "allow"}
        self._start()

    def _start(self, failure: Exception | None = None) -> None:
        """Start a run in the next mode that works; warn of the first failure."""
        self.run = self.url = None
        for mode in self.modes:
            _teardown()
            try:
                self.run = self._init(mode)
                break
            except ReportedError:
                raise
            except Exception as error:
                failure = failure or error
        if failure:
            how = f"the run goes on {self.location}" if self.run else "training goes on without it"
            log.warning("W&B failed (%s), %s", _line(failure), how)

    def _init(self, mode: str) -> Any:
        """The run, started; None if wandb's own settings disable it."""
        wandb, told = _wandb(), _set_up(self.complaints)
        if mode == "auto":
            if self.complaints:  # about its settings, of which one may be offline
                raise RuntimeError(" ".join(self.complaints))
            mode = _mode_of(told)
        if mode == "disabled":
            return None
        self.run_id = self.arguments["id"] = self.run_id or told.run_id or secrets.token_hex(4)
        settings = {**_limits(), **self.defaults}
        known = wandb.Settings.model_fields.keys() - told.model_fields_set
        start = {
            **self.arguments,
            "settings": {key: value for key, value in settings.items() if key in known},
        }
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
        self.url = None if run.offline else str(run.url)
        self.folders.append(Path(run.settings.sync_dir))
        self.complaints.clear()
        return run

    @property
    def location(self) -> str:
        """The URL of the run, or the folders it is in and how to upload them."""
        return locations([self])

    @property
    def unsent(self) -> list[Path]:
        """The folders of the run that are not on the server, of earlier attempts too, by time."""
        if not self.folders:
            return []
        offline = self.folders[0].parent.glob(f"offline-run-*-{self.run_id}*")
        unsent = {folder for folder in offline if not any(folder.glob("*.synced"))}
        if not self.url:
            unsent.update(self.folders)
        return sorted(unsent, key=lambda folder: folder.name.removeprefix("offline-"))

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
            log.warning("W&B did not end the run well (%s); %s", why, _how_to_upload(self.folders))

    def _do(self, work: Callable[[Any], None]) -> None:
        """Do ``work`` with the run; if that fails, with the one that takes over."""
        while self.run:
            try:
                work(self.run)
                break
            except Exception as error:  # of wandb's service, the disk, the network
                self._start(error)


def locations(trackers: Iterable[Tracker]) -> str:
    """The URL of the last run that is online, and how to upload all that are not."""
    trackers = list(trackers)
    places = [tracker.url for tracker in trackers if tracker.url][-1:]
    if unsent := [folder for tracker in trackers for folder in tracker.unsent]:
        places.append(f"offline, {_how_to_upload(unsent)}")
    return "; ".join(places) or "none"


def _how_to_upload(folders: Iterable[Path]) -> str:
    folders = list(folders)
    was_online = any(folder.name.startswith("run-") for folder in folders)
    flags = ["--include-online"] if was_online else []
    paths = [os.path.relpath(folder) for folder in folders]
    return f"to upload: {shlex.join(['wandb', 'sync', *flags, *paths])}"


def check_tracking(mode: str) -> None:
    """Raise ReportedError if wandb's own settings are not valid, unless ``mode`` is disabled."""
    if mode != "disabled":
        _set_up([], mode="disabled")
        _teardown()


def _set_up(complaints: list[str], **settings: Any) -> Any:
    """Start wandb's service, which prints nothing, and return wandb's own settings.

    They are those of its files and of the environment, overridden by ``settings``. What wandb says
    goes to ``complaints``. Raises ReportedError when a variable's value is not valid.
    """
    # Telemetry would contact the server from offline runs too, and wait for it at every end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")  # so an error names the settings file it is in
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # wandb would refuse an empty one
    wandb = _wandb()
    silent = wandb.Settings(silent=True, **settings)  # so wandb asks nobody for an API key, either
    kept = complaints.append
    wandb.termsetup(silent, SimpleNamespace(info=id, warning=log.warning, error=kept))
    try:
        with _no_standard_error():
            told = wandb.setup(silent).settings
    except ValidationError as error:
        raise ReportedError(_refusal(error)) from None
    wandb.termsetup(silent, SimpleNamespace(info=id, warning=kept, error=kept))
    return told


def _refusal(error: ValidationError) -> str:
    """One sentence about a setting that wandb does not take; its value may be secret."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    return f"wandb refuses its {name} ({first['msg']}): correct or unset WANDB_{name.upper()}"


def _mode_of(told: Any) -> str:
    """The mode that wandb was told by its settings, or auto."""
    if os.environ.get("WANDB_DISABLED", "").lower() not in ("", "0", "false", "no", "off"):
        return "disabled"
    return str(told.mode) if "mode" in told.model_fields_set else "auto"


def _limits() -> dict[str, Any]:
    """Settings of wandb that bound what a run may cost the training."""
    return {
        "console": "off",
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "x_transaction_log_flush_interval": FLUSH_SECONDS,
    }


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
    text = re.sub(r"wandb: (ERROR |WARNING )?", "", str(error))
    return textwrap.shorten(text or type(error).__name__, 200, placeholder=" …")
