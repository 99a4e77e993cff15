"""Fixtures shared by all tests."""

import os

os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch

from tests.ranks import RankPool

EQUALITY_ROWS: list[tuple[str, str, float]] = []


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    torch.set_num_threads(2)


def _pool(world_size: int):
    @pytest.fixture(scope="session")
    def pool():
        ranks = RankPool(world_size)
        yield ranks
        ranks.stop()

    return pool


one_rank = _pool(1)
two_ranks = _pool(2)
four_ranks = _pool(4)


@pytest.fixture
def equality_rows():
    """Rows (variant, mesh, largest relative error) that the test run prints at its end."""
    return EQUALITY_ROWS


def pytest_terminal_summary(terminalreporter):
    if EQUALITY_ROWS:
        terminalreporter.section("equality with the local form in one process")
        terminalreporter.write_line(f"{'variant':<14}{'mesh':<32}largest relative error")
        for variant, mesh, error in EQUALITY_ROWS:
            terminalreporter.write_line(f"{variant:<14}{mesh:<32}{error:.1e}")
