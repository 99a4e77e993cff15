"""Imports run one way, the network knows no machine, and one module reads torchrun's variables."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "common": set(),
    "native": {"common"},
    "model": {"common", "native"},
    "launch": {"common"},
    "data": {"common", "native", "model", "launch"},
    "distributed": {"common", "model", "launch"},
    "weights": {"common", "model"},
    "training": {"common", "native", "model", "data", "distributed", "weights"},
    "recording": {"common", "native", "model", "launch", "distributed", "weights", "training"},
    "planning": {"common", "model", "data", "launch", "distributed", "training"},
    "checking": {
        *("common", "native", "model", "data", "launch", "distributed", "training", "recording"),
        "planning",
    },
    "comparison": {"common", "launch", "distributed", "training", "recording", "planning"},
}
"""Packages that each package imports; every row names rows above it."""
ROOMS_FOR_ALL = ("benchmarks", "examples")
"""And the programs: they import any package, and none imports them."""
PROGRAMS = {path.stem for path in ROOT.glob("*.py")}
SOURCES = [
    path
    for package in [*ALLOWED, *ROOMS_FOR_ALL]
    for path in sorted((ROOT / package).rglob("*.py"))
]
OURS = {*ALLOWED, *ROOMS_FOR_ALL, *PROGRAMS, "tests"}

NOT_IN_MODEL = ("torch.distributed", "ctypes", "subprocess", "os", "pathlib")
TORCHRUN = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|(TORCHELASTIC|MASTER)_\w*"
)


def names_imported(tree):
    """The dotted names that a module imports, ``from a import b`` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def wrong_imports(source, package):
    """Imports that are relative, or of a package that ``package`` may not know."""
    allowed = OURS if package in ROOMS_FOR_ALL else ALLOWED[package]
    forbidden = (OURS - allowed - {package}) | ({*PROGRAMS, "tests"} - {package})
    names = set(names_imported(ast.parse(source)))
    return sorted(n for n in names if n.startswith(".") or n.split(".")[0] in forbidden)


def names_used(tree):
    """The dotted names that a module imports or reads an attribute by, such as torch.nn.Linear."""
    yield from names_imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def machine_in_model(source):
    """Names from ``NOT_IN_MODEL`` that a module uses."""
    names = {f"{name}." for name in names_used(ast.parse(source))}
    return sorted({each for each in NOT_IN_MODEL for name in names if name.startswith(f"{each}.")})


def torchrun_variables(source):
    """Names of torchrun's environment variables that stand as strings, or as bytes, in a module."""
    constants = [
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
    ]
    texts = [value.decode() if isinstance(value, bytes) else value for value in constants]
    return sorted(text for text in texts if isinstance(text, str) and TORCHRUN.fullmatch(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert not wrong_imports(path.read_text(), path.relative_to(ROOT).parts[0])


def test_every_row_names_rows_above_it():
    rows = list(ALLOWED)
    for place, package in enumerate(rows):
        assert ALLOWED[package] <= set(rows[:place]), package


@pytest.mark.parametrize("package", ALLOWED)
def test_the_table_allows_nothing_that_is_not_used(package):
    trees = [ast.parse(path.read_text()) for path in (ROOT / package).rglob("*.py")]
    used = {name.split(".")[0] for tree in trees for name in names_imported(tree)}
    assert ALLOWED[package] <= used


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("model", "from distributed.mesh import Mesh"),
        ("model", "import distributed.mesh as mesh"),
        ("model", "def late():\n    import distributed"),
        ("launch", "from .world import World"),
        ("launch", "from . import world"),
        ("training", "import train"),
        ("benchmarks", "from tests.ranks import RankPool"),
    ],
)
def test_a_wrong_import_is_found(package, line):
    assert len(wrong_imports(f"import torch\n{line}\n", package)) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "model").rglob("*.py")), ids=lambda path: path.name)
def test_the_network_knows_no_ranks_files_or_processes(path):
    assert not machine_in_model(path.read_text())


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import torch.distributed as dist", "torch.distributed"),
        ("from torch import distributed", "torch.distributed"),
        ("from torch.distributed.nn import all_reduce", "torch.distributed"),
        ("import torch\ntorch.distributed.get_rank()", "torch.distributed"),
        ("def late():\n    import os.path", "os"),
        ("from pathlib import Path", "pathlib"),
        ("from ctypes import CDLL", "ctypes"),
        ("import subprocess", "subprocess"),
    ],
)
def test_a_machine_in_the_network_is_found(line, name):
    assert machine_in_model(f"import math\n{line}\n") == [name]


def test_one_module_reads_torchrun_s_variables():
    sources = [path for path in SOURCES if path.parent.name != "benchmarks"]  # these set them
    sources += [ROOT / f"{program}.py" for program in PROGRAMS]
    readers = [path for path in sources if torchrun_variables(path.read_text())]
    assert readers == [ROOT / "launch" / "world.py"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("os.environ['RANK']", "RANK"),
        ('os.environ.get("LOCAL_RANK", 0)', "LOCAL_RANK"),
        ("os.getenv('''WORLD_SIZE''')", "WORLD_SIZE"),
        ("from os import environ\nname = 'LOCAL_WORLD_SIZE'\nenviron[name]", "LOCAL_WORLD_SIZE"),
        ("os.environb[b'GROUP_RANK']", "GROUP_RANK"),
        ("'MASTER_ADDR' in os.environ", "MASTER_ADDR"),
        ("os.getenv('TORCHELASTIC_RESTART_' 'COUNT')", "TORCHELASTIC_RESTART_COUNT"),
    ],
)
def test_a_read_of_torchrun_s_variables_is_found(line, name):
    assert torchrun_variables(f'"""RANK is in this docstring."""\n{line}\n') == [name]


def test_every_path_among_the_arguments_has_the_type_that_knows_the_home_folder():
    programs = [ROOT / f"{program}.py" for program in PROGRAMS]
    rooms = [path for room in ROOMS_FOR_ALL for path in (ROOT / room).glob("*.py")]
    sources = [*programs, *rooms]
    assert not [path for path in sources if "type=Path" in path.read_text()]
