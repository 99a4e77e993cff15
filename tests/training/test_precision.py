"""The precision that ``auto`` means here, and ranks that would choose different ones."""

import pytest
import torch

from common.errors import ReportedError
from distributed.mesh import Mesh
from training import precision as own
from training.config import Config
from training.precision import PRECISIONS
from training.trainer import build_model

SMALL = {"variant": "d2l", "placement": "ddp", "net": {"hidden": 8}}


def test_auto_is_resolved_when_the_settings_are_read():
    config = Config.model_validate({"precision": "auto"})
    assert config.precision in PRECISIONS
    assert Config.model_validate({"precision": "fp64"}).precision == "fp64"


@pytest.mark.parametrize(
    ("gpu", "emulates", "precision"),
    [(True, True, "bf16"), (False, False, "bf16"), (False, True, "fp32")],
)
def test_a_cpu_that_emulates_bf16_computes_in_fp32(monkeypatch, gpu, emulates, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(own, "cpu_emulates", lambda dtype: emulates)
    assert Config.model_validate({"precision": "auto"}).precision == precision


def _build(precisions):
    """The error of a rank that builds a net in its own of ``precisions``, or None."""
    ranks = len(precisions)
    plan = Config.model_validate(SMALL).plan(ranks)
    mesh = Mesh.over_running_group(plan, torch.device("cpu"))
    config = Config.model_validate({**SMALL, "precision": precisions[mesh.rank]})
    try:
        build_model(config, mesh, 10, 1)
    except ReportedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("precisions", [("fp32", "fp32"), ("bf16", "fp32")])
def test_ranks_that_would_compute_in_different_precisions_are_refused(two_ranks, precisions):
    for told in two_ranks.run(_build, precisions):
        if len(set(precisions)) == 1:
            assert told is None
        else:
            assert all(each in told for each in (*precisions, "precision="))
