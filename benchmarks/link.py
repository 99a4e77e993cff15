"""Split against DDP over a slow link, and the batch at which the formula makes them equal.

Two network namespaces stand for two hosts. A virtual cable (veth) joins them, and a token bucket
(tc tbf) limits its rate. Each rank has one core. Needs root, iproute2 and two cores; prints the
reason and ends if the machine does not allow it.

The formula: DDP sends 4 bytes for each of N parameters, the towers send e bytes per image where
they meet, the link carries β bytes/s, and both devices together compute R images/s without waiting.
A step on B images takes

    split   B/R + e B/β
    DDP     B/R + D + max(0, 4 N/β - W B/R)

W is the fraction of the computation that can hide DDP's traffic. D is DDP's cost beside waiting:
each rank updates all weights and, on a CPU, sums the gradients on the core that computes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.contest import Row, parser, report
from comparison.formulas import Net
from comparison.measure import ROOT, steady_speed
from model.alexnet import AlexNet
from model.placement import Placement
from model.variants import VARIANTS
from recording.folder import RunFolder

NAMESPACES, ADDRESSES, CABLE = ("alexnet-a", "alexnet-b"), ("10.77.0.1", "10.77.0.2"), "alexnet0"
PORT, SIZE, CLASSES = 29555, 224, 10
HIDES = 0.61
"""W: the gradients of fc6 to fc8 travel during the backward pass of the convolutions."""


def why_not() -> str | None:
    """The reason why the machine does not allow a slow link; None if it does."""
    if missing := [tool for tool in ("ip", "tc", "taskset") if not shutil.which(tool)]:
        return f"{', '.join(missing)} not found"
    if len(os.sched_getaffinity(0)) < 2:
        return "it has one core"
    probe = subprocess.run(["ip", "netns", "add", NAMESPACES[0]], capture_output=True, text=True)
    if probe.returncode:
        return f"no network namespaces ({probe.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", NAMESPACES[0]], check=True)
    return None


@contextmanager
def slow_link(rate: str) -> Iterator[None]:
    """Create two namespaces and the cable between them; remove them at the end."""

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)

    a, b = NAMESPACES
    try:
        for name in NAMESPACES:
            run(f"ip netns add {name}")
        run(f"ip -n {a} link add {CABLE} type veth peer name {CABLE} netns {b}")
        for name, address in zip(NAMESPACES, ADDRESSES, strict=True):
            run(f"ip -n {name} addr add {address}/24 dev {CABLE}")
            run(f"ip -n {name} link set {CABLE} up")
            run(f"ip -n {name} link set lo up")
            limit = f"rate {rate} burst 1mb latency 50ms"
            run(f"ip netns exec {name} tc qdisc add dev {CABLE} root tbf {limit}")
        yield
    finally:
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def train(placement: str, batch: int, steps: int) -> dict[str, Any]:
    """Run both ranks, each in its namespace and on its core; returns ``steady_speed``'s keys."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as runs:
        ranks = []
        for rank, namespace in enumerate(NAMESPACES):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "1",
                "GLOO_SOCKET_IFNAME": CABLE,
                "MASTER_ADDR": ADDRESSES[0],
                "MASTER_PORT": str(PORT),
            }
            command = ["ip", "netns", "exec", namespace, "taskset", "-c", str(cores[rank])]
            command += [sys.executable, "train.py", "--config", "configs/compare.yaml"]
            command += [f"runs={runs}", "name=run", f"placement={placement}", f"max_steps={steps}"]
            command += [f"batch_size={batch}", "tracking.mode=disabled"]
            ranks.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            )
        statuses = [process.wait() for process in ranks]
        if any(statuses):
            sys.exit(f"{placement} at batch {batch} failed")
        return steady_speed(RunFolder(Path(runs, "run")), warmup=2)


def bytes_per_second(rate: str) -> float:
    """Convert a rate as tc writes it, such as 10gbit."""
    return float(rate.removesuffix("gbit")) * 1e9 / 8


def even_batch(rate: str, images_per_second: float, ddp_seconds: float) -> float:
    """The global batch B at which the formula gives split and DDP the same step time."""
    with torch.device("meta"):
        model = AlexNet(VARIANTS["paper"], CLASSES, 3, Placement(2))
    gradients = 4 * sum(parameter.numel() for parameter in model.parameters())
    activations = Net("paper", 2, 3, SIZE, CLASSES).activation_bytes(images=1, element_size=2)
    beta, hidden = bytes_per_second(rate), HIDES / images_per_second
    exposed = (gradients + beta * ddp_seconds) / (activations + beta * hidden)
    if gradients / beta >= hidden * exposed:
        return exposed
    return beta * ddp_seconds / activations


def crossings(rows: list[Row]) -> list[Row]:
    """The equal batch at each rate by the formula, with R and D from the measurements."""
    found = []
    for rate in dict.fromkeys(row["link"] for row in rows):
        computing = {
            (row["batch"], row[""]): row["batch"] / row["images/s"] - row["not hidden, ms"] / 1e3
            for row in rows
            if row["link"] == rate
        }
        batches = sorted({batch for batch, _ in computing})
        speed = median(batch / computing[batch, "split"] for batch in batches)
        extra = median(computing[batch, "DDP"] - computing[batch, "split"] for batch in batches)
        found.append(
            {
                "link": rate,
                "R, images/s": speed,
                "D, ms": 1e3 * extra,
                "equal at batch": round(even_batch(rate, speed, extra)),
                "equal at batch, if D were 0": round(even_batch(rate, speed, 0.0)),
            }
        )
    return found


def measure(rate: str, batches: list[int], rounds: int) -> list[Row]:
    """Measure both placements at one rate; returns the rows of the table."""
    jobs = [(batch, name) for batch in batches for name in ("split", "local")]
    found: dict[tuple[int, str], list[dict[str, Any]]] = {job: [] for job in jobs}
    for batch, name in (bar := tqdm(jobs * rounds, disable=None)):
        bar.set_description(f"{rate} {name} {batch}")
        found[batch, name].append(train(name, batch, steps=5))
    rows: list[Row] = []
    for (batch, name), runs in found.items():
        speeds = [run["images_per_second"] for run in runs]
        ddp = [run["images_per_second"] for run in found[batch, "local"]]
        waits = [
            run["seconds_activation_communication"] + run["seconds_gradient_communication"]
            for run in runs
        ]
        sent = runs[0]["bytes_sent"]
        rows.append(
            {
                "link": rate,
                "batch": batch,
                "": "DDP" if name == "local" else name,
                "images/s": median(speeds),
                "× DDP": median(a / b for a, b in zip(speeds, ddp, strict=True)),
                "MB sent": sent / 1e6,
                "on the wire, ms": 1e3 * sent / bytes_per_second(rate),
                "not hidden, ms": 1e3 * median(waits),
            }
        )
    return rows


def main() -> None:
    """Compare at two rates."""
    add = parser(__doc__)
    add.set_defaults(rounds=2)
    arguments = add.parse_args()
    if reason := why_not():
        print(f"skipped: this machine does not allow a slow link: {reason}")
        return
    rows: list[Row] = []
    for rate, batches in {"1gbit": [128, 512, 1024], "10gbit": [32, 64, 128]}.items():
        with slow_link(rate):
            rows += measure(rate, batches, arguments.rounds)
    tables = {
        "paper, 2 towers, 224 px, two ranks": rows,
        "equal batch by the formula": crossings(rows),
    }
    report("link", tables, arguments.json)


if __name__ == "__main__":
    main()
