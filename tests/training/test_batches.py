"""The images of each rank, and their order."""

from itertools import chain

import numpy as np
import pytest
import torch

from common.errors import ReportedError
from data.loading import epoch_order
from data.synthetic import Synthetic
from distributed.collectives import Ranks
from distributed.mesh import Mesh, StageRanks
from distributed.plan import Grid, Plan
from distributed.timer import StepTimer
from training.batches import count_steps, local_batches, make_preprocess
from training.batches import test_batches as batches_for_testing
from training.config import Config, DataConfig

CPU = torch.device("cpu")
EPOCHS, BATCH = 3, 6

every_size = pytest.mark.parametrize("images", [1, 4, 12, 20, 25])
every_mesh = pytest.mark.parametrize("replicas", [1, 2, 3])


class _Group:
    """A process group without processes: this rank's place in one of ``size``."""

    def __init__(self, size, rank):
        self.size, self.rank = lambda: size, lambda: rank


def _mesh(replicas, rank=0, shards=1, classifier_shards=None):
    grid = Grid(shards, replicas)
    classifier_shards = classifier_shards or shards
    plan = Plan(2, grid, Grid(classifier_shards, shards * replicas // classifier_shards))
    timer = StepTimer(CPU)

    def place(size, index):
        return Ranks(_Group(size, index), timer)  # type: ignore[arg-type]

    def stage(grid):
        copy, shard = divmod(rank, grid.shards)
        slices = place(grid.shards, shard)
        return StageRanks(slices, place(grid.replicas, copy), slices)

    replica = rank // shards
    feeders = place(plan.feeds, replica % plan.feeds)
    return Mesh(plan, rank, CPU, stage(plan.features), stage(plan.classifier), feeders, timer)


def _images(count):
    return Synthetic("train", count, classes=10, channels=1, height=4, width=4)


def _config(**settings):
    return Config.model_validate({"epochs": EPOCHS, "batch_size": BATCH, "seed": 5, **settings})


def _local_batches(images, mesh, first=0, last=None):
    config = _config()
    last = count_steps(config, images) if last is None else last
    return list(local_batches(config, mesh, _images(images), first, last))


def _positions(batches):
    return [local.batch.indices.tolist() for local in batches]


@every_size
@every_mesh
def test_an_epoch_visits_every_image_once_over_all_replicas(images, replicas):
    everyone = [_local_batches(images, _mesh(replicas, rank)) for rank in range(replicas)]
    for epoch in range(EPOCHS):
        batches = [local for local in chain(*everyone) if local.epoch == epoch]
        assert sorted(chain(*_positions(batches))) == list(range(images))


@every_size
@every_mesh
def test_replicas_divide_the_batches_of_one_process(images, replicas):
    everyone = [
        _positions(_local_batches(images, _mesh(replicas, rank))) for rank in range(replicas)
    ]
    alone = _local_batches(images, _mesh(1))
    for step, whole in enumerate(alone):
        parts = [positions[step] for positions in everyone]
        assert list(chain(*parts)) == whole.batch.indices.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert whole.global_count == len(whole.batch.indices)
    assert all(len(positions) == len(alone) for positions in everyone)


def test_every_replica_knows_the_count_of_the_whole_batch():
    for rank in range(3):
        counts = [local.global_count for local in _local_batches(20, _mesh(3, rank))]
        assert counts == [6, 6, 6, 2] * EPOCHS


@every_size
@every_mesh
def test_every_replica_knows_the_images_of_all(images, replicas):
    everyone = [_local_batches(images, _mesh(replicas, rank)) for rank in range(replicas)]
    for parts in zip(*everyone, strict=True):
        own = [local.batch.indices.tolist() for local in parts]
        for local in parts:
            assert [each.tolist() for each in local.indices] == own
            assert local.shares == [len(each) for each in own]


def test_a_hybrid_divides_the_images_over_all_ranks():
    for shards, replicas, together in ((1, 4, 4), (1, 4, 2), (2, 2, 4)):
        plain, hybrid = (
            [
                _positions(_local_batches(20, _mesh(replicas, rank, shards, classifier_shards)))
                for rank in range(shards * replicas)
            ]
            for classifier_shards in (None, together)
        )
        assert hybrid == plain


def test_the_parts_of_a_batch_are_the_batch():
    local = _local_batches(25, _mesh(2, rank=1))[0]
    parts = local.parts(2)
    assert len(parts) == 2
    assert {(part.global_count, part.epoch) for part in parts} == {(BATCH, 0)}
    assert torch.cat([part.batch.images for part in parts]).equal(local.batch.images)
    for replica, indices in enumerate(local.indices):
        assert torch.cat([part.indices[replica] for part in parts]).equal(indices)
    for part in parts:
        assert part.indices[1].equal(part.batch.indices)
        assert part.shares == [len(each) for each in part.indices]


def test_the_towers_of_a_replica_see_the_same_images():
    first, second, third, fourth = (
        _positions(_local_batches(20, _mesh(2, rank, shards=2))) for rank in range(4)
    )
    assert first == second
    assert third == fourth
    assert first != third


def test_each_epoch_has_an_order_of_its_own():
    orders = [
        tuple(chain(*_positions(s for s in _local_batches(25, _mesh(1)) if s.epoch == epoch)))
        for epoch in range(EPOCHS)
    ]
    assert len({*orders, tuple(range(25))}) == EPOCHS + 1


def test_a_set_that_is_read_in_blocks_has_an_order_for_that():
    images = _images(20)
    images.block = 2
    batches = list(local_batches(_config(), _mesh(1), images, 0, 4))
    assert list(chain(*_positions(batches))) == epoch_order(5, 0, 20, 2).tolist()


def test_a_local_batch_holds_the_images_at_its_positions():
    images, labels = _images(20).read(torch.arange(20))
    for local in _local_batches(20, _mesh(2, rank=1)):
        assert torch.equal(local.batch.images, images[local.batch.indices])
        assert torch.equal(local.batch.labels, labels[local.batch.indices])


@pytest.mark.parametrize("first", range(13))
def test_starting_in_the_middle_continues_exactly(first):
    def told(batches):
        return [
            (*local[2:], local.batch.indices.tolist(), [each.tolist() for each in local.indices])
            for local in batches
        ]

    mesh = _mesh(2, rank=1)
    assert told(_local_batches(20, mesh, first=first)) == told(_local_batches(20, mesh))[first:]


def test_a_run_may_end_within_an_epoch():
    mesh = _mesh(2)
    assert _positions(_local_batches(20, mesh, last=6)) == _positions(_local_batches(20, mesh))[:6]


def test_a_local_batch_knows_how_far_the_run_is():
    batches = _local_batches(20, _mesh(1))
    assert [local.epochs_done for local in batches] == [step / 4 for step in range(1, 13)]
    assert [local.epoch for local in batches] == [0] * 4 + [1] * 4 + [2] * 4
    assert [local.ends_epoch for local in batches] == [False, False, False, True] * EPOCHS


def test_waiting_for_images_is_booked_as_data():
    mesh = _mesh(1)
    for _ in local_batches(_config(), mesh, _images(20), 0, 2):
        assert mesh.timer.take().cost().seconds_data > 0


@pytest.mark.parametrize(
    ("images", "max_steps", "steps"),
    [(12, None, 6), (13, None, 9), (1, None, 3), (13, 4, 4), (13, 100, 9)],
)
def test_steps_are_counted_with_the_short_batches_and_the_limit(images, max_steps, steps):
    assert count_steps(_config(max_steps=max_steps), images) == steps


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 2), (1, 3), (2.5, 8)])
def test_the_last_epoch_may_be_a_part_of_one(epochs, steps):
    assert count_steps(_config(epochs=epochs), 13) == steps


@pytest.mark.parametrize("epochs", [1.1, 2.2, 4.9, 9.8])
def test_a_fraction_of_an_epoch_counts_as_it_is_written(epochs):
    assert count_steps(_config(epochs=epochs), 100 * BATCH) == round(100 * epochs)


@every_size
@every_mesh
def test_each_test_image_is_counted_once(images, replicas):
    seen = []
    for rank in range(replicas):
        for local in batches_for_testing(_config(), _mesh(replicas, rank), _images(images)):
            assert len(local.batch.indices) <= -(-BATCH // replicas)
            seen += local.batch.indices.tolist()
    assert sorted(seen) == list(range(images))


@pytest.mark.parametrize(
    ("mean", "std", "first"),
    [(100.0, 50.0, [-2.0, 0.0]), ([100.0, 50.0], [50.0, 25.0], [-2.0, 2.0])],
)
def test_mean_and_std_are_for_all_channels_or_for_each(mean, std, first):
    config = Config(data=DataConfig(size=64, mean=mean, std=std))
    images = torch.tensor([0, 100], dtype=torch.uint8)[None, :, None, None].expand(1, 2, 64, 64)
    assert make_preprocess(config, 2)(images)[0, :, 0, 0].tolist() == pytest.approx(first, abs=1e-6)


def test_images_are_resized_to_the_size_itself_if_nothing_else_is_said():
    assert make_preprocess(Config(data=DataConfig(size=64)), 1).resize == 64
    assert make_preprocess(Config(data=DataConfig(size=64, resize=72)), 1).resize == 72


def _color_config(**changes):
    covariance = [[900.0, 500.0, 300.0], [500.0, 800.0, 400.0], [300.0, 400.0, 700.0]]
    settings = {"size": 64, "color_noise": 0.1, "color_covariance": covariance, **changes}
    return Config(data=DataConfig(**settings))


def test_colors_change_as_the_covariance_has_them():
    colors = make_preprocess(_color_config(std=[1.0, 2.0, 4.0]), 3).colors
    assert colors is not None
    stds = torch.tensor([1.0, 2.0, 4.0])
    expected = 0.01 * torch.tensor(_color_config().data.color_covariance)
    torch.testing.assert_close(colors.T @ colors * stds.outer(stds), expected)


def test_grey_photographs_change_in_brightness_alone():
    together = 5461.123 * (1 + 1e-12)  # as rounding has it: the least variance is below 0
    covariance = [[5461.123 if i == j else together for i in range(3)] for j in range(3)]
    colors = make_preprocess(_color_config(color_covariance=covariance), 3).colors
    assert colors is not None
    change = torch.ones(3) @ colors
    torch.testing.assert_close(change / change[0], torch.ones(3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_the_covariance_that_prepare_prints_is_accepted(seed):
    grey = np.random.default_rng(seed).normal(scale=70, size=1000)
    covariance = np.cov(np.stack([grey, 1.1 * grey, 0.9 * grey]))
    printed = [[round(value, 6) for value in row] for row in covariance.tolist()]
    assert make_preprocess(_color_config(color_covariance=printed), 3).colors is not None


@pytest.mark.parametrize(
    "covariance", [[[1.0]], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0, 0], [0.5, 1, 0], [0, 0, 1]]]
)
def test_what_is_no_covariance_of_the_channels_is_refused(covariance):
    with pytest.raises(ReportedError, match=r"data\.color_covariance.* 3 channels"):
        make_preprocess(_color_config(color_covariance=covariance), 3)


def test_the_mean_image_is_read_and_checked(tmp_path):
    path = tmp_path / "mean-image.npy"
    config = Config(data=DataConfig(size=64, resize=72, mean_image=path, std=1.0))
    with pytest.raises(ReportedError, match=r"data\.mean_image: .*mean-image\.npy"):
        make_preprocess(config, 1)
    np.save(path, np.full((64, 64, 1), 7, np.float32))
    with pytest.raises(ReportedError, match=r"mean-image\.npy .*\(64, 64, 1\).*\(72, 72, 1\)"):
        make_preprocess(config, 1)
    np.save(path, np.full((72, 72, 1), 7, np.float32))
    images = torch.full((2, 1, 72, 72), 10, dtype=torch.uint8)
    assert (make_preprocess(config, 1)(images) == 3).all()
