"""Weights & Biases: a run there, which may fail at any time without harm to the training.

``wandb`` is imported where it is used: that takes a third of a second, which ranks other than 0 and
runs without tracking need not wait.
"""

import logging
import netrc
import os
import secrets
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""Values of WANDB_MODE that wandb knows."""
FINISH_SECONDS = 30
INIT_SECONDS = 10


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
    """One W&B run, online or offline.

    When it fails, an offline run of the same id takes over, which ``wandb sync`` joins to what was
    logged before; when that fails too, the tracking ends. Each is told in one line.
    """

    def __init__(self, mode: Mode, folder: Path, **run: Any) -> None:
        """``run`` is what ``wandb.init`` takes; an ``id`` of None starts a new run."""
        self.run: Any = None
        self.wandb: Any = None
        self.run_id: str | None = run["id"]
        self.arguments = {"dir": folder, "resume": "allow", **run}
        self.folders: dict[str, Mode] = {}
        self.complaints: list[str] = []
        self.may_restart = True
        if mode != "disabled" and (why := _failure(lambda: self._start(mode))):
            self._restart(why)

    def _start(self, mode: Mode) -> None:
        self.wandb = _set_up(self.arguments["dir"], self.complaints)
        self.run_id = self.run_id or secrets.token_hex(4)
        arguments = {**self.arguments, "id": self.run_id}
        self.complaints.clear()
        with _no_terminal():
            run = self.wandb.init(mode=mode, settings=_settings(), **arguments)
        run.define_metric("global_step")
        for group in ("train/*", "test/*", "step/*"):
            run.define_metric(group, step_metric="global_step")
        run.define_metric("test/top1", step_metric="global_step", summary="max")
        self.folders[run.settings.sync_dir] = mode
        self.run = run

    def _restart(self, why: str) -> None:
        """After a failure, go on with an offline run; after a second one, with none."""
        self.run = None
        self._teardown()
        if self.may_restart:
            self.may_restart = False
            why = _failure(lambda: self._start("offline")) or why
        if self.run is None:
            log.warning("W&B failed, training goes on without it: %s", why)
        else:
            log.warning("W&B failed, the run is kept offline (%s); %s", why, self._how_to_upload)

    @property
    def location(self) -> str:
        """Where a person finds the run."""
        if not self.folders:
            return "none"
        if self.run is None or self.run.offline:
            return f"offline, {self._how_to_upload}"
        return str(self.run.url)

    @property
    def _how_to_upload(self) -> str:
        folders = [os.path.relpath(folder) for folder in self.folders]
        flags = ["--include-online"] if "online" in self.folders.values() else []
        return f"to upload: {shlex.join(['wandb', 'sync', *flags, *folders])}"

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
        if self.run is not None and (why := _failure(lambda: self._end(exit_code))):
            log.warning("W&B did not end the run well (%s); %s", why, self._how_to_upload)
        self.run = None
        self._teardown()

    def _end(self, exit_code: int) -> None:
        file = Path(self.run.settings.sync_file)
        size = file.stat().st_size
        self.run.finish(exit_code=exit_code)
        self._teardown()
        if file.stat().st_size == size:  # wandb itself keeps silent about it
            raise OSError(f"the disk refused the last of {file}")
        if self.complaints:
            raise RuntimeError(" ".join(self.complaints))

    def _teardown(self) -> None:
        if self.wandb is not None:
            with suppress(Exception):  # if the service has died, the interpreter's exit would trip
                self.wandb.teardown()

    def _do(self, work: Callable[[Any], Any]) -> None:
        """``work`` with the run; if that fails, with the one that takes over."""
        if self.run is not None and (why := _failure(lambda: work(self.run))):
            self._restart(why)
            self._do(work)


def _set_up(folder: Path, complaints: list[str]) -> Any:
    """The module wandb with its service, which keeps silent; ``folder`` is its home if it has none.

    What it would have warned of is appended to ``complaints``.
    """
    # Telemetry would contact the server from offline runs too, and wait for it at every end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if os.environ.get("WANDB_MODE") not in WANDB_MODES:
        os.environ.pop("WANDB_MODE", None)  # wandb would refuse to start
    if "HOME" not in os.environ:
        home = os.path.expanduser("~")
        os.environ["HOME"] = str(folder) if home == "~" else home
    import wandb

    silent = wandb.Settings(silent=True)
    with _no_standard_error():
        wandb.setup(silent)
    wandb.termsetup(silent, _Complaints(complaints))
    return wandb


class _Complaints:
    """Keeps the warnings that wandb would print."""

    def __init__(self, kept: list[str]) -> None:
        self.warning = self.error = kept.append

    def info(self, message: str) -> None:
        """Not worth keeping."""


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """A process started meanwhile has none: wandb's logs there where it finds no other place."""
    ours = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


@contextmanager
def _no_terminal() -> Iterator[None]:
    """Make wandb fail where it would ask for an API key, and wait."""
    stdin = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = stdin


def _failure(work: Callable[[], Any]) -> str | None:
    """Why ``work`` failed, in a line; wandb raises whatever its service, disk and network raise."""
    try:
        work()
    except Exception as error:
        return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
    return None


def _settings() -> dict[str, Any]:
    import wandb

    wanted = {
        "console": "off",
        "silent": True,
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "finish_timeout_raises": True,
        # Of what is logged, all but the last tenth of a second survives a SIGKILL.
        "x_transaction_log_flush_interval": 0.1,
    }
    return {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
