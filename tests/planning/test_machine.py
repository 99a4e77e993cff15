"""A machine's file: written, read, refused."""

import json

import pytest

from common.errors import ReportedError
from planning.machine import LAYERS, Line, read_machine, write_machine
from tests.planning.machines import make_links, make_machine


def test_what_is_written_is_read(tmp_path):
    machine = make_machine(between=make_links(1e8, 1e-5, 2e8))
    write_machine(machine, tmp_path / "machine.json")
    assert read_machine(tmp_path / "machine.json") == machine


def test_a_file_of_another_precision_is_refused(tmp_path):
    write_machine(make_machine(), tmp_path / "machine.json")
    assert read_machine(tmp_path / "machine.json", "fp32") == make_machine()
    with pytest.raises(ReportedError, match="precision=fp32"):
        read_machine(tmp_path / "machine.json", "bf16")


@pytest.mark.parametrize(("device", "memory"), [("cpu", 2**36), ("GPU", 2**34)])
def test_ranks_of_a_node_share_the_memory_of_its_cpu(device, memory):
    machine = make_machine(8, memory=2**34).model_copy(update={"device": device})
    found = machine.in_nodes_of(2)
    assert (found.ranks_per_node, found.memory) == (2, memory)


def _changed(machine, *path, to):
    content = json.loads(machine.model_dump_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "to", "named"),
    [
        (("version",), 2, "version"),
        (("ranks_per_node",), 0, "ranks_per_node"),
        (("ranks_per_node",), True, "ranks_per_node"),
        (("memory",), -1, "memory"),
        (("memory",), float("nan"), "memory"),
        (("within", "exchange", "bandwidth"), 0, "bandwidth"),
        (("within", "exchange", "bandwidth"), float("inf"), "bandwidth"),
        (("within", "exchange", "latency"), -1e-9, "latency"),
        (("within",), {"exchange": {"latency": 0, "bandwidth": 1}}, "all_reduce"),
        (("work",), [], "work"),
        (("work", 0, "layers"), [], "layers"),
        (("work", 0, "hidden"), 2, "hidden"),
        (("work", 0, "unknown"), 2, "unknown"),
        (("device",), "a\nb", "device"),
        (("device",), "a" * 100_000, "device"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path, path, to, named):
    file = tmp_path / "machine.json"
    file.write_text(_changed(make_machine(), *path, to=to))
    with pytest.raises(ReportedError) as caught:
        read_machine(file)
    assert str(file) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_file_that_lacks_a_layer_is_refused_by_name(tmp_path, layer):
    content = json.loads(make_machine().model_dump_json())
    rows = content["work"][0]["layers"]
    rows.remove(next(row for row in rows if row["layer"] == layer))
    (tmp_path / "machine.json").write_text(json.dumps(content))
    with pytest.raises(ReportedError) as caught:
        read_machine(tmp_path / "machine.json")
    assert layer in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', "\x00" * 100])
def test_a_file_that_is_cut_short_is_refused(tmp_path, text):
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(ReportedError) as caught:
        read_machine(tmp_path / "machine.json")
    assert "check.py" in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "machine.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ReportedError) as caught:
        read_machine(tmp_path / "machine.json")
    assert "machine.json" in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ReportedError) as caught:
        read_machine(tmp_path / "none.json")
    assert "none.json" in str(caught.value)


def test_a_line_scales_both_terms_and_takes_no_time_for_nothing():
    line = Line(fixed=1.0, each=0.5)
    assert line.seconds(4) == 3.0
    assert line.seconds(4, fixed=2, each=3) == 8.0
    assert line.seconds(0) == 0.0
