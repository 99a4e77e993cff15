"""The program that says what is on pictures, as a user runs it."""

import json
import shlex
import sys

import pytest
from PIL import Image

from tests.calls import call, refusal
from tests.programs import run
from tests.weights.nets import SMALL, some_weights
from weights.files import write_file

LONG = "a name that is longer than any terminal is wide, " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights that know all, two pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("predict")
    names = [f"thing {number}" for number in range(9)]
    known = {"size": 64, "mean": 128.0, "std": 60.0}
    weights = some_weights("d2l", class_names=[*names, LONG], preprocessing=known, changes=SMALL)
    write_file(weights, folder / "net.safetensors")
    for name, color in (("a.png", "red"), ("b.jpg", "white")):
        Image.new("RGB", (70, 80), color).save(folder / name)
    (folder / "bad.jpg").write_text("no picture")
    return folder


def predict(folder, *arguments):
    return call("predict", *arguments, "--weights", folder / "net.safetensors")


def test_a_table_for_each_picture(folder):
    status, out = predict(folder, folder / "a.png", folder / "b.jpg", "--top", 10)
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 22
    assert (lines[0], lines[11]) == (str(folder / "a.png"), str(folder / "b.jpg"))
    table = lines[1:11]
    assert max(map(len, table)) <= 100
    percents = [float(line.split("%")[0]) for line in table]
    assert percents == sorted(percents, reverse=True)
    assert sum(percents) == pytest.approx(100, abs=0.1)
    assert all("thing" in line or "longer than any" in line for line in table)


def test_five_are_told_by_default_and_json_has_them_in_full(folder):
    status, out = predict(folder, folder / "a.png", "--json")
    assert status == 0
    [told] = json.loads(out)
    assert told["image"] == str(folder / "a.png")
    assert [set(each) for each in told["classes"]] == [{"number", "name", "probability"}] * 5


def test_a_bad_picture_is_named_and_the_others_gone_on_with(folder):
    images = [folder / "bad.jpg", folder / "none.jpg", folder / "b.jpg"]
    status, said = predict(folder, *images, "--json")
    assert status == 2
    *errors, written = said.split("\n", 2)
    bad, none, good = json.loads(written)
    for error, told, image in zip(errors, (bad, none), images[:2], strict=False):
        assert error == f"error: {told['error']}"
        assert str(image) in error
    assert len(good["classes"]) == 5


def test_a_bomb_is_refused(folder):
    bomb = folder / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    status, said = predict(folder, bomb)
    assert status == 2
    assert said.startswith(f"error: {bomb} ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a.jpg"], "--weights"),
        (["a.jpg", "--weights", "none.pth"], "none.pth"),
        (["a.jpg", "--weights", "model"], "model"),
        (["--weights", "none.pth"], "IMAGE"),
        (["a.jpg", "--weights", "none.pth", "--top", "0"], "--top"),
    ],
)
def test_bad_input_is_refused(arguments, named):
    assert named in refusal("predict", *arguments)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [("> /dev/full", "No space left on device"), (">&-", "closed")],
)
def test_what_nobody_could_read_is_a_failure(folder, redirection, reason):
    weights = folder / "net.safetensors"
    command = shlex.join(
        map(str, [sys.executable, "predict.py", folder / "a.png", "--weights", weights])
    )
    status, _, err = run("sh", "-c", f"{command} {redirection}")
    assert (status, err.count("\n")) == (2, 1)
    assert reason in err
