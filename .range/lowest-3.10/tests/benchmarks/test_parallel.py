"""Each peer under torch's own parallelism takes the step of one process."""

import pytest
import torch
import torch.distributed as dist

from benchmarks.parallel import PEERS, PeerTrainer, alone
from benchmarks.step import job, synthetic_images
from distributed.mesh import Mesh
from training.batches import local_batches

SMALL = {"net": {"hidden": 64}, "precision": "fp64", "optimizer": {"learning_rate": 0.01}}


def train(make, ranks, steps):
    """(loss of the global batch, full gradients) of each step."""
    config = job("paper", 1, 4, 64, placement="ddp", **SMALL)
    mesh = Mesh.over_running_group(config.plan(ranks), torch.device("cpu"))
    trainer = PeerTrainer(make, config, mesh)
    found = []
    for local in local_batches(config, mesh, synthetic_images(config), 0, steps):
        loss = torch.tensor(trainer.train_step(local), dtype=torch.float64)
        dist.all_reduce(loss)
        found.append((loss / ranks, {n: g.clone() for n, g in trainer.gradients().items()}))
    return found


@pytest.fixture(scope="module")
def one_process(one_rank):
    return one_rank.run(train, alone, 1, 2)[0]


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_takes_the_steps_of_one_process(two_ranks, one_process, peer):
    found = two_ranks.run(train, PEERS[peer], 2, 2)[0]
    for (loss, gradients), (expected_loss, expected) in zip(found, one_process, strict=True):
        torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
        for name, gradient in expected.items():
            error = (gradients[name] - gradient).abs().max() / gradient.abs().max()
            assert error < 1e-12, name
