"""What a terminal shows of the messages of this project and of other packages."""

import sys

from tests.programs import run

SAY = """
import logging
from launch.console import open_console
open_console({rank})
for name in ("__main__", "recording.reporter", "data.listing", "matplotlib.font_manager"):
    logging.getLogger(name).info("news of %s", name)
    logging.getLogger(name).error("error of %s", name)
"""


def said(rank):
    status, out, err = run(sys.executable, "-c", SAY.format(rank=rank))
    assert status == 0
    return out.split("\n"), err.split("\n")


def test_of_other_packages_warnings_alone_are_shown():
    news, errors = said(rank=0)
    assert news == [
        *(f"news of {name}" for name in ("__main__", "recording.reporter", "data.listing")),
        "",
    ]
    assert len(errors) == 5


def test_of_other_ranks_errors_alone_are_shown():
    news, errors = said(rank=1)
    assert (news, len(errors)) == ([""], 5)
