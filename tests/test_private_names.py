"""Private names of torch: those in use are those that CONTRIBUTING.md lists."""

import ast

import pytest

from tests.test_architecture import ROOT, SOURCES, names_imported
from tests.test_docs import CONTRIBUTING, _names, _rows

OURSELVES = {"self", "cls", "ctx"}


def _is_private(name):
    return name.startswith("_") and name != "_" and not name.endswith("__")


def private_names(sources):
    """{private name: modules} of the names that the modules use, or override, and do not define."""
    defined = {"_exit", "_replace", "_asdict", "_fields"}  # of os, and of named tuples
    used: dict[str, set[str]] = {}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            name, is_use = "", False
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = node.name
                is_use = "override" in map(ast.unparse, node.decorator_list)
            elif isinstance(node, ast.Attribute):
                ours = isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in OURSELVES
                name, is_use = node.attr, not ours
            elif isinstance(node, ast.Name):
                name, is_use = node.id, isinstance(node.ctx, ast.Load)
            if is_use and _is_private(name):
                used.setdefault(name, set()).add(path)
            elif not is_use:
                defined.add(name)
        for imported in names_imported(ast.parse(source)):
            for part in filter(_is_private, imported.split(".")):
                used.setdefault(part, set()).add(path)
    return {name: modules for name, modules in used.items() if name not in defined}


def test_the_table_has_every_private_name_of_torch():
    paths = [*SOURCES, *ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    used = private_names({str(path.relative_to(ROOT)): path.read_text() for path in paths})
    # A name that is used in tests alone is listed with its test.
    modules = {
        name: {each for each in found if not each.startswith("tests/")} or found
        for name, found in used.items()
    }
    rows = _rows(CONTRIBUTING, "name")
    listed = {name: set(_names(row[1])) for row in rows for name in _names(row[0])}
    assert modules == listed


@pytest.mark.parametrize(
    "line",
    [
        "torch._foreach_add_(x, 1)",
        "from torch._hidden import y",
        "import torch.a._hidden.b",
        "class A:\n    @override\n    def _hook(self): ...",
    ],
)
def test_a_private_name_is_found(line):
    assert len(private_names({"a.py": f"_ours = 1\nprint(_ours)\n{line}\n"})) == 1
