"""Plans: which ranks hold which part of the net. Arithmetic, before any process group exists."""

import re
from dataclasses import replace
from itertools import chain, product

import pytest

from common.errors import ReportedError
from distributed.picture import draw_plan
from distributed.plan import PLACEMENTS, Grid, Plan, Wish, plan_mesh
from model.variants import VARIANTS

PAPER = VARIANTS["paper"]


@pytest.mark.parametrize(
    ("ranks", "towers", "placement", "features", "classifier", "name"),
    [
        (1, 2, "local", (1, 1), (1, 1), "local"),
        (1, 1, "ddp", (1, 1), (1, 1), "local"),
        (4, 2, "local", (1, 4), (1, 4), "ddp"),
        (4, 2, "ddp", (1, 4), (1, 4), "ddp"),
        (2, 2, "split", (2, 1), (2, 1), "split"),
        (8, 2, "split", (2, 4), (2, 4), "split"),
        (4, 4, "split", (4, 1), (4, 1), "split"),
        (2, 4, "split", (2, 1), (2, 1), "split"),
        (2, 1, "split", (2, 1), (2, 1), "split"),
        (4, 1, "split", (4, 1), (4, 1), "split"),
        (2, 1, "hybrid", (1, 2), (2, 1), "hybrid"),
        (4, 2, "hybrid", (1, 4), (4, 1), "hybrid"),
        (4, 2, "split+hybrid", (2, 2), (4, 1), "split+hybrid"),
        (2, 2, "split+hybrid", (2, 1), (2, 1), "split"),
        (1, 2, "auto", (1, 1), (1, 1), "local"),
        (2, 2, "auto", (2, 1), (2, 1), "split"),
        (3, 2, "auto", (1, 3), (1, 3), "ddp"),
        (4, 2, "auto", (2, 2), (2, 2), "split"),
        (6, 2, "auto", (2, 3), (2, 3), "split"),
        (4, 4, "auto", (4, 1), (4, 1), "split"),
        (2, 4, "auto", (1, 2), (1, 2), "ddp"),
        (2, 1, "auto", (1, 2), (1, 2), "ddp"),
    ],
)
def test_each_placement_has_its_grids(ranks, towers, placement, features, classifier, name):
    plan = plan_mesh(Wish(ranks, towers), placement, PAPER)
    assert plan == Plan(towers, Grid(*features), Grid(*classifier))
    assert (plan.world_size, plan.placement) == (ranks, name)


@pytest.mark.parametrize(
    ("wish", "placement", "features", "classifier"),
    [
        (Wish(4, 2, shards=4), "split", (4, 1), (4, 1)),
        (Wish(4, 4, shards=2), "split", (2, 2), (2, 2)),
        (Wish(4, 1, shards=2), "split", (2, 2), (2, 2)),
        (Wish(4, 2, classifier_ranks=2), "hybrid", (1, 4), (2, 2)),
        (Wish(8, 2, classifier_ranks=4), "split+hybrid", (2, 4), (4, 2)),
        (Wish(8, 1, shards=2, classifier_ranks=4), "split+hybrid", (2, 4), (4, 2)),
        (Wish(4, 2, shards=1), "split+hybrid", (1, 4), (4, 1)),
        (Wish(4, 2, classifier_ranks=2), "split+hybrid", (2, 2), (2, 2)),
    ],
)
def test_the_numbers_of_shards_and_of_classifier_ranks_can_be_chosen(
    wish, placement, features, classifier
):
    plan = plan_mesh(wish, placement, PAPER)
    assert (plan.features, plan.classifier) == (Grid(*features), Grid(*classifier))


def test_a_placement_reads_its_own_numbers_alone():
    for placement, wish in (
        ("auto", Wish(4, 2, 4, 4)),
        ("ddp", Wish(4, 2, 4, 4)),
        ("split", Wish(4, 2, None, 4)),
        ("hybrid", Wish(4, 2, 2)),
    ):
        plain = plan_mesh(Wish(wish.ranks, wish.towers), placement, PAPER)
        assert plan_mesh(wish, placement, PAPER) == plain


def test_every_plan_holds_each_unit_once_in_each_copy():
    """For all numbers that are not refused."""
    plans = set()
    for ranks, towers, placement in product(range(1, 9), (1, 2, 4), PLACEMENTS):
        for shards, classifier_ranks in product((None, 1, 2, 4), repeat=2):
            try:
                wish = Wish(ranks, towers, shards, classifier_ranks)
                plans.add(plan_mesh(wish, placement, PAPER))
            except ReportedError:
                continue
    assert len(plans) > 30
    for plan in plans:
        assert plan.classifier.shards * plan.classifier.replicas == plan.world_size
        assert plan.feeds * plan.features.shards == plan.classifier.shards
        for grid in (plan.features, plan.classifier):
            assert list(chain(*grid.copies())) == list(range(plan.world_size))
            assert [len(copy) for copy in grid.copies()] == [grid.shards] * grid.replicas


def test_the_ranks_of_a_copy_are_neighbours():
    assert Grid(2, 3).copies() == [[0, 1], [2, 3], [4, 5]]
    assert Grid(4, 2).parts(2) == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("wish", "placement", "named"),
    [
        (Wish(3, 2, shards=2), "split", ("3 ranks", "of 2 that share the convolutions")),
        (Wish(6, 2, shards=4), "split+hybrid", ("6 ranks", "of 4 that share the convolutions")),
        (Wish(4, 2, classifier_ranks=3), "hybrid", ("4 ranks", "of 3 that share a classifier")),
        (Wish(8, 2, None, 3), "split+hybrid", ("8 ranks", "of 3 that share a classifier")),
        (Wish(4, 2, 4, 2), "split+hybrid", ("groups of 2", "groups of 4")),
        (Wish(2, 2, None, 1), "split+hybrid", ("groups of 1", "groups of 2")),
        (Wish(1, 2), "split", ("1 of 1", "ddp")),
        (Wish(1, 1), "hybrid", ("1 of 1", "ddp")),
        (Wish(1, 2), "split+hybrid", ("1 of 1", "ddp")),
        (Wish(4, 2, shards=1), "split", ("1 of 4", "shards", "ddp")),
        (Wish(4, 2, classifier_ranks=1), "hybrid", ("1 of 4", "classifier_ranks", "ddp")),
        (Wish(5, 1), "split", ("conv1", "5 ranks", "96 units", "shards")),
        (Wish(3, 2), "split", ("conv2", "3 ranks", "256 units", "shards")),
        (Wish(6, 4), "split", ("conv2", "6 ranks", "256 units", "shards")),
        (Wish(3, 2), "hybrid", ("fc6", "3 ranks", "4096 units", "net.hidden")),
        (Wish(6, 2), "split+hybrid", ("fc6", "6 ranks", "4096 units", "net.hidden")),
        (Wish(6, 3, shards=2), "split", ("conv2", "2 ranks", "3 towers")),
    ],
)
def test_an_impossible_plan_is_refused_with_its_numbers(wish, placement, named):
    with pytest.raises(ReportedError, match=re.escape(f"placement {placement} ")) as caught:
        plan_mesh(wish, placement, PAPER)
    assert caught.value.status == 2
    assert all(part in str(caught.value) for part in named), str(caught.value)


NARROW = replace(PAPER, convolutions=(8, 8, 8, 8, 8))


def test_normalisation_reads_one_neighbour_on_either_side_and_no_further():
    with pytest.raises(ReportedError, match=r"8 shards .* 1 channels .* reads 2 "):
        plan_mesh(Wish(8, 1), "split", NARROW)
    plan_mesh(Wish(4, 1), "split", NARROW)
    plan_mesh(Wish(8, 1), "split", replace(NARROW, local_response_norm=False))
    plan_mesh(Wish(8, 8), "split", NARROW)
    with pytest.raises(ReportedError, match="1 channels"):
        plan_mesh(Wish(8, 8), "split", replace(NARROW, lrn_spans_towers=True))


def test_units_that_meet_no_other_tower_may_not_be_cut_across_towers():
    apart = replace(PAPER, hidden=12, convolutions=(12, 12, 12, 12, 12), meet=("conv3",))
    with pytest.raises(ReportedError, match=r"fc6 over 4 ranks.* 6 towers"):
        plan_mesh(Wish(4, 6), "hybrid", apart)
    plan_mesh(Wish(4, 6), "hybrid", replace(apart, meet=("conv3", "fc6", "fc7")))
    plan_mesh(Wish(3, 6), "hybrid", apart)


def _picture(wish, placement, images=128):
    return draw_plan(plan_mesh(wish, placement, PAPER), PAPER, images).splitlines()


@pytest.mark.parametrize(
    ("wish", "placement", "lines"),
    [
        (
            Wish(4, 2),
            "split",
            [
                "          conv1 to conv5          fc6 to fc8",
                "  rank 0  tower 0, images 0-63    units 0-2047, images 0-63",
                "  rank 1  tower 1, images 0-63    units 2048-4095, images 0-63",
                "  rank 2  tower 0, images 64-127  units 0-2047, images 64-127",
                "  rank 3  tower 1, images 64-127  units 2048-4095, images 64-127",
            ],
        ),
        (
            Wish(2, 1),
            "hybrid",
            [
                "          conv1 to conv5            fc6 to fc8",
                "  rank 0  all units, images 0-63    units 0-2047, images 0-127",
                "  rank 1  all units, images 64-127  units 2048-4095, images 0-127",
            ],
        ),
        (
            Wish(4, 2, classifier_ranks=2),
            "hybrid",
            [
                "          conv1 to conv5             fc6 to fc8",
                "  rank 0  towers 0-1, images 0-31    units 0-2047, images 0-63",
                "  rank 1  towers 0-1, images 32-63   units 2048-4095, images 0-63",
                "  rank 2  towers 0-1, images 64-95   units 0-2047, images 64-127",
                "  rank 3  towers 0-1, images 96-127  units 2048-4095, images 64-127",
            ],
        ),
        (
            Wish(4, 2),
            "split+hybrid",
            [
                "          conv1 to conv5          fc6 to fc8",
                "  rank 0  tower 0, images 0-63    units 0-1023, images 0-127",
                "  rank 1  tower 1, images 0-63    units 1024-2047, images 0-127",
                "  rank 2  tower 0, images 64-127  units 2048-3071, images 0-127",
                "  rank 3  tower 1, images 64-127  units 3072-4095, images 0-127",
            ],
        ),
        (
            Wish(2, 1),
            "split",
            [
                "          conv1 to conv5             fc6 to fc8",
                "  rank 0  part 1 of 2, images 0-127  units 0-2047, images 0-127",
                "  rank 1  part 2 of 2, images 0-127  units 2048-4095, images 0-127",
            ],
        ),
        (
            Wish(4, 2, shards=4),
            "split",
            [
                "          conv1 to conv5                      fc6 to fc8",
                "  rank 0  tower 0, part 1 of 2, images 0-127  units 0-1023, images 0-127",
                "  rank 1  tower 0, part 2 of 2, images 0-127  units 1024-2047, images 0-127",
                "  rank 2  tower 1, part 1 of 2, images 0-127  units 2048-3071, images 0-127",
                "  rank 3  tower 1, part 2 of 2, images 0-127  units 3072-4095, images 0-127",
            ],
        ),
        (
            Wish(2, 4),
            "split",
            [
                "          conv1 to conv5            fc6 to fc8",
                "  rank 0  towers 0-1, images 0-127  units 0-2047, images 0-127",
                "  rank 1  towers 2-3, images 0-127  units 2048-4095, images 0-127",
            ],
        ),
    ],
    ids=[
        *("split", "hybrid", "hybrid in groups", "split+hybrid", "dense split"),
        *("shared towers", "two towers a rank"),
    ],
)
def test_the_picture_shows_what_each_rank_works_on(wish, placement, lines):
    assert _picture(wish, placement) == lines


def test_the_picture_shows_the_images_of_the_ranks_that_feed_a_classifier():
    wish = Wish(4, 2, classifier_ranks=2)
    assert _picture(wish, "hybrid", images=130) == [
        "          conv1 to conv5             fc6 to fc8",
        "  rank 0  towers 0-1, images 0-32    units 0-2047, images 0-65",
        "  rank 1  towers 0-1, images 33-65   units 2048-4095, images 0-65",
        "  rank 2  towers 0-1, images 66-97   units 0-2047, images 66-129",
        "  rank 3  towers 0-1, images 98-129  units 2048-4095, images 66-129",
    ]


def test_the_picture_shows_ranks_without_images():
    assert _picture(Wish(3, 2), "ddp", images=2) == [
        "          conv1 to conv5         fc6 to fc8",
        "  rank 0  towers 0-1, image 0    all units, image 0",
        "  rank 1  towers 0-1, image 1    all units, image 1",
        "  rank 2  towers 0-1, no images  all units, no images",
    ]


def test_the_picture_of_many_ranks_shows_the_first_and_counts_the_rest():
    lines = _picture(Wish(16, 1), "split")
    assert [line.split()[:2] for line in lines[1:-1]] == [["rank", str(n)] for n in range(8)]
    assert lines[8] == "  rank 7  part 8 of 16, images 0-127  units 1792-2047, images 0-127"
    assert lines[-1] == "  … and 8 more ranks"
    assert len(_picture(Wish(8, 2), "split")) == 9


@pytest.mark.parametrize(
    ("wish", "placement"),
    [
        (Wish(64, 2), "ddp"),
        (Wish(64, 2), "split"),
        (Wish(64, 2, shards=32), "split"),
        (Wish(64, 2), "hybrid"),
        (Wish(64, 2), "split+hybrid"),
        (Wish(64, 16, shards=32), "split+hybrid"),
    ],
)
def test_the_picture_of_64_ranks_fits_a_terminal(wish, placement):
    lines = _picture(wish, placement, images=10**6)
    assert len(lines) == 10
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("images", [1, 5, 127])
@pytest.mark.parametrize("wish", [Wish(4, 2), Wish(8, 2)])
def test_the_picture_gives_every_image_to_one_replica(wish, images):
    picture = "\n".join(_picture(wish, "split", images))
    spans = re.findall(r"tower 0, images? (\d+)(?:-(\d+))?", picture)
    drawn = [image for first, last in spans for image in range(int(first), int(last or first) + 1)]
    assert drawn == list(range(images))
