"""The pages agree with the repository: links, configs, packages, the order of imports."""

import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from model.variants import VARIANTS
from tests.programs import run
from tests.test_architecture import ALLOWED, ROOMS_FOR_ALL

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()
QUICK = [
    pytest.param(command, id=f"{page.name}: {command}")
    for page in PAGES
    for command in re.findall(r"^ *```bash\n((?:.+\n)+?) *```$", page.read_text(), re.MULTILINE)
    if page.parent.name != "parallelism" or command.startswith(" ")
]
"""Commands that take less than two minutes: blocks marked bash. The chapter's own, and not its
answers', are run in its notebook."""
RUNNING = (ROOT / "docs" / "running.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert heading in {_anchor(each) for each in headings}, target


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text()
    named = re.findall(r"`([a-z_]+/[\w/.-]+\.(?:py|cpp|yaml))`", text)
    named += re.findall(r"\b(?:configs|examples)/[\w-]+\.\w+", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_config_and_variant_is_described():
    configs = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert configs == {name for row in _rows(RUNNING, "config") for name in _names(row[0])}
    assert set(VARIANTS) == {name for row in _rows(RUNNING, "`variant`") for name in _names(row[0])}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_a_step_is_read_in_eight_files_of_the_stated_length():
    rows = _rows(CONTRIBUTING, "file")
    assert len(rows) <= 8
    for file, stated, _ in rows:
        (name,) = _names(file)
        lines = len((ROOT / name).read_text().splitlines())
        assert 0.8 * lines <= int(stated) <= 1.25 * lines, (name, lines)


def test_what_one_adds_goes_into_tables_and_tests_that_exist():
    for _, _, table, test in _rows(CONTRIBUTING, "to add"):
        *tables, module = [name for name in _names(table) if not name.endswith(".md")]
        content = vars(import_module(module.removesuffix(".py").replace("/", ".")))
        assert all(name in content for name in tables), module
        assert all((ROOT / name).exists() for name in _names(test)), test


def _rows(page, first_heading):
    """The cells of the rows of the table with this first heading."""
    table = page[page.index(f"| {first_heading} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in table.splitlines()[2:]]


def _names(cell):
    return re.findall(r"`([\w./-]+)`", cell)


def test_every_package_is_described():
    packages = CONTRIBUTING[CONTRIBUTING.index("## Packages") :]
    assert {*ALLOWED, *ROOMS_FOR_ALL} <= set(re.findall(r"^(\w+)/ ", packages, re.MULTILINE))


def test_the_order_of_imports_is_the_tested_one():
    (order,) = re.findall(r"`(programs, benchmarks, examples →[^`]+)`", CONTRIBUTING)
    layers = [set(re.findall(r"\w+", layer)) for layer in order.split("→")]
    assert set().union(*layers) == {*ALLOWED, *ROOMS_FOR_ALL, "programs"}
    for number, layer in enumerate(layers):
        for package in layer & set(ALLOWED):
            assert ALLOWED[package] <= {package}.union(*layers[number + 1 :])


PLACEMENTS = (ROOT / "docs" / "placements.md").read_text()
PROCESSES = {"one process, single stream": "single", "one process, both towers": "local"}


def test_the_readme_has_the_errors_of_the_table():
    errors = re.findall(r"  (\d\.\de-\d\d)$", PLACEMENTS, re.MULTILINE)
    assert f"is {max(errors, key=float)}" in README
    assert f"all {len(errors)} cases" in README


def test_the_readme_has_the_speeds_of_the_comparison():
    lines = re.findall(r"^ +\d+  [a-z]+ .*$", PLACEMENTS[PLACEMENTS.index("## Compared") :], re.M)
    rows = [row for line in lines if len(row := line.split()) == 11]
    speeds = {(row[1], row[0]): float(row[3]) for row in rows if "-" in row[4]}
    sent = {(row[1], row[0]): float(row[8]) for row in rows if "-" not in row[4]}
    assert speeds.keys() == sent.keys()
    for name, *shown in _rows(README, "placement"):
        placement = PROCESSES.get(name) or _names(name)[0]
        for batch, speed, megabytes in zip(("32", "128"), shown[:2], shown[2:], strict=True):
            assert speed == f"{speeds.pop((placement, batch)):.0f}"
            assert float(megabytes or 0) == pytest.approx(sent[placement, batch], abs=0.5)
    assert not speeds


def test_the_readme_has_the_errors_of_the_predictions():
    planning = (ROOT / "docs" / "planning.md").read_text()
    ((steps, error, regret),) = re.findall(
        r"Of the (\d+) steps the mean error is ([\d.]+) %, the mean regret ([\d.]+) %", planning
    )
    words = " ".join(README.split())
    assert f"{steps} steps of all plans" in words
    assert f"differ from their predictions by {float(error):.0f} % in the mean" in words
    assert f"takes {regret} % longer than the best measured" in words


@pytest.mark.programs
@pytest.mark.parametrize("commands", QUICK)
def test_quick_commands_run(commands):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    status, out, err = run("bash", "-ec", commands, OMP_NUM_THREADS="1", PATH=path)
    assert status == 0, out + err
