"""Fixtures shared by all tests."""

import dataclasses
import os
import shutil
import signal
import textwrap

os.environ.setdefault("WANDB_MODE", "offline")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the proofs are of CPUs

import launch.signals  # noqa: F401 - it changes what Ctrl-C does, which is undone below

import pytest
import torch

from model.variants import VARIANTS
from tests.ranks import RankPool
from tests.runs import train
from tests.wandb_server import KEY, WandbServer

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup all that tests start would ignore it


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture
def small_nets(monkeypatch):
    """Every variant with few hidden units, which is made, written and read in no time."""
    for name, variant in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, name, dataclasses.replace(variant, hidden=32))


@pytest.fixture
def tracker_warnings(caplog):
    """The warnings of the W&B tracker."""

    def warnings():
        ours = [record for record in caplog.records if record.name == "recording.tracking"]
        return [record.getMessage() for record in ours]

    return warnings


@pytest.fixture(scope="session")
def split_run(tmp_path_factory):
    """A run on two ranks, one tower each, as it was left; (its folder, what it printed)."""
    runs = tmp_path_factory.mktemp("split")
    settings = ("name=first", "checkpoint_every=4", "tracking.mode=offline")
    status, out, err = train(2, runs, *settings)
    assert status == 0, err
    yield runs / "first", out
    shutil.rmtree(runs)


@pytest.fixture
def wandb_server(monkeypatch):
    """A W&B server, which runs in mode online or auto use."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield server
    server.behaviour = "well"  # whoever waits for it goes on
    server.stop()


def _pool(world_size: int):
    @pytest.fixture(scope="session")
    def pool():
        ranks = RankPool(world_size)
        yield ranks
        ranks.stop()

    return pool


one_rank = _pool(1)
two_ranks = _pool(2)
three_ranks = _pool(3)
four_ranks = _pool(4)


def pytest_collection_modifyitems(items):
    """Begin with the files that start programs: they take longest, and a file is one worker's."""
    slow = {item.path for item in items if item.get_closest_marker("programs")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter):
    """Print the tables of what tests recorded: errors under "equality", outcomes under "fault"."""
    stats = terminalreporter.stats
    reports = [*stats.get("passed", []), *stats.get("failed", [])]
    recorded = [entry for report in reports for entry in report.user_properties]
    errors = [row for key, row in recorded if key == "equality"]
    faults = [row for key, row in recorded if key == "fault"]
    write = terminalreporter.write_line
    if errors:
        terminalreporter.section("equality with the full tensors of one process")
        write(f"{'net':<26}{'mesh':<32}largest relative error")
        for net, mesh, error in errors:
            write(f"{net:<26}{mesh:<32}{error:.1e}")
    if faults:
        terminalreporter.section("faults tried, and what happened")
        for fault, outcome in faults:
            write(textwrap.fill(fault, 100))
            write(textwrap.fill(outcome, 100, initial_indent="    ", subsequent_indent="    "))
