"""The program that says what is on pictures, as a user runs it."""

import json
import shlex
import shutil
import sys

import pytest
from PIL import Image

from tests.programs import run
from tests.weights.nets import some_weights
from weights.files import write_file

pytestmark = pytest.mark.programs

PREDICT = [sys.executable, "predict.py"]
LONG = "a name that is longer than any terminal is wide, " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights that know all, two pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("predict")
    names = [f"thing {number}" for number in range(9)]
    known = {"size": 64, "mean": 128.0, "std": 60.0}
    weights = some_weights("d2l", class_names=[*names, LONG], preprocessing=known)
    write_file(weights, folder / "net.safetensors")
    for name, color in (("a.png", "red"), ("b.jpg", "white")):
        Image.new("RGB", (70, 80), color).save(folder / name)
    (folder / "bad.jpg").write_text("no picture")
    yield folder
    shutil.rmtree(folder)


def predict(folder, *arguments):
    return run(*PREDICT, *arguments, "--weights", folder / "net.safetensors")


def test_a_table_for_each_picture(folder):
    status, out, err = predict(folder, folder / "a.png", folder / "b.jpg", "--top", 10)
    assert (status, err) == (0, "")
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
    status, out, _ = predict(folder, folder / "a.png", "--json")
    assert status == 0
    [told] = json.loads(out)
    assert told["image"] == str(folder / "a.png")
    assert [set(each) for each in told["classes"]] == [{"number", "name", "probability"}] * 5


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_picture_is_named_and_the_others_gone_on_with(folder, as_json):
    images = [folder / "bad.jpg", folder / "none.jpg", folder / "b.jpg"]
    status, out, err = predict(folder, *images, *["--json"] * as_json)
    assert status == 2
    assert [line.split(" cannot be read")[0] for line in err.splitlines()] == [
        f"error: {folder / name}" for name in ("bad.jpg", "none.jpg")
    ]
    if as_json:
        bad, none, good = json.loads(out)
        assert "cannot be read" in bad["error"]
        assert "cannot be read" in none["error"]
        assert len(good["classes"]) == 5
    else:
        assert len(out.splitlines()) == 6


def test_a_bomb_is_refused(folder):
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    status, _, err = predict(folder, folder / "bomb.png")
    assert status == 2
    assert "bomb.png has more pixels than" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a.jpg"], "--weights"),
        (["a.jpg", "--weights", "none.pth"], "cannot read none.pth: No such file"),
        (["a.jpg", "--weights", "model"], "there is no checkpoint in model"),
        (["--weights", "none.pth"], "IMAGE"),
        (["a.jpg", "--weights", "none.pth", "--top", "0"], "--top"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, complaint):
    status, out, err = run(*PREDICT, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [("> /dev/full", "No space left on device"), (">&-", "it is closed")],
)
def test_what_nobody_could_read_is_a_failure(folder, redirection, reason):
    arguments = shlex.join(map(str, [folder / "a.png", "--weights", folder / "net.safetensors"]))
    status, _, err = run("sh", "-c", f"{shlex.join(PREDICT)} {arguments} {redirection}")
    assert status == 2
    assert err == f"error: cannot write standard output: {reason}\n"
