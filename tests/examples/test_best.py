"""The map of the best placements."""

from examples.best import best
from examples.lesson import load
from planning.devices import known_machine
from planning.job import planned
from planning.machine import write_machine
from planning.sweep import Space
from tests.calls import call, refusal
from tests.planning.machines import make_machine


def test_gradients_win_with_many_images_and_activations_with_few():
    job = planned(load([]))
    space = Space(job, known_machine("a100", "fp32", job, 1, "nvlink", "100gbe"), 8)
    assert best(space, 32, 1.25e9) == "split+hybrid"
    assert best(space, 256, 0.125e9) == "hybrid"
    assert best(space, 2048, 1.25e9) == "hybrid/4"
    assert best(space, 32768, 1.25e9) == "ddp"
    assert best(space, 4, 1.25e9) == ""


def test_a_batch_that_fits_no_memory_has_no_best_placement():
    job = planned(load([]))
    space = Space(job, known_machine("p100", "fp32", job, 1, "nvlink", "100gbe"), 8)
    assert best(space, 8192, 1.25e9) != ""
    assert best(space, 65536, 1.25e9) == ""


def test_a_machine_whose_links_are_unknown_has_no_map(tmp_path):
    path = tmp_path / "machine.json"
    write_machine(make_machine(), path)
    assert call("examples.best", "--machine", path, "--ranks", "2")[0] == 0
    write_machine(make_machine().model_copy(update={"within": {}}), path)
    assert str(path) in refusal("examples.best", "--machine", path)
