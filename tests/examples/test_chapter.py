"""The chapter on model parallelism: its commands run, and print what its pages show."""

import re

import nbformat
import pytest

from examples.make_notebook import FOLDER, NOTEBOOK, execute, made

PAGES = sorted(FOLDER.glob("[0-9]-*.md"))
SHOWN = re.compile(
    r"^```bash\n(?P<command>.+)\n```\n(?:(?!```|#).*\n)*```text\n(?P<output>(?:.*\n)*?)```\n",
    re.MULTILINE,
)
"""A command and the output that its page shows of it, below it in the same section."""


@pytest.fixture(scope="module")
def printed():
    """What each command of the executed notebook printed."""
    notebook = made()
    execute(notebook)
    cells = [cell for cell in notebook.cells if cell.source.startswith("%%bash\n")]
    return {
        cell.source.removeprefix("%%bash\n"): "".join(
            output.text for output in cell.outputs if output.get("name") == "stdout"
        )
        for cell in cells
    }


def test_the_notebook_has_the_pages():
    kept = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    assert [(c.cell_type, c.source) for c in kept.cells] == [
        (c.cell_type, c.source) for c in made().cells
    ]
    commands = [cell for cell in kept.cells if cell.source.startswith("%%bash\n")]
    assert all(cell.outputs for cell in commands)


@pytest.mark.programs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page, printed):
    for shown in SHOWN.finditer(page.read_text()):
        output = [_compared(line) for line in printed[shown["command"]].splitlines()]
        for line in shown["output"].splitlines():
            assert _compared(line) in output or line == "…", line


def _compared(line):
    """A line without what rounding changes: errors are either that small or not."""
    line = re.sub(r"\d+e[+-]\d+", lambda error: str(float(error[0]) > 1e-12), line)
    return re.sub(r"^loss .*", "loss", line).rstrip()


@pytest.mark.programs
def test_bytes_cross_where_the_batch_equals_the_hidden_units(printed):
    rows = _rows(printed["torchrun --nproc_per_node=2 examples/threshold.py"])
    assert [activations < gradients for _, gradients, activations, *_ in rows] == [1, 1, 1, 0]
    batch, gradients, activations, *_ = rows[2]
    assert batch == 1024
    assert activations == pytest.approx(gradients, rel=1e-3)


def _rows(table):
    """The rows of a table of numbers."""
    numbers = re.findall(r"^ *\d[\d. ]*$", table, re.MULTILINE)
    return [tuple(map(float, row.split())) for row in numbers]


@pytest.mark.programs
def test_a_mistake_is_seen_where_the_page_says(printed):
    table = printed["torchrun --nproc_per_node=2 examples/wrong_gradients.py"]
    rows = {
        line[13:44].strip(): [float(error) > 1e-12 for error in line[44:].split()]
        for line in table.splitlines()[2:]
    }
    assert rows["mean of the replicas' means"] == [False, False, False, True]
    assert rows["each rank adds fc8's bias"] == [False, False, True, True]
    assert rows["a gather returns own gradient"] == [False, True, True, True]
