"""What ``launch.sh`` starts: the tests, or a program in one process or on every rank.

Run as ``python -m launch.start test …`` or ``… [torchrun flags] [PROGRAM.py] [its arguments]``.
"""

import os
import shlex
import sys
from pathlib import Path

from launch.signals import end_on_signals

from common.errors import ReportedError

ALONE = {
    *("compare.py", "convert.py", "kernels.py", "plan.py", "predict.py", "prepare.py"),
    *("best.py", "crops.py", "layers.py", "make_notebook.py"),
}
"""Programs that are one process, or start the others themselves."""
HELP = {"-h", "--help"}
TRAINING = {"--config", "--resume", "--print-config", *HELP}
"""Flags of train.py, the program where none is named."""


def python_arguments(arguments: list[str]) -> list[str]:
    """Python's arguments for what ``launch.sh`` was asked to start.

    Raises ReportedError for torchrun's flags where no ranks are started by them.
    """
    if arguments[:1] == ["test"]:
        return ["-m", "pytest", *arguments[1:]]
    flags, program = split(arguments)
    if not HELP.isdisjoint(program[1:]):
        return program  # for one process to give
    if Path(program[0]).name not in ALONE:
        return ["-m", "launch", *flags, *program]
    if flags:
        raise ReportedError(
            f"{program[0]} starts what it needs itself: leave out {shlex.join(flags)}"
        )
    return program


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(torchrun's flags, the program and its arguments).

    All before the first PROGRAM.py is torchrun's; where none is named, only a leading --nproc is.
    """
    for place, argument in enumerate(arguments):
        if argument.endswith(".py") and not argument.startswith("-"):
            return arguments[:place], arguments[place:]
    first = arguments[0] if arguments else ""
    own = 2 if first == "--nproc" else int(first.startswith("--nproc="))
    rest = arguments[own:]
    if rest and rest[0].startswith("-") and rest[0].partition("=")[0] not in TRAINING:
        raise ReportedError(
            f"after torchrun's {rest[0]} name the program: ./launch.sh … train.py …"
        )
    return arguments[:own], ["train.py", *rest]


def main() -> None:
    """Become the program; with LAUNCH_DRY_RUN, print its command instead."""
    end_on_signals()
    try:
        command = [sys.executable, *python_arguments(sys.argv[1:])]
    except ReportedError as error:
        sys.exit(f"launch.sh: {error}")
    if os.environ.get("LAUNCH_DRY_RUN"):
        print(shlex.join(command))
    else:
        os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
