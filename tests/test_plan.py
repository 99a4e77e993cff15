"""plan.py: what it prints can be run, and what it cannot plan it refuses in a line."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from planning.machine import read_machine, write_machine
from tests.calls import call, refusal
from tests.planning.machines import make_links, make_machine
from tests.programs import run
from training.settings import load_config


@pytest.fixture
def machine(tmp_path):
    """Two nodes' worth of links, eight ranks a node, as a file."""
    path = tmp_path / "machine.json"
    write_machine(make_machine(between=make_links(1e8, 1e-5, 1e8)), path)
    return path


FP32 = "precision=fp32"


@pytest.mark.parametrize("ranks", [1, 2, 8, 16])
def test_the_command_of_the_best_is_a_training_of_it(machine, tmp_path, ranks):
    found = tmp_path / "plan.json"
    options = ("--machine", machine, "--ranks", ranks, "--batches", "64,256", "--json", found)
    status, told = call("plan", *options, FP32)
    assert status == 0
    tables = [line for line in told.splitlines() if "./launch.sh" not in line]
    assert max(map(len, tables)) <= 100
    for answer in json.loads(found.read_text()):
        assert answer["best"] in told
        words = shlex.split(answer["best"])
        start, program = words[: words.index("train.py")], words[words.index("train.py") + 1 :]
        nodes = int(start[start.index("--nnodes") + 1]) if "--nnodes" in start else 1
        assert nodes * int(start[start.index("--nproc") + 1]) == ranks
        assert program[0] == "--config"
        config = load_config(Path(program[1]), program[2:])
        best = answer["placements"][0]
        assert config.plan(ranks).placement == best["overrides"][0].removeprefix("placement=")
        assert config.batch_size == answer["batch"]
        speeds = [each["images_per_second"] for each in answer["placements"]]
        assert speeds == sorted(speeds, reverse=True)


def test_a_known_device_is_marked_as_such():
    status, told = call("plan", "--device", "a100", "--batches", "256", FP32)
    assert status == 0
    assert "data sheet" in told


def test_the_command_for_a_device_names_the_precision_that_was_planned(tmp_path):
    """The meaning of auto depends on the machine that plans."""
    _, told = call("plan", "--device", "a100", "--batches", "256")
    [planned] = {*re.findall(r"a100, (\w+),", told)}
    commands = re.findall(r"train\.py (.*)", told)
    assert commands
    assert all(f"precision={planned}" in command.split() for command in commands)


def test_a_command_undoes_what_a_file_says_of_the_placement(machine, tmp_path):
    path = tmp_path / "split.yaml"
    path.write_text("placement: split\nshards: 2\ntowers: 2\n")
    options = ("--machine", machine, "--ranks", "2", "--batches", "8,4096", "--config", path)
    _, told = call("plan", *options, FP32)
    commands = re.findall(r"train\.py --config (\S+) (.*)", told)
    assert len(commands) == 2
    for source, settings in commands:
        load_config(Path(source), shlex.split(settings)).plan(2)


def test_parts_of_a_batch_need_less_memory(machine, tmp_path):
    options = ("--machine", machine, "--ranks", "2", "--batches", "4096", "--memory", "10GB")
    assert "batch 4096" in refusal("plan", *options, FP32)
    assert call("plan", *options, FP32, "optimizer.gradient_accumulation=8")[0] == 0


def test_the_page_and_the_charts_are_written(machine, tmp_path):
    page, charts = tmp_path / "plan.html", tmp_path / "charts"
    options = ("--ranks", "2", "--batches", "64", "--html", page, "--charts", charts)
    call("plan", "--machine", machine, *options, FP32)
    assert "placement=" in page.read_text()
    assert {path.name for path in charts.iterdir()} == {"step_time.png", "scaling.png"}


def test_a_faster_link_is_used(machine):
    slow, fast = (
        call("plan", "--machine", machine, "--ranks", "16", "--link", link, FP32)[1]
        for link in ("1MB/s", "1TB/s")
    )
    assert slow != fast


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ranks", "0"], "--ranks"),
        (["--ranks", "12"], "12 ranks"),
        (["--ranks", "8", "--batches", "4"], "batch 4"),
        (["--batches", "0"], "--batches"),
        (["--link", "0GB/s"], "--link"),
        (["--link", "fast"], "--link"),
        (["--latency", "-1us"], "--latency"),
        (["--latency", "1e999s"], "--latency"),
        (["--link", "1e-30B/s"], "--link"),
        (["--batches", "512,4", "--ranks", "8"], "batch 4"),
        (["--within", "nvlink"], "--within"),
        (["--json", "/nowhere/x.json"], "/nowhere/x.json"),
        (["placement=hybrid", "classifier_scheme=b", "optimizer.classifier_updates=turn"], "turn"),
        (["--memory", "1kB"], "fits"),
        (["precision=bf16"], "precision=fp32"),
        (["placment=split"], "placment"),
    ],
)
def test_bad_input_is_refused_in_a_line(machine, arguments, named):
    settings = [] if "precision=bf16" in arguments else [FP32]
    assert named in refusal("plan", "--machine", machine, *arguments, *settings)


def test_the_best_is_a_command_without_other_placements(machine):
    settings = ["placement=hybrid", "classifier_ranks=2", "classifier_scheme=c", "net.hidden=512"]
    _, out = call("plan", "--machine", machine, "--ranks", "2", *settings, FP32)
    (first, *_) = re.findall(r"train\.py --config (\S+) (.*)", out)
    overrides = shlex.split(first[1])
    assert sum(each.startswith("placement=") for each in overrides) == 1
    assert "net.hidden=512" in overrides
    load_config(Path(first[0]), overrides).plan(2)


def test_tables_with_compressed_gradients_fit_a_terminal(machine):
    options = ("--machine", machine, "--ranks", "16", "--compress", "--batches", "256")
    _, told = call("plan", *options, FP32)
    assert "bf16" in told
    assert max(len(line) for line in told.splitlines() if "./launch.sh" not in line) <= 100


def test_a_batch_that_does_not_fit_is_refused_after_all_that_do(machine, tmp_path):
    found = tmp_path / "plan.json"
    options = ("--machine", machine, "--ranks", "2", "--batches", "60000,8", "--memory", "3GB")
    assert "batch 60000" in refusal("plan", *options, "--json", found, FP32)
    large, small = json.loads(found.read_text())
    assert large["best"] is None
    assert "train.py" in small["best"]


def test_larger_nets_are_planned_for():
    for setting in ("data.size=2048", "net.hidden=40000"):
        options = ("--device", "a100", "--ranks", "2", "--batches", "8")
        status, out = call("plan", *options, setting, FP32)
        assert (status, "The best" in out) == (0, True)


def test_a_link_scales_as_the_rates_that_change_the_best(machine):
    """Given a machine's own rate, it stays as it is."""
    own = read_machine(machine).within["exchange"].bandwidth
    _, plain = call("plan", "--machine", machine, "--ranks", "2", FP32)
    _, given = call("plan", "--machine", machine, "--ranks", "2", "--link", f"{own}B/s", FP32)
    assert plain == given


def test_ranks_on_a_cpu_share_the_memory_of_a_node(machine):
    write_machine(make_machine(2, memory=2**36).model_copy(update={"device": "cpu"}), machine)
    sizes: list[float] = []
    for ranks in ("2", "4"):
        _, out = call("plan", "--machine", machine, "--ranks-per-node", ranks, "--ranks", "2", FP32)
        sizes += map(float, re.findall(r"(\d+) GiB each", out))
    assert sizes == [64, 32]


def test_it_plans_from_any_folder(tmp_path, monkeypatch):
    here = call("plan", "--device", "a100", "--ranks", "2", FP32)
    monkeypatch.chdir(tmp_path)
    assert call("plan", "--device", "a100", "--ranks", "2", FP32) == here


def test_a_machine_that_was_not_measured_is_named(tmp_path):
    path = tmp_path / "none.json"
    assert str(path) in refusal("plan", "--machine", path)


def test_a_machine_without_links_cannot_be_planned_for(tmp_path):
    write_machine(make_machine().model_copy(update={"within": {}}), tmp_path / "machine.json")
    assert "links" in refusal("plan", "--ranks", "2", f"runs={tmp_path}", FP32)
    assert "--link" in refusal("plan", "--ranks", "1", "--link", "1GB/s", f"runs={tmp_path}", FP32)


@pytest.mark.programs
def test_this_machine_is_measured_first_and_once(tmp_path):
    settings = [f"runs={tmp_path}", "data.size=64", "data.stored_size=64", "net.hidden=64"]
    status, out, err = run(sys.executable, "plan.py", "--batches", "8", *settings, timeout=600)
    assert status == 0, err
    assert "measuring" in out
    assert read_machine(tmp_path / "machine.json").ranks_per_node == 2
    status, out, err = run(sys.executable, "plan.py", "--batches", "8", *settings)
    assert (status, "measuring" in out) == (0, False), err
