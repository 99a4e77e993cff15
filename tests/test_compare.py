"""The whole command on tiny settings."""

import json
import shlex
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from common.files import read_objects
from tests.calls import call, refusal
from tests.programs import finish, processes_mentioning, run, start, wait_until

pytestmark = pytest.mark.programs

COMPARE = [sys.executable, "compare.py"]
TINY = (
    *("--rounds", "1", "--steps", "1", "--warmup", "1", "--batches", "4"),
    *("data.size=64", "data.stored_size=64", "variant=d2l", "net.hidden=64"),
)
ALL = "single,local,split,ddp,hybrid,split+ddp,split+hybrid,dense-split"
KEYS = {
    *("variant", "towers", "placement", "world_size", "global_batch", "precision"),
    *("images_per_second", "images_per_second_min", "images_per_second_max", "speedup"),
    *(
        "efficiency",
        "bytes_sent",
        "bytes_sent_formula",
        "bytes_at",
        "bytes_at_formula",
        "peak_memory_bytes",
    ),
    *(
        "parameters",
        "seconds_data",
        "seconds_forward",
        "seconds_activation_communication",
        "seconds_backward",
    ),
    *("seconds_gradient_communication", "seconds_optimizer"),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(the folder of a comparison of every placement, what it printed)."""
    runs = tmp_path_factory.mktemp("compare")
    arguments = ["--placements", ALL, "--json", runs / "copy.json", f"runs={runs}"]
    status, out, err = run(*COMPARE, *TINY, *arguments, timeout=400, WANDB_MODE="offline")
    assert status == 0, err
    return runs / "compare", out


def test_every_placement_has_a_row_with_every_key(compared):
    folder, _ = compared
    results = json.loads((folder / "results.json").read_text())
    assert results == json.loads((folder.parent / "copy.json").read_text())
    assert results["machine"]["cores"] >= 1
    assert results["peak_gflops"] > 1
    assert ",".join(row["placement"] for row in results["rows"]) == ALL
    for row in results["rows"]:
        assert row.keys() >= KEYS
        assert row["images_per_second"] > 0
        assert row["error"] is None
    assert results["rows"][0]["speedup"] == 1


def test_counted_bytes_equal_the_formula_for_every_placement(compared):
    rows = json.loads((compared[0] / "results.json").read_text())["rows"]
    for row in rows:
        assert row["bytes_at"] == row["bytes_at_formula"], row["placement"]
        assert row["bytes_sent"] == row["bytes_sent_formula"]
    sent = {row["placement"]: row["bytes_sent"] for row in rows}
    assert sent["single"] == sent["local"] == 0
    assert 0 < sent["split"] < sent["split+ddp"] < sent["ddp"]
    assert 0 < sent["split"] < sent["hybrid"] < sent["ddp"]


def test_tables_and_charts_are_left_and_shown(compared):
    folder, out = compared
    for chart in ("throughput", "step_time", "cost"):
        assert Image.open(folder / f"{chart}.png").size == (1000, 450)
    assert (folder / "results.csv").read_text().count("\n") == 1 + len(ALL.split(","))
    assert "|" in (folder / "results.md").read_text()
    assert "The dense" in out
    assert "All bytes counted equal the formula." in out
    assert max(map(len, out.splitlines()[:-1])) <= 120
    assert "[6/8] round 1/1: split+ddp, global batch 4;" in out


def test_wandb_has_a_run_for_each_placement_and_one_with_the_table(compared, wandb_server):
    folders = compared[0] / "wandb"
    shown = shlex.split(compared[1].splitlines()[-1].split("wandb sync ")[1])
    assert {Path(each).resolve() for each in shown} == set(folders.glob("offline-run-*"))
    last = (folders / "latest-run").resolve()
    media = {path.name.split("_")[0] for path in (last / "files" / "media").rglob("*.*")}
    assert media == {"comparison", "throughput", "step", "cost"}
    placements = [path for path in folders.glob("offline-run-*") if path != last]
    wandb_server.upload(shlex.join(["wandb", "sync", *map(str, placements)]))
    runs = {run.about["displayName"]: run for run in wandb_server.runs.values()}
    assert set(runs) == {f"compare-{name}" for name in ALL.split(",")}
    assert {each.about["groupName"] for each in runs.values()} == {"compare"}
    assert {each.about["jobType"] for each in runs.values()} == {"bench"}
    assert runs["compare-split"].summary["images_per_second"] > 0
    assert runs["compare-split"].summary["bytes_at/conv3"] > 0


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path):
    once = ("--placements", "single,local", f"runs={tmp_path}", "tracking.mode=disabled")
    process = start(*COMPARE, *TINY, *once)
    kept = tmp_path / "compare" / "measurements.jsonl"
    wait_until(lambda: read_objects(kept), timeout=300)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 128 + signal.SIGTERM, err
    assert "--resume" in out
    assert "Traceback" not in err
    assert not processes_mentioning(str(tmp_path))
    first = read_objects(kept)

    message = refusal("compare", *TINY, *once, "--resume", "data.mean=99.0")
    assert str(tmp_path / "compare") in message
    status, out = call("compare", *TINY, *once, "--resume")
    assert status == 0
    assert "[1/1] round 1/1: local" in out
    assert read_objects(kept)[: len(first)] == first


def test_a_placement_that_fails_says_why(tmp_path):
    once = ("--placements", "single", f"runs={tmp_path}", "tracking.mode=disabled")
    status, out = call("compare", *TINY, *once, "optimizer.learning_rate=1e30", "--warmup", "5")
    assert status == 1
    [told] = [line for line in out.splitlines() if "single at batch 4" in line]
    assert "loss" in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--forms", "nets"], "--forms"), (["--train", "--steps", "9"], "--steps")],
)
def test_what_the_other_comparison_reads_is_refused(arguments, named):
    assert named in refusal("compare", *arguments)


def test_a_training_shorter_than_the_warm_up_is_made_longer(tmp_path):
    once = ("--placements", "single", f"runs={tmp_path}", "tracking.mode=disabled")
    data = ("data.name=textures", "data.train_images=4")
    status, out = call("compare", *TINY, *once, *data, "--warmup", "3")
    assert (status, "single" in out) == (0, True)


def test_a_form_that_fails_at_every_learning_rate_ends_the_comparison(tmp_path):
    message = refusal(
        *("compare", "--train", "--images", "24", f"runs={tmp_path}", "data.name=synthetic"),
        *("batch_size=8", "data.size=64", "data.stored_size=64", "data.synthetic_length=32"),
        *("net.hidden=64", "tracking.mode=disabled", "data.std=1e-30"),
    )
    assert message.startswith("two towers")
    kept = json.loads((tmp_path / "learn-fashion" / "learning.json").read_text())
    assert [trial["test_top1"] for trial in kept["trials"]] == [None] * len(kept["trials"])
    assert kept["outcomes"] == []


def test_what_is_learnt_is_compared_on_one_budget(tmp_path):
    arguments = [
        *("--train", "--forms", "activations", "--images", "64", "--trial-images", "16"),
        *(f"runs={tmp_path}", "data.name=synthetic", "batch_size=8"),
        *("data.size=64", "data.stored_size=64", "data.synthetic_length=32", "net.hidden=64"),
        *("tracking.mode=disabled", "optimizer.learning_rate=1e-5"),
    ]
    status, out = call("compare", *arguments)
    assert status == 0
    folder = tmp_path / "learn-fashion"
    kept = json.loads((folder / "learning.json").read_text())
    outcomes, trials = kept["outcomes"], kept["trials"]
    forms = ["ReLU", "tanh"]
    assert [each["form"] for each in outcomes] == forms
    for outcome in outcomes:
        own = {t["learning_rate"]: t["test_top1"] for t in trials if t["form"] == outcome["form"]}
        assert len(own) >= 3
        assert own[outcome["learning_rate"]] == max(own.values())
    for outcome in outcomes:
        assert outcome["images"] == 64
        assert [point["images"] for point in outcome["curve"]] == list(range(8, 65, 8))
        assert (outcome["seed"], outcome["images"]) == (0, 64)
        assert [point["images"] for point in outcome["training"]] == list(range(8, 65, 8))
        assert all(0 <= point["train_error"] <= 1 for point in outcome["training"])
    assert Image.open(folder / "activations-accuracy.png").size == (1000, 450)
    assert Image.open(folder / "activations-error.png").size == (800, 500)
    assert Image.open(folder / "activations-rates.png").size == (800, 500)
    assert "tanh" in (folder / "activations.md").read_text()
    assert "tanh" in out
    assert "20%" in out
    assert "winged" in refusal("compare", "--train", "--forms", "activations,winged")
    for other in (["seed=1"], ["--evaluations", "2"]):
        assert str(folder) in refusal("compare", *arguments, "--resume", *other)
    status, out = call("compare", *arguments, "--resume", "--seeds", "2")
    assert status == 0
    more = json.loads((folder / "learning.json").read_text())
    assert more["outcomes"][: len(outcomes)] == outcomes
    assert [(each["form"], each["seed"]) for each in more["outcomes"][len(outcomes) :]] == [
        (form, 1) for form in forms
    ]
    assert more["trials"] == trials
    assert "±" in out
