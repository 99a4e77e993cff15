"""Weights & Biases: a run there, which may fail at any time without harm to the training.

``wandb`` is imported where it is used: that takes a third of a second, which ranks other than 0 and
runs without tracking need not wait.
"""

import logging
import netrc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

FINISH_SECONDS = 30
INIT_SECONDS = 20


def choose_mode(wanted: str) -> Mode:
    """``auto`` becomes WANDB_MODE if that is set; else online with an API key, offline without."""
    if wanted == "auto":
        wanted = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
    modes: dict[str, Mode] = {"online": "online", "offline": "offline"}
    return modes.get(wanted, "disabled")


def _has_api_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    own = os.environ.get("WANDB_BASE_URL")
    url = own or wandb.Settings.model_fields["base_url"].default
    hosts = {urlsplit(url).netloc, "" if own else "api.wandb.ai"}
    try:
        return not hosts.isdisjoint(netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


class Tracker:
    """One W&B run. After its first failure it says so once, and does nothing more."""

    def __init__(self, mode: Mode, folder: Path, **run: Any) -> None:
        """``run`` is what ``wandb.init`` takes; an ``id`` of None starts a new run."""
        self.run: Any = None
        self.wandb: Any = None
        self.run_id: str | None = run["id"]
        arguments = {"dir": folder, "resume": "allow", **run}
        if mode == "online":
            _attempt(lambda: self._start("online", arguments))
            if self.run is None:
                log.warning("W&B: the run is kept offline instead")
                _attempt(lambda: self.wandb.teardown())
                mode = "offline"
        if mode == "offline":
            _attempt(lambda: self._start("offline", arguments))

    def _start(self, mode: Mode, arguments: dict[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        with _no_terminal():
            run = wandb.init(mode=mode, settings=_settings(), **arguments)
        run.define_metric("global_step")
        for group in ("train/*", "test/*", "time/*"):
            run.define_metric(group, step_metric="global_step")
        run.define_metric("test/top1", step_metric="global_step", summary="max")
        self.run, self.run_id = run, run.id

    @property
    def location(self) -> str:
        """Where a person finds the run."""
        if self.run is None:
            return "none"
        if self.run.offline:
            return f"offline, to upload: wandb sync {os.path.relpath(self.run.settings.sync_dir)}"
        return str(self.run.url)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Log the metrics of one step."""
        self._do(lambda run: run.log({"global_step": step, **metrics}))

    def log_image(self, name: str, path: Path) -> None:
        """Log a picture file."""
        self._do(lambda run: run.log({name: self.wandb.Image(str(path))}))

    def log_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Log rows of flat keys as a table."""
        columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[row.get(str(column)) for column in columns] for row in rows]
        self._do(lambda run: run.log({name: self.wandb.Table(columns=columns, data=cells)}))

    def summarize(self, summary: dict[str, Any]) -> None:
        """Put the outcome of the run into its summary."""
        self._do(lambda run: run.summary.update(summary))

    def finish(self, exit_code: int) -> None:
        """End the run, within ``FINISH_SECONDS``."""
        self._do(lambda run: run.finish(exit_code=exit_code))
        self.run = None
        if self.wandb is not None:
            with suppress(Exception):  # if the service has died, the interpreter's exit would trip
                self.wandb.teardown()

    def _do(self, work: Callable[[Any], Any]) -> None:
        if self.run is not None and not _attempt(lambda: work(self.run)):
            self.run = None


@contextmanager
def _no_terminal() -> Iterator[None]:
    """Make wandb fail where it would ask for an API key, and wait."""
    stdin = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = stdin


def _attempt(work: Callable[[], Any]) -> bool:
    """Whether ``work`` was done; wandb raises whatever its service, disk and network raise."""
    try:
        work()
    except Exception as error:
        log.warning("W&B failed, training goes on without it: %s", " ".join(str(error).split()))
        return False
    return True


def _settings() -> dict[str, Any]:
    import wandb

    wanted = {
        "console": "off",
        "silent": True,
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        # Of what is logged offline, all but the last second survives a SIGKILL.
        "x_transaction_log_flush_interval": 1.0,
    }
    return {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
