"""Imports run one way, and only one module reads torchrun's environment."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "common": set(),
    "native": {"common"},
    "model": {"common", "native"},
    "data": {"common", "native", "model"},
    "launch": {"common"},
    "distributed": {"common", "model", "launch"},
    "weights": {"common", "model"},
    "training": {"common", "model", "data", "launch", "distributed", "weights"},
    "recording": {"common", "model", "data", "launch", "distributed", "weights", "training"},
    "comparison": {"common", "model", "data", "launch", "distributed", "training", "recording"},
}
ALLOWED["benchmarks"] = set(ALLOWED)
PROGRAMS = {"train", "evaluate", "predict", "convert", "compare", "prepare", "kernels"}
SOURCES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    ours = {*ALLOWED, *PROGRAMS, "tests"} & set(_imported(path))
    assert ours <= ALLOWED[package] | {package}


def test_the_network_knows_no_ranks():
    for path in (ROOT / "model").rglob("*.py"):
        assert "torch.distributed" not in path.read_text(), path


def test_one_module_reads_the_rank_from_the_environment():
    programs = [path for path in SOURCES if path.parent.name != "benchmarks"]  # these set it
    readers = {path.name for path in programs if '"WORLD_SIZE"' in path.read_text()}
    assert readers == {"world.py"}
