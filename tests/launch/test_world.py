"""The environment that says which rank a process is."""

import sys

import pytest

from common.errors import ReportedError
from launch.world import NUMBERS, World, launched_world, outside_launch, twins_of
from tests.programs import run

WORLD = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets what torchrun sets, and nothing else of it."""

    def setting(**variables):
        for name in (*NUMBERS, *WORLD):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return setting


def test_a_process_alone_is_rank_0_of_1(environment):
    environment()
    assert launched_world() == World(0, 1, 0, 1, 0)


def test_a_rank_reads_its_place(environment):
    environment(**WORLD)
    assert launched_world() == World(3, 4, 1, 2, 0)


def test_a_world_of_one_needs_no_local_rank(environment):
    environment(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="29500")
    assert launched_world() == World(0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"RANK": "0"}, {"WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}),
        ({"WORLD_SIZE": "2"}, {"RANK", "LOCAL_RANK", "MASTER_ADDR"}),
        ({"RANK": "", "WORLD_SIZE": ""}, {"RANK is ''", "WORLD_SIZE is ''"}),
        ({**WORLD, "RANK": "one"}, {"RANK is 'one'"}),
        ({**WORLD, "RANK": "-1"}, {"RANK is '-1'"}),
        ({**WORLD, "RANK": "4"}, {"RANK is 4", "WORLD_SIZE 4"}),
        ({**WORLD, "LOCAL_RANK": "2"}, {"LOCAL_RANK is 2", "LOCAL_WORLD_SIZE 2"}),
        ({**WORLD, "MASTER_PORT": "x"}, {"MASTER_PORT is 'x'"}),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment, given, named):
    environment(**given)
    with pytest.raises(ReportedError) as caught:
        launched_world()
    assert all(name in str(caught.value) for name in named)


@pytest.mark.programs
@pytest.mark.parametrize("program", ["train.py", "evaluate.py", "predict.py"])
@pytest.mark.parametrize(
    "given", [{"RANK": "", "WORLD_SIZE": ""}, {"RANK": "0"}, {"WORLD_SIZE": "2"}], ids=str
)
def test_a_program_says_so_in_one_line(program, given):
    status, out, err = run(sys.executable, program, "x", **given)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "RANK" in err


def test_several_tasks_of_a_job_are_told_from_one(monkeypatch):
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert twins_of("SLURM_NTASKS") == ""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert twins_of("SLURM_NTASKS") == ""
    monkeypatch.setenv("SLURM_NTASKS", "3")
    assert "3 tasks" in twins_of("SLURM_NTASKS")


@pytest.mark.programs
def test_a_task_that_is_no_rank_warns_of_its_twins():
    status, out, err = run(sys.executable, "train.py", "--print-config", SLURM_NTASKS="2")
    assert (status, err) == (0, "")
    assert out.startswith("this job has 2 tasks")


def test_another_launch_inherits_nothing_of_this_one():
    ours = {"PATH": "/bin", "HOME": "/root", "NCCL_DEBUG": "WARN", "MASTERY": "1"}
    set_by_a_launcher = {
        *(*NUMBERS, "GROUP_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_PORT"),
        *("TORCHELASTIC_RUN_ID", "ALEXNET_LAUNCHER", "OMP_NUM_THREADS"),
    }
    assert outside_launch({**ours, **dict.fromkeys(set_by_a_launcher, "1")}) == ours


def test_threads_that_no_launcher_has_set_are_inherited():
    assert outside_launch({"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2"}
