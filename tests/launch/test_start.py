"""launch.sh: which of its arguments are torchrun's, and how many processes a program takes."""

import ast
import shlex
import shutil
import sys

import pytest

from common.errors import ReportedError
from launch.start import python_arguments
from tests.programs import ROOT, run

PROGRAMS = pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
RANKED = [
    path
    for folder in (ROOT, ROOT / "examples")
    for path in sorted(folder.glob("*.py"))
    if "run_program(" in path.read_text()
]
LAUNCH_SH = ROOT / "launch.sh"


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        ("", "-m launch train.py"),
        ("epochs=3", "-m launch train.py epochs=3"),
        ("--nproc 4", "-m launch --nproc 4 train.py"),
        ("--nproc=4 --resume", "-m launch --nproc=4 train.py --resume"),
        ("--config configs/ci.yaml", "-m launch train.py --config configs/ci.yaml"),
        ("--config=configs/ci.yaml", "-m launch train.py --config=configs/ci.yaml"),
        ("other.py --nproc 9", "-m launch other.py --nproc 9"),
        ("--nnodes 2 --nproc 8 train.py a=1", "-m launch --nnodes 2 --nproc 8 train.py a=1"),
        ("--nproc 3 evaluate.py runs/x", "-m launch --nproc 3 evaluate.py runs/x"),
        ("predict.py a.jpg", "predict.py a.jpg"),
        ("train.py --help", "train.py --help"),
        ("--nproc 2 --help", "train.py --help"),
        ("test -k launch", "-m pytest -k launch"),
    ],
)
def test_flags_are_told_from_the_program_s(arguments, started):
    assert python_arguments(arguments.split()) == started.split()


@pytest.mark.parametrize("before", ["", "--nproc 2 "])
def test_the_program_is_to_be_named_after_flags_of_torchrun(before):
    with pytest.raises(ReportedError, match="--max-restarts"):
        python_arguments(f"{before}--max-restarts 1 --config configs/ci.yaml".split())


def _most_ranks(path):
    """The ``most_ranks`` of a program's call of ``run_program``; None if it takes any number."""
    [call] = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_program"
    ]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return named.get("most_ranks")


@pytest.mark.parametrize("path", RANKED, ids=lambda path: path.name)
def test_a_program_is_started_as_often_as_it_takes(path):
    launcher = [] if _most_ranks(path) == 1 else ["-m", "launch"]
    assert python_arguments([path.name, "a.jpg"]) == [*launcher, path.name, "a.jpg"]


@PROGRAMS
def test_help_lists_every_program(path):
    assert path.name in run(LAUNCH_SH, "--help")[1]


@pytest.fixture
def link(tmp_path):
    path = tmp_path / "launch"
    path.symlink_to(LAUNCH_SH)
    return path


@pytest.mark.parametrize("shell", [[], ["sh"], ["bash"], ["bash", "--posix"]])
def test_launch_sh_starts_through_a_link_and_by_any_shell(link, shell):
    status, out, err = run(*shell, link, "predict.py", "a b.jpg", LAUNCH_DRY_RUN="1")
    assert status == 0, err
    python, *arguments = shlex.split(out)
    assert python == str(ROOT / ".venv" / "bin" / "python")
    assert arguments == ["predict.py", "a b.jpg"]


def test_launch_sh_says_what_is_wrong_in_a_line():
    status, out, err = run(LAUNCH_SH, "--max-restarts", "1", "--resume", LAUNCH_DRY_RUN="1")
    assert (status, out) == (1, "")
    assert err.startswith("launch.sh: ")
    assert err.count("\n") == 1


@pytest.mark.programs
def test_a_set_up_that_fails_says_so_each_time_it_is_tried(tmp_path):
    shutil.copy(LAUNCH_SH, tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["no-such-package>=1"]\n')
    for _ in range(2):
        status, _, err = run(
            tmp_path / "launch.sh", "setup", PIP_NO_INDEX="1", PYTHON=sys.executable
        )
        assert status == 1
        assert "set-up failed" in err.splitlines()[-1]
