"""Makes docs/parallelism/parallelism.ipynb from the chapter's pages, and runs it.

  python examples/make_notebook.py

Each block of commands in the pages becomes a cell, which is executed; answers stay as text. That
takes some minutes on two cores.
"""

import logging
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from common.files import writing

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parents[1] / "docs" / "parallelism"
NOTEBOOK = FOLDER / "parallelism.ipynb"
FIRST = """\
---
jupyter:
  kernelspec: {name: python3, display_name: Python 3, language: python}
---

```python
import os
import sys
from pathlib import Path

folder = next(path for path in [Path.cwd(), *Path.cwd().parents] if (path / "launch.sh").exists())
os.chdir(folder)  # the commands below are relative to the repository
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ["OMP_NUM_THREADS"] = "1"
```
"""
OUTPUT = re.compile(r"^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)
"""A command's output on a page; the notebook has it from the command itself."""


def main() -> int:
    """Write the executed notebook; returns the exit status."""
    ArgumentParser(description=__doc__).parse_args()
    notebook = made()
    execute(notebook)
    with writing(NOTEBOOK):
        nbformat.write(notebook, NOTEBOOK)
    log.info("written to %s", NOTEBOOK)
    return 0


def made() -> NotebookNode:
    """The notebook of all pages, not executed."""
    pages = [FOLDER / "README.md", *sorted(FOLDER.glob("[0-9]-*.md"))]
    text = [FIRST, *(OUTPUT.sub("", page.read_text()) for page in pages)]
    notebook = jupytext.reads("\n".join(text), fmt="md")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same ones every time
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Run all cells and keep their outputs; raises CellExecutionError if one of them fails."""
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ in every run


if __name__ == "__main__":
    run_program(main, most_ranks=1)
