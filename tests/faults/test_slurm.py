"""Training over two nodes of a Slurm cluster, whose jobs are requeued and whose nodes fail."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.cluster import NODES, Cluster, missing
from tests.faults.test_restarts import assert_same_run
from tests.programs import processes_mentioning, wait_until
from tests.runs import SETTINGS, losses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()), reason=f"no {', '.join(missing())}: install slurm-wlm and munge"
    ),
]

PATIENCE = 600
LONG = ("epochs=60", "max_steps=300", "checkpoint_every=20", "evaluate_every=300")


@pytest.fixture
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Cluster(Path(folder)) as started:
        yield started


def submit(cluster, runs):
    """Submit the example's job with small ranks; its number."""
    runs.mkdir()
    return cluster.ask(
        *("sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=2"),
        *(f"--output={runs}/slurm.out", "examples/slurm.sbatch"),
        *(*SETTINGS, *LONG, f"runs={runs}"),
    )


def wait_for_steps(runs, count):
    metrics = runs / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(losses(runs / "run")) >= count, PATIENCE)


def restarts(runs):
    """The steps after which the run was continued."""
    said = (runs / "slurm.out").read_text().splitlines()
    return [int(line.split()[4].rstrip(",")) for line in said if line.startswith("continuing")]


def test_a_job_goes_on_exactly_whatever_slurm_does(cluster, tmp_path, happened):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    job = submit(cluster, calm)
    wait_until(lambda: cluster.state(job) == "COMPLETED", PATIENCE)

    job = submit(cluster, wild)
    wait_for_steps(wild, 30)
    cluster.ask("scontrol", "requeue", job)
    wait_until(lambda: len(restarts(wild)) == 1, PATIENCE)
    [saved] = restarts(wild)
    assert "stopping after this step" in (wild / "slurm.out").read_text()
    assert saved >= 30
    happened("scontrol requeue", f"a checkpoint at step {saved}, from which the job went on")

    wait_for_steps(wild, saved + 40)
    cluster.ask("scancel", "--signal=TERM", job)  # what the job's --signal sends in time
    wait_until(lambda: len(restarts(wild)) == 2, PATIENCE)
    again = restarts(wild)[-1]
    assert again >= saved + 40
    happened("SIGTERM before the time limit", f"the job queued itself again, from step {again}")

    wait_for_steps(wild, again + 40)
    cluster.ask("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
    wait_until(lambda: cluster.state(job) == "PENDING", PATIENCE)
    cluster.ask("scontrol", "update", f"nodename={NODES[1]}", "state=resume")
    wait_until(lambda: len(restarts(wild)) == 3, PATIENCE)
    last = restarts(wild)[-1]
    assert last > again
    happened("a node down", f"the job was requeued and went on from step {last}")

    wait_until(lambda: cluster.state(job) == "COMPLETED", PATIENCE)
    assert [path.name for path in wild.iterdir() if path.is_dir()] == ["run"]
    assert not processes_mentioning(f"runs={tmp_path}")
    assert_same_run(wild / "run", calm / "run")
    print((wild / "slurm.out").read_text(), cluster.log(), sep="\n")
    happened("Slurm: all of these in one run", "weights and losses equal an undisturbed job's")
