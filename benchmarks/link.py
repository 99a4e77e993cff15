"""Split, DDP and hybrid over a slow link, and the batches at which a formula makes them equal.

All train the paper's two-tower net. Two network namespaces stand for two hosts. A virtual cable
(veth) joins them, and a token bucket (tc tbf) limits its rate. Each rank has one core. Needs root,
iproute2 and two cores; prints the reason and ends if the machine does not allow it.

The formula: a placement sends e bytes of activations per image of the global batch and G bytes of
gradients, the link carries β bytes/s, and both devices together compute R images/s without waiting.
A step on B images takes

    B/R + D + e B/β + max(0, G/β - W B/R)

W is the fraction of the computation that can hide the gradients: the convolutions' backward pass
hides those of fc6 to fc8, and that of conv2 and conv1 hides those of conv3 to conv5. D is the cost
beside waiting, next to the split's: a DDP rank updates all weights and, on a CPU, sums the
gradients on the core that computes. Activations are counted as if nothing hid them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from launch.program import run_program

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.contest import Row, parser, report
from common.arguments import whole
from common.colors import COLORS
from common.files import writing
from comparison.measure import steady_speed
from distributed.plan import Wish, plan_mesh
from distributed.turns import SCHEMES
from launch.children import ROOT
from planning.formulas import Net, bytes_sent
from recording.folder import RunFolder

NAMESPACES, ADDRESSES, CABLE = ("alexnet-a", "alexnet-b"), ("10.77.0.1", "10.77.0.2"), "alexnet0"
PORT, TOWERS, WARMUP = 29555, 2, 2
NET = Net("paper", TOWERS, channels=3, size=224, classes=10)
PLACEMENTS = {"split": "split", "DDP": "ddp", "hybrid": "hybrid"}
"""Names of the curves, and those that a configuration has."""
BATCHES = {"1gbit": [32, 128, 512, 1024], "10gbit": [32, 64, 128, 512]}
PAIRS = (("split", "DDP"), ("hybrid", "DDP"), ("split", "hybrid"))
"""The first is faster at small batches, where there are any at which it is."""
LARGEST = 2**17
"""Images of the largest global batch at which placements may be equal."""


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


def run(program: Sequence[str]) -> None:
    """Run a program and its arguments as two ranks, each in its namespace and on its core."""
    cores = sorted(os.sched_getaffinity(0))
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
        command += [sys.executable, *program]
        ranks.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        )
    try:
        statuses = [process.wait() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if any(statuses):
        sys.exit(f"{' '.join(program)} failed")


def train(settings: Sequence[str], steps: int) -> dict[str, Any]:
    """Train on both ranks; returns ``steady_speed``'s keys."""
    with tempfile.TemporaryDirectory() as runs:
        own = [f"runs={runs}", "name=run", f"max_steps={steps}", "tracking.mode=disabled"]
        run(["train.py", "--config", "configs/compare.yaml", *settings, *own])
        return steady_speed(RunFolder(Path(runs, "run")), warmup=WARMUP)


def bytes_per_second(rate: str) -> float:
    """Convert a rate as tc writes it, such as 10gbit."""
    return float(rate.removesuffix("gbit")) * 1e9 / 8


class Traffic(NamedTuple):
    """A placement's traffic: bytes per image, bytes of gradients, and the part W that hides them.

    The fraction ``hides`` is of the time that all computation takes.
    """

    activations: float
    gradients: float
    hides: float


@cache
def traffic(curve: str) -> Traffic:
    """The traffic of a rank with bf16 activations and fp32 gradients."""
    plan = plan_mesh(Wish(2, TOWERS), PLACEMENTS[curve], NET.variant)
    batch = 2
    sent = bytes_sent(NET, plan, batch, activation_size=2, gradient_size=4)
    gradients = sum(size for name, size in sent.items() if name.endswith("gradients"))
    hiding = ("conv1", "conv2") if curve == "hybrid" else tuple(NET.sides())
    macs = NET.macs()
    backward = 2 * sum(macs[layer] for layer in hiding) - macs["conv1"]
    return Traffic((sum(sent.values()) - gradients) / batch, gradients, 2 * backward / NET.flops())


class Machine(NamedTuple):
    """The link's bytes/s, images/s of both devices without waiting, and each curve's D, seconds."""

    link: float
    speed: float
    extra: dict[str, float]

    def seconds(self, curve: str, batch: int) -> float:
        """A step of a placement by the formula."""
        sent, computing = traffic(curve), batch / self.speed
        exposed = max(0.0, sent.gradients / self.link - sent.hides * computing)
        return computing + self.extra[curve] + sent.activations * batch / self.link + exposed

    def even_batch(self, first: str, second: str) -> int | None:
        """The smallest global batch at which ``second`` is as fast as ``first``; None if none is.

        None too where it is so at every batch.
        """
        low, high = 2, LARGEST

        def is_even(batch: int) -> bool:
            return self.seconds(second, batch) <= self.seconds(first, batch)

        if is_even(low) or not is_even(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_even(middle) else (middle, high)
        return high


def machine_of(rows: list[Row], rate: str) -> Machine:
    """The machine of the measurements at one rate."""
    computing: dict[str, dict[int, float]] = {curve: {} for curve in PLACEMENTS}
    for row in rows:
        if row["link"] == rate:
            step = row["batch"] / row["images/s"]
            computing[row[""]][row["batch"]] = step - row["not hidden, ms"] / 1e3
    split = computing["split"]
    extra = {
        curve: median(own[batch] - split[batch] for batch in split)
        for curve, own in computing.items()
    }
    speed = median(batch / seconds for batch, seconds in split.items())
    return Machine(bytes_per_second(rate), speed, extra)


def crossings(rows: list[Row]) -> list[Row]:
    """The equal batches at each rate by the formula, with R and D from the measurements."""
    found = []
    for rate in dict.fromkeys(row["link"] for row in rows):
        machine = machine_of(rows, rate)
        ideal = machine._replace(extra=dict.fromkeys(PLACEMENTS, 0.0))
        for first, second in PAIRS:
            found.append(
                {
                    "link": rate,
                    "R, images/s": machine.speed,
                    "equal": f"{first} = {second}",
                    "D, ms": 1e3 * (machine.extra[second] - machine.extra[first]),
                    "at batch": machine.even_batch(first, second),
                    "at batch, if D were 0": ideal.even_batch(first, second),
                }
            )
    return found


def measure(rate: str, batches: list[int], scheme: str, rounds: int, steps: int) -> list[Row]:
    """Measure all placements at one rate; returns the rows of the table."""
    jobs = [(batch, curve) for batch in batches for curve in PLACEMENTS]
    found: dict[tuple[int, str], list[dict[str, Any]]] = {job: [] for job in jobs}
    for batch, curve in (bar := tqdm(jobs * rounds, disable=None)):
        bar.set_description(f"{rate} {curve} {batch}")
        settings = [f"placement={PLACEMENTS[curve]}", f"batch_size={batch}", f"towers={TOWERS}"]
        settings += [f"classifier_scheme={scheme}", f"data.synthetic_length={batch * steps}"]
        found[batch, curve].append(train(settings, steps))
    return [
        {"link": rate, "batch": batch, "": curve, **figures(runs, found[batch, "DDP"], rate)}
        for (batch, curve), runs in found.items()
    ]


def figures(runs: list[dict[str, Any]], ddp: list[dict[str, Any]], rate: str) -> Row:
    """The measured columns of a row, from a run in each round and DDP's runs beside them."""
    speeds, theirs = ([run["images_per_second"] for run in each] for each in (runs, ddp))
    waits = [
        run["seconds_activation_communication"] + run["seconds_gradient_communication"]
        for run in runs
    ]
    sent = runs[0]["bytes_sent"]
    return {
        "images/s": median(speeds),
        "× DDP": median(a / b for a, b in zip(speeds, theirs, strict=True)),
        "MB sent": sent / 1e6,
        "on the wire, ms": 1e3 * sent / bytes_per_second(rate),
        "not hidden, ms": 1e3 * median(waits),
    }


def draw(rows: list[Row], path: Path) -> None:
    """Draw images/s over the batch, a panel for each rate; dashed what the formula gives."""
    rates = list(dict.fromkeys(row["link"] for row in rows))
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle("paper, 2 towers, 224 px, two ranks; dashed: the formula", fontsize="medium")
    for axes, rate in zip(figure.subplots(1, len(rates), squeeze=False)[0], rates, strict=True):
        _draw_panel(axes, [row for row in rows if row["link"] == rate], machine_of(rows, rate))
        axes.set_title(rate.replace("gbit", " Gbit/s"), fontsize="small")
    with writing(path):
        figure.savefig(path, dpi=100)


def _draw_panel(axes: Axes, rows: list[Row], machine: Machine) -> None:
    batches = sorted({row["batch"] for row in rows})
    for curve, color in zip(PLACEMENTS, COLORS, strict=False):
        own = sorted((row["batch"], row["images/s"]) for row in rows if row[""] == curve)
        axes.plot(*zip(*own, strict=True), "o-", color=color, label=curve)
        steps = range(batches[0], batches[-1] + 1)
        predicted = [batch / machine.seconds(curve, batch) for batch in steps]
        axes.plot(steps, predicted, "--", color=color, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set(xlabel="global batch", ylabel="images per second", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def main() -> int:
    """Compare at two rates."""
    add = parser(__doc__)
    add.add_argument("--scheme", choices=SCHEMES, default="c", help="default: %(default)s")
    add.add_argument("--batches", type=whole(), nargs="+", metavar="B", help="default: by rate")
    add.add_argument("--steps", type=whole(), default=5, metavar="N", help="default: %(default)s")
    add.set_defaults(rounds=2)
    arguments = add.parse_args()
    if arguments.steps <= WARMUP:
        add.error(f"--steps: the first {WARMUP} are not timed: take more")
    if reason := why_not():
        print(f"skipped: this machine does not allow a slow link: {reason}")
        return 0
    rows: list[Row] = []
    for rate, usual in BATCHES.items():
        with slow_link(rate):
            batches = arguments.batches or usual
            rows += measure(rate, batches, arguments.scheme, arguments.rounds, arguments.steps)
    title = f"paper, {TOWERS} towers, 224 px, two ranks, hybrid ({arguments.scheme})"
    path = arguments.json or Path("runs", "benchmarks", "link.json")
    report("link", {title: rows, "equal batches by the formula": crossings(rows)}, path)
    draw(rows, path.with_suffix(".png"))
    print(f"and to {path.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
