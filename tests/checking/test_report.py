"""The report: what it keeps, and what it must not name."""

import getpass
import json
import socket
from pathlib import Path

import pytest

from checking.report import ROOT, Outcome, Report, anonymous
from common.errors import ReportedError


def test_neither_host_nor_user_nor_a_path_is_named(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node-7.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setenv("HOME", "/home/ada")
    text = (
        f"on node-7 (node-7.example.org) ada ran {ROOT}/check.py in /home/ada and /data/ada/x.bin"
    )
    found = anonymous(text)
    assert not any(word in found for word in ("node-7", "ada", "/home", "/data", str(ROOT)))
    assert "check.py" in found


@pytest.mark.parametrize(
    "text", ["12.5GB/s, 3/4 of it", "a name like adams", "https/2 and n/a", "NCCL 2.27.5"]
)
def test_what_is_no_name_and_no_path_stays(monkeypatch, text):
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert anonymous(text) == text


def test_addresses_are_left_out():
    assert (
        anonymous("by peer [10.20.1.2]:32660, 10.20.1.2:80") == "by peer [ADDRESS]:32660, ADDRESS"
    )


def test_a_user_id_without_a_name_is_no_fault(monkeypatch):
    def nobody():
        raise KeyError(1000)

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert anonymous("7 ranks") == "7 ranks"


def test_what_was_found_is_written_as_text_and_as_json(tmp_path):
    report = Report()
    report.begin("first")
    report.describe({"device": "a GPU\nanother", "empty": ""})
    outcomes = [Outcome("sums", True, "1e-9"), Outcome("logits", False, f"{tmp_path}/x differs")]
    report.take([*outcomes, Outcome("waits", None, "no GPU")])
    report.write(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "report.txt").read_text()
    written = json.loads((tmp_path / "new" / "folder" / "report.json").read_text())
    assert report.failed == written["failed"] == ["logits"]
    assert [check["holds"] for check in written["checks"]] == [True, False, None]
    assert {check["section"] for check in written["checks"]} == {"first"}
    assert written["machine"] == {"device": "a GPU\nanother", "empty": ""}
    assert "another" in text
    assert str(tmp_path) not in text + json.dumps(written)


def test_a_disk_that_refuses_the_report_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportedError, match="file"):
        Report().write(Path(tmp_path / "file" / "folder"))
