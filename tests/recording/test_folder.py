"""A run's folder is its own, and its metrics file survives what happens to runs."""

import fcntl
import json
import os
import re
import threading

import pytest

from common.errors import ReportedError
from common.files import replacing
from recording.folder import Attempt, RunFolder
from recording.metrics import MetricsFile, read_metrics
from tests.disks import files_of_at_most


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def _make(runs, *names):
    for name in names:
        (runs / name).mkdir(parents=True)


def test_a_taken_name_is_numbered(runs):
    folders = [RunFolder.create(runs, "run").path for _ in range(3)]
    assert folders == [runs / "run", runs / "run-2", runs / "run-3"]
    assert all(folder.is_dir() for folder in folders)


def test_the_number_of_a_deleted_run_is_not_used_again(runs):
    _make(runs, "run", "run-4")
    assert RunFolder.create(runs, "run").path == runs / "run-5"


def test_a_name_that_is_taken_meanwhile_is_not_shared(runs, monkeypatch):
    _make(runs, "run", "run-2")
    monkeypatch.setattr("recording.folder._numbers", lambda runs, name: [1])
    assert RunFolder.create(runs, "run").path == runs / "run-3"


def test_the_newest_has_the_highest_number(runs):
    _make(runs, "run", *(f"run-{number}" for number in range(2, 11)))
    assert RunFolder.newest(runs, "run").path == runs / "run-10"


def _begun(runs, marks, number=1):
    folder = RunFolder.create(runs, "run")
    folder.begin(Attempt(number, marks))
    return folder


def test_a_launch_finds_its_run_and_no_other(runs):
    ours, _ = _begun(runs, ["process 1", "id 7"]), _begun(runs, ["process 2", "id 8"])
    (runs / "run-3").mkdir()  # died before it could say whose it is
    assert RunFolder.of_launch(runs, "run", {"process 1"}) == ours
    assert RunFolder.of_launch(runs, "run", {"process 3", "id 7"}) == ours
    assert RunFolder.of_launch(runs, "run", {"process 3", "id 9"}) is None
    assert RunFolder.of_launch(runs, "run", set()) is None
    assert RunFolder.of_launch(runs, "other", {"process 1"}) is None


@pytest.mark.parametrize(("steps", "tested", "by_id"), [(4, 4, True), (5, 4, True), (5, 5, False)])
def test_a_run_that_has_ended_is_not_found_by_an_id_alone(runs, steps, tested, by_id):
    folder = _begun(runs, ["process 1", "id 7"])
    summary = {"steps": steps, "test_step": tested, "total_steps": 5}
    folder.summary.write_text(json.dumps(summary))
    assert (RunFolder.of_launch(runs, "run", {"process 2", "id 7"}) == folder) == by_id
    assert RunFolder.of_launch(runs, "run", {"process 1"}) == folder


def test_attempts_are_counted(runs):
    folder = RunFolder.create(runs, "run")
    assert folder.last_attempt() == Attempt(1, [])
    folder.begin(Attempt(3, ["id 7"]))
    assert folder.last_attempt() == Attempt(3, ["id 7"])


def test_a_claim_waits_for_the_end_of_another(runs):
    folder = RunFolder.create(runs, "run")
    other = os.open(folder.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ReportedError, match=re.escape(str(folder.path))):
        folder.claim()
    threading.Timer(0.5, os.close, [other]).start()
    folder.claim(patience=60)


@pytest.mark.parametrize("other", ["run-a", "run-2b", "runs", "a-run-7", "run-1", "run-02"])
def test_another_name_with_the_same_beginning_is_another_run(runs, other):
    _make(runs, other)
    with pytest.raises(ReportedError, match=re.escape(str(runs / "run"))):
        RunFolder.newest(runs, "run")
    assert RunFolder.create(runs, "run").path == runs / "run"
    assert RunFolder.newest(runs, "run").path == runs / "run"


def test_a_dot_in_a_name_stands_for_itself(runs):
    _make(runs, "v1x0-5")
    assert RunFolder.create(runs, "v1.0").path == runs / "v1.0"


def test_no_run_to_resume_is_named(runs):
    with pytest.raises(ReportedError, match=re.escape(str(runs / "fashion"))):
        RunFolder.newest(runs, "fashion")


def test_runs_in_a_file_or_behind_a_broken_link_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for runs in ("file", "file/runs", "link"):
        with pytest.raises(ReportedError, match=f"/{runs}"):
            RunFolder.create(tmp_path / runs, "run")


def _log(path, *steps, after=0):
    metrics = MetricsFile(path, after)
    for step in steps:
        metrics.log(step, {"train/loss": 1.0 / step})


def test_what_is_logged_is_on_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, 0)
    metrics.log(1, {"epoch": 0.5})
    assert path.read_text() == '{"step": 1, "epoch": 0.5}\n'


def test_a_resumed_run_drops_the_steps_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _log(path, 1, 2, 3, 4)
    _log(path, 3, 4, 5, after=2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cut", ["{", '{"step": 3', '{"step": 3, "train/loss": 0.1'])
def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    _log(path, 1, 2)
    path.write_text(path.read_text() + cut)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    _log(path, 3, after=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_there_are_no_metrics_without_a_file(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_metrics_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportedError, match=r"/metrics\.jsonl"):
        MetricsFile(tmp_path / "file" / "metrics.jsonl", 0)


@pytest.mark.parametrize("room", [0, 10], ids=["none", "for a part of a line"])
def test_a_full_disk_gets_no_part_of_a_line_and_the_rest_once_there_is_room(tmp_path, caplog, room):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, 0, go_on=True)
    metrics.log(1, {"epoch": 0.5})
    whole = path.read_text()
    with files_of_at_most(len(whole) + room):
        metrics.log(2, {"epoch": 1.0})
        metrics.log(3, {"epoch": 1.5})
        assert path.read_text() == whole
    assert caplog.text.count(str(path)) == 1
    metrics.log(4, {"epoch": 2.0})
    assert [line["epoch"] for line in read_metrics(path)] == [0.5, 1.0, 1.5, 2.0]


def test_a_full_disk_ends_a_run_that_may_not_go_on(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    with files_of_at_most(0), pytest.raises(ReportedError, match=r"/metrics\.jsonl"):
        metrics.log(1, {"epoch": 0.5})


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    folder = RunFolder.create(tmp_path, "run")
    folder.claim()
    with pytest.raises(ReportedError, match=re.escape(str(folder.path))):
        RunFolder.newest(tmp_path, "run").claim()


def test_a_file_is_replaced_when_its_successor_is_whole(tmp_path):
    for content in ("first", "second"):
        with replacing(tmp_path / "net.npz") as aside:
            assert aside.suffix == ".npz"
            aside.write_text(content)
        assert [path.read_text() for path in tmp_path.iterdir()] == [content]


@pytest.mark.parametrize("error", [ReportedError("no"), OSError(28, "No space left on device")])
def test_a_failure_leaves_the_file_that_was_there(tmp_path, error):
    (tmp_path / "net.npz").write_text("whole")

    def fail(aside):
        aside.write_text("ha")
        raise error

    with pytest.raises(ReportedError), replacing(tmp_path / "net.npz") as aside:
        fail(aside)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    path = tmp_path / "no" / "net.npz"
    with pytest.raises(ReportedError, match=re.escape(str(path))), replacing(path) as aside:
        aside.write_text("x")
