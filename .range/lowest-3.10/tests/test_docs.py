"""The pages agree with the repository: links, configs, packages, the order of imports."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from model.variants import VARIANTS
from tests.test_architecture import ALLOWED, ROOM_FOR_ALL

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
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
    named = re.findall(r"`([a-z_]+/[\w/.-]+\.(?:py|cpp|yaml))`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_has_every_config_and_variant():
    configs = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert configs == {name for row in _rows(README, "config") for name in _names(row[0])}
    assert set(VARIANTS) == {name for row in _rows(README, "`variant`") for name in _names(row[0])}


def test_a_step_is_read_in_eight_files_of_the_stated_length():
    rows = _rows(CONTRIBUTING, "file")
    assert len(rows) <= 8
    for file, stated, _ in rows:
        (name,) = _names(file)
        lines = len((ROOT / name).read_text().splitlines())
        assert 0.8 * lines <= int(stated) <= 1.25 * lines, (name, lines)


def test_what_one_adds_goes_into_tables_and_tests_that_exist():
    for _, _, table, test in _rows(CONTRIBUTING, "to add"):
        *tables, module = [name for name in _names(table) if name != "README.md"]
        content = vars(import_module(module.removesuffix(".py").replace("/", ".")))
        assert all(name in content for name in tables), module
        assert all((ROOT / name).exists() for name in _names(test)), test


def _rows(page, first_heading):
    """The cells of the rows of the table with this first heading."""
    table = page[page.index(f"| {first_heading} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in table.splitlines()[2:]]


def _names(cell):
    return re.findall(r"`([\w./-]+)`", cell)


def test_the_readme_has_every_package():
    layout = README[README.index("## Layout") :]
    assert {*ALLOWED, ROOM_FOR_ALL} <= set(re.findall(r"^(\w+)/ ", layout, re.MULTILINE))


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_the_order_of_imports_is_the_tested_one(page):
    (order,) = re.findall(r"`(programs, benchmarks →[^`]+)`", page)
    layers = [set(re.findall(r"\w+", layer)) for layer in order.split("→")]
    assert set().union(*layers) == {*ALLOWED, ROOM_FOR_ALL, "programs"}
    for number, layer in enumerate(layers):
        for package in layer & set(ALLOWED):
            assert ALLOWED[package] <= {package}.union(*layers[number + 1 :])
