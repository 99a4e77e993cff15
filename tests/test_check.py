"""The program that checks a machine, on real ranks: what it proves, and that it can fail."""

import getpass
import json
import re
import socket
from pathlib import Path

import pytest

from tests.calls import refusal
from tests.programs import ranks, run

pytestmark = pytest.mark.programs

BROKEN = Path(__file__).parent / "checking" / "broken.py"
PROOFS = ("--only", "proofs", "--folder")
PATIENCE = 600


def read(folder):
    """(the text, the JSON) of a report."""
    return (folder / "report.txt").read_text(), json.loads((folder / "report.json").read_text())


def test_two_ranks_prove_every_placement_that_fits_them(tmp_path):
    program = ("check.py", *PROOFS, tmp_path)
    status, out, err = run(*ranks(2), *program, timeout=PATIENCE)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    text, found = read(tmp_path)
    assert text.strip() in out
    assert found["failed"] == []
    assert sum(check["holds"] is True for check in found["checks"]) >= 10
    for name in (socket.gethostname(), getpass.getuser(), str(Path.home()), str(tmp_path)):
        assert not re.search(rf"\b{re.escape(name)}\b", text + json.dumps(found)), name
    assert out.strip().endswith(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"report.txt", "report.json"}


def test_a_machine_on_which_gradients_are_not_summed_fails_by_name(tmp_path):
    program = (BROKEN, "gradients", *PROOFS, tmp_path)
    status, _, err = run(*ranks(2), *program, timeout=PATIENCE)
    assert status == 1
    assert "ddp" in err
    assert "Traceback" not in err
    assert {"ddp", "gradients, fp32"} <= set(read(tmp_path)[1]["failed"])


def test_one_process_without_compiler_network_or_wandb_is_checked(tmp_path):
    environment = {"PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = (BROKEN, "wandb", *PROOFS, tmp_path)
    status, _, err = run(*ranks(0), *program, timeout=PATIENCE, **environment)
    assert status == 0, err
    found = read(tmp_path)[1]
    assert found["machine"]["compilers"].startswith("none")
    assert found["failed"] == []


def test_a_wrong_setting_is_refused_before_anything_is_checked(tmp_path):
    assert "hiden" in refusal("check", "--folder", tmp_path / "new", "net.hiden=64")
    assert not (tmp_path / "new").exists()
