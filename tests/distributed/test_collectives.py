"""Every collective on real ranks: values, gradients, memory layout and bytes.

The ranks' losses differ, so that a gradient sent to the wrong rank, or counted twice, is seen.
``gradcheck`` moves the same number on every rank at once: numerically it differentiates the sum of
all losses, and ``_Own`` and ``_Total`` make the analytic gradient that of the same sum.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distributed.collectives import (
    Ranks,
    all_reduce,
    border_widths,
    exchange_borders,
    gather,
    gather_images,
    sum_to_owners,
)
from distributed.overlap import gather_and_apply
from distributed.placement import Bordered
from distributed.plan import Grid, Plan
from distributed.timer import StepTimer
from model.normalization import WINDOW, LocalResponseNorm
from tests.ranks import mesh_of

CPU = torch.device("cpu")
POOLS = {1: "one_rank", 2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
SHARES = {
    "unequal": [3, 1, 2, 4],
    "a rank without images": [2, 0, 1, 3],
    "the first without images": [0, 2, 1, 1],
    "no images": [0, 0, 0, 0],
}
"""Images of each rank, of which the first ranks of fewer take theirs."""


@pytest.fixture(params=POOLS, ids=lambda size: f"{size} ranks")
def pool(request):
    """One to four ranks."""
    return request.getfixturevalue(POOLS[request.param])


@pytest.fixture(params=[2, 3, 4], ids=lambda size: f"{size} ranks")
def several(request):
    """Two to four ranks."""
    return request.getfixturevalue(POOLS[request.param])


shares_of_ranks = pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)


def _ranks():
    return Ranks(dist.group.WORLD, StepTimer(CPU)).at("here")  # type: ignore[arg-type]


def _gather_then_apply(layer, x, ranks):
    """The plain form."""
    return layer(gather(x, ranks))


FORMS = {"plain": _gather_then_apply, "overlapped": gather_and_apply}
forms = pytest.mark.parametrize("form", FORMS)


def _whole(*shape):
    """A tensor that is equal on every rank."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class _Own(torch.autograd.Function):
    """This rank's ``part`` of a tensor that all hold; its gradient is made whole on all."""

    @staticmethod
    def forward(ctx, x, part):
        ctx.part, ctx.shape = part, x.shape
        return x[part].clone()

    @staticmethod
    def backward(ctx, grad):
        whole = grad.new_zeros(ctx.shape)
        whole[ctx.part] = grad
        dist.all_reduce(whole)
        return whole, None


class _Total(torch.autograd.Function):
    """The sum of the losses of a group's ranks, each of which has the derivative 1."""

    @staticmethod
    def forward(ctx, loss, group):
        total = loss.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def _gradcheck(collective, whole, part, ranks):
    """True if ``collective`` of own parts has the gradient of the sum of the ``ranks``' losses."""

    def total(x):
        loss = collective(_Own.apply(x, part)).sin() * (1 + ranks.index)
        return _Total.apply(loss.sum(), ranks.group)

    return torch.autograd.gradcheck(total, whole.requires_grad_(), check_undefined_grad=False)


def _channels(each):
    """The slice of this rank's ``each`` channels, of a tensor (B, C, …)."""
    first = dist.get_rank() * each
    return slice(None), slice(first, first + each)


def _rows(counts):
    first = sum(counts[: dist.get_rank()])
    return slice(first, first + counts[dist.get_rank()])


def _gradient(x):
    assert x.grad is not None
    return x.grad


def _mesh(features, classifier):
    return mesh_of(Plan(1, Grid(*features), Grid(*classifier)))


# --- gather, gather_and_apply ---------------------------------------------------------------------


def _gathered(shape):
    whole, ranks = _whole(*shape), _ranks()
    found = gather(whole[_channels(3)], ranks)
    return torch.equal(found, whole)


@pytest.mark.parametrize("shape", [(), (4, 5)], ids=["units", "maps"])
def test_a_gather_brings_the_channels_of_all_ranks_in_rank_order(pool, shape):
    assert all(pool.run(_gathered, (2, 3 * len(pool.pipes), *shape)))


def _gradcheck_gather(shape):
    whole, ranks = _whole(*shape), _ranks()
    return _gradcheck(lambda x: gather(x, ranks), whole, _channels(2), ranks)


@pytest.mark.parametrize("shape", [(), (2, 1)], ids=["units", "maps"])
def test_a_gathers_gradient_adds_what_all_ranks_computed(pool, shape):
    assert all(pool.run(_gradcheck_gather, (2, 2 * len(pool.pipes), *shape)))


def _layers(kind):
    """Every rank's layer, and its full-width form, whose outputs are all ranks' in rank order."""
    n = dist.get_world_size()
    torch.manual_seed(0)
    full = nn.Conv2d(3 * n, 2 * n, 3, padding=1) if kind == "conv" else nn.Linear(3 * n, 2 * n)
    full = full.double().to(memory_format=torch.channels_last)
    rank = dist.get_rank()
    own = nn.Conv2d(3 * n, 2, 3, padding=1) if kind == "conv" else nn.Linear(3 * n, 2)
    own.load_state_dict({k: v.chunk(n)[rank] for k, v in full.state_dict().items()})
    return full, own.double().to(memory_format=torch.channels_last)


def _input(kind):
    n = dist.get_world_size()
    whole = _whole(2, 3 * n, 4, 5) if kind == "conv" else _whole(2, 3 * n)
    part = whole.chunk(n, 1)[dist.get_rank()].clone()
    if kind == "conv":
        part = part.contiguous(memory_format=torch.channels_last)
    return whole.requires_grad_(), part.requires_grad_()


def _gathering_against_the_full_layer(kind, form):
    """The largest differences of outputs and of the gradients of inputs, weight and bias."""
    n, rank = dist.get_world_size(), dist.get_rank()
    full, own = _layers(kind)
    whole, part = _input(kind)
    expected = full(whole).chunk(n, 1)
    sum((out.sin() * (1 + place)).sum() for place, out in enumerate(expected)).backward()
    found = FORMS[form](own, part, _ranks())
    (found.sin() * (1 + rank)).sum().backward()
    pairs = [
        (found, expected[rank]),
        (part.grad, whole.grad.chunk(n, 1)[rank]),
        (own.weight.grad, full.weight.grad.chunk(n)[rank]),
        (own.bias.grad, full.bias.grad.chunk(n)[rank]),
    ]
    return [float((a - b).detach().abs().max()) for a, b in pairs]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@forms
def test_gathering_computes_the_full_layer(pool, kind, form):
    for differences in pool.run(_gathering_against_the_full_layer, kind, form):
        assert max(differences) < 1e-12


def _strided(form):
    """Output and gradients of a convolution with stride 2 and no bias."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3 * dist.get_world_size(), 4, 5, 2, 2, bias=False).double()
    _, part = _input("conv")
    out = FORMS[form](layer, part, _ranks())
    (out.sin() * (1 + dist.get_rank())).sum().backward()
    return out.detach(), part.grad, layer.weight.grad


def test_both_forms_of_a_gather_are_equal_before_a_strided_convolution(several):
    for plain, overlapped in zip(*(several.run(_strided, form) for form in FORMS), strict=True):
        for a, b in zip(plain, overlapped, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def _mixed_precision(kind, form):
    _, own = _layers(kind)
    _, part = _input(kind)
    own, part = own.float(), part.detach().float().requires_grad_()
    ranks = _ranks()
    with torch.autocast("cpu", torch.bfloat16):
        out = FORMS[form](own, part, ranks)
    out.float().sin().sum().backward()
    sent = ranks.timer.sent["here"] / part.numel()
    return out.dtype, part.grad.dtype, own.weight.grad.dtype, sent


@pytest.mark.parametrize("kind", ["conv", "linear"])
@forms
def test_under_autocast_a_gather_sends_bf16_and_returns_gradients_as_the_input(several, kind, form):
    others = len(several.pipes) - 1
    for out, grad, weight_grad, bytes_each in several.run(_mixed_precision, kind, form):
        assert (out, grad, weight_grad) == (torch.bfloat16, torch.float32, torch.float32)
        assert bytes_each == 2 * others * torch.bfloat16.itemsize


def _booked(form):
    _, own = _layers("conv")
    _, part = _input("conv")
    ranks = _ranks()
    out = FORMS[form](own, part, ranks)
    forward = dict(ranks.timer.sent)
    out.sin().sum().backward()
    last = [t.is_contiguous(memory_format=torch.channels_last) for t in (out, part.grad)]
    return part.nbytes, forward, dict(ranks.timer.sent), last


@forms
def test_a_gather_counts_the_bytes_it_sends_each_way_and_keeps_the_layout(several, form):
    others = len(several.pipes) - 1
    for own, forward, both, last in several.run(_booked, form):
        assert forward == {"here": others * own}
        assert both == {"here": 2 * others * own}
        assert last == [True, True]


def _empty(form):
    _, own = _layers("conv")
    x = torch.empty(0, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    out = FORMS[form](own, x, _ranks())
    out.sum().backward()
    assert x.grad is not None
    return out.shape, x.grad.shape


@forms
def test_a_replica_without_images_gathers_too(several, form):
    for found in several.run(_empty, form):
        assert found == ((0, 2, 2, 2), (0, 3, 2, 2))


# --- all_reduce -----------------------------------------------------------------------------------


def _summed():
    n, ranks = dist.get_world_size(), _ranks()
    whole = _whole(n, 2, 6)
    x = whole[dist.get_rank()].T.contiguous().T  # not contiguous
    found = all_reduce(x, ranks)
    right = torch.allclose(found, whole.sum(0), rtol=0, atol=1e-14) and found.is_contiguous()
    unchanged = torch.equal(x, whole[dist.get_rank()])
    return right and unchanged, ranks.timer.sent["here"], found.nbytes


def test_all_reduce_adds_up_and_leaves_its_input(pool):
    n = len(pool.pipes)
    for right, sent, size in pool.run(_summed):
        assert right
        assert sent == pytest.approx(2 * (n - 1) / n * size)


def _gradcheck_sum():
    whole, ranks = _whole(dist.get_world_size(), 2, 3).requires_grad_(), _ranks()
    part = slice(dist.get_rank(), dist.get_rank() + 1)

    def one_loss(x):
        return all_reduce(_Own.apply(x, part), ranks).sin()

    return torch.autograd.gradcheck(one_loss, whole, check_undefined_grad=False)


def test_all_reduce_has_the_gradient_of_one_loss_not_of_many(pool):
    assert all(pool.run(_gradcheck_sum))


def _sum_of_bf16():
    ranks = _ranks()
    x = torch.full((2, 3), 0.5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = all_reduce(x @ torch.eye(3), ranks)
    (out.float() * (1 + torch.arange(3))).sum().backward()
    return out.dtype, x.grad, ranks.timer.sent["here"]


def test_all_reduce_sends_what_it_is_given_once(several):
    n = len(several.pipes)
    for dtype, grad, sent in several.run(_sum_of_bf16):
        assert dtype == torch.bfloat16
        assert torch.equal(grad, torch.tensor([[1.0, 2.0, 3.0]] * 2))
        assert sent == pytest.approx(2 * (n - 1) / n * 6 * 2), "backward sends nothing"


def _sum_of_nothing():
    x = torch.empty(0, 3, requires_grad=True)
    out = all_reduce(x, _ranks())
    out.sum().backward()
    return out.shape, _gradient(x).shape


def test_all_reduce_of_no_images_is_empty(several):
    assert several.run(_sum_of_nothing) == [((0, 3), (0, 3))] * len(several.pipes)


# --- exchange_borders -----------------------------------------------------------------------------


def _borders(width, each):
    n, rank, ranks = dist.get_world_size(), dist.get_rank(), _ranks()
    whole = _whole(2, n * each, 3, 4)
    own = whole[_channels(each)].contiguous(memory_format=torch.channels_last).requires_grad_()
    found = exchange_borders(own, width, ranks)
    left, right = border_widths(width, ranks)
    expected = whole[:, rank * each - left : (rank + 1) * each + right]
    forward = ranks.timer.sent["here"]
    found.sin().sum().backward()
    layout = [t.is_contiguous(memory_format=torch.channels_last) for t in (found, own.grad)]
    map_bytes = found[:, 0].nbytes
    return (left, right), torch.equal(found, expected), forward / map_bytes, layout


@pytest.mark.parametrize(("width", "each"), [(2, 5), (2, 2), (1, 4)])
def test_borders_are_the_nearest_channels_of_the_neighbours(pool, width, each):
    n = len(pool.pipes)
    for rank, (widths, right, sent, layout) in enumerate(pool.run(_borders, width, each)):
        assert widths == (width * (rank > 0), width * (rank < n - 1))
        assert right
        assert sent == sum(widths)
        assert layout == [True, True]


def _border_bytes_of_both_ways(width, each):
    ranks = _ranks()
    own = torch.zeros(2, each, 3, 4, requires_grad=True)
    exchange_borders(own, width, ranks).sin().sum().backward()
    return ranks.timer.sent["here"] / own[:, 0].nbytes


def test_borders_send_as_much_backward_as_forward(pool):
    n = len(pool.pipes)
    for rank, sent in enumerate(pool.run(_border_bytes_of_both_ways, 2, 3)):
        assert sent == 2 * 2 * ((rank > 0) + (rank < n - 1))


def _gradcheck_borders(width, each):
    ranks = _ranks()
    whole = _whole(1, dist.get_world_size() * each, 2, 1)
    return _gradcheck(lambda x: exchange_borders(x, width, ranks), whole, _channels(each), ranks)


@pytest.mark.parametrize(("width", "each"), [(1, 2), (2, 2), (2, 3)])
def test_borders_have_the_gradient_of_what_the_neighbours_computed(pool, width, each):
    assert all(pool.run(_gradcheck_borders, width, each))


def _normalised_in_parts(each, images, tower):
    """Differences of output and input gradient from the whole net's normalisation."""
    n, rank = dist.get_world_size(), dist.get_rank()
    groups = [list(range(first, first + tower)) for first in range(0, n, tower)]
    group, _ = dist.new_subgroups_by_enumeration(groups)
    ranks = Ranks(group, StepTimer(CPU))  # type: ignore[arg-type]
    whole = (_whole(images, n * each, 3, 4) * 100).requires_grad_()
    own = whole.detach()[_channels(each)].contiguous(memory_format=torch.channels_last)
    own.requires_grad_()
    expected = LocalResponseNorm(n // tower)(whole).chunk(n, 1)
    sum((out.sin() * (1 + place)).sum() for place, out in enumerate(expected)).backward()
    found = Bordered(LocalResponseNorm(), WINDOW // 2, ranks)(own)
    (found.sin() * (1 + rank)).sum().backward()
    pairs = [(found, expected[rank]), (own.grad, whole.grad[_channels(each)])]
    return [torch.allclose(a, b, rtol=1e-13, atol=1e-13) for a, b in pairs]


@pytest.mark.parametrize(("each", "images"), [(6, 2), (2, 2), (4, 0)])
def test_normalising_with_borders_is_that_of_the_whole_net(pool, each, images):
    found = pool.run(_normalised_in_parts, each, images, len(pool.pipes))
    assert found == [[True, True]] * len(pool.pipes)


def test_normalising_with_borders_stays_within_a_tower_of_two_ranks(four_ranks):
    assert four_ranks.run(_normalised_in_parts, 3, 2, 2) == [[True, True]] * 4


def _borders_in_bf16():
    ranks = _ranks()
    own = torch.randn(2, 4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = exchange_borders(own, 2, ranks)
    forward = ranks.timer.sent["here"] / out[:, 0].numel()
    out.float().sin().sum().backward()
    return out.dtype, _gradient(own).dtype, forward, border_widths(2, ranks)


def test_borders_travel_as_bf16_under_autocast(several):
    for out, grad, sent, widths in several.run(_borders_in_bf16):
        assert (out, grad) == (torch.bfloat16, torch.float32)
        assert sent == 2 * sum(widths)


# --- gather_images --------------------------------------------------------------------------------


def _images(shares):
    """Values, layout and both ways' bytes in rows of bf16's size, from inputs in odd layouts."""
    counts, ranks = shares[: dist.get_world_size()], _ranks()
    whole = _whole(sum(counts), 4)
    own = whole[_rows(counts)].T.contiguous().T.requires_grad_()  # not contiguous
    found = gather_images(own, counts, ranks)
    forward = ranks.timer.sent["here"]
    found.sin().sum().backward()
    row = 4 * 8
    right = (
        torch.equal(found, whole) and found.is_contiguous() and _gradient(own).shape == own.shape
    )
    return right, forward / row, (ranks.timer.sent["here"] - forward) / row


@shares_of_ranks
def test_all_images_come_together_in_rank_order(pool, shares):
    n = len(pool.pipes)
    counts = shares[:n]
    for rank, (right, forward, backward) in enumerate(pool.run(_images, shares)):
        assert right
        assert forward == (n - 1) * counts[rank]
        assert backward == sum(counts) - counts[rank]


def _gradcheck_images(shares):
    counts, ranks = shares[: dist.get_world_size()], _ranks()
    whole = _whole(sum(counts), 2)
    return _gradcheck(lambda x: gather_images(x, counts, ranks), whole, _rows(counts), ranks)


@pytest.mark.parametrize("shares", [SHARES["unequal"], SHARES["a rank without images"]])
def test_images_have_the_gradient_of_what_all_ranks_computed(pool, shares):
    assert all(pool.run(_gradcheck_images, shares))


def _images_in_bf16(shares):
    counts, ranks = shares[: dist.get_world_size()], _ranks()
    own = torch.randn(counts[dist.get_rank()], 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = gather_images(own, counts, ranks)
    forward = ranks.timer.sent["here"]
    out.float().sin().sum().backward()
    return out.dtype, _gradient(own).dtype, forward / 4, (ranks.timer.sent["here"] - forward) / 4


@shares_of_ranks
def test_images_travel_as_bf16_under_autocast(several, shares):
    n = len(several.pipes)
    counts = shares[:n]
    for rank, (out, grad, *sent) in enumerate(several.run(_images_in_bf16, shares)):
        assert (out, grad) == (torch.bfloat16, torch.float32)
        assert sent == [2 * (n - 1) * counts[rank], 2 * (sum(counts) - counts[rank])]


# --- sum_to_owners --------------------------------------------------------------------------------


def _owned(features, classifier, shares):
    """Values and both ways' bytes, in rows, with the losses of each replica alike on its ranks."""
    mesh = _mesh(features, classifier)
    ranks, owners = mesh.classifier.slices.at("logits"), mesh.feeders.at("logits")
    counts = shares[: mesh.plan.feeds]
    parts = _whole(ranks.size, sum(counts), 4)
    own = parts[ranks.index].T.contiguous().T.requires_grad_()  # not contiguous
    found = sum_to_owners(own, counts, ranks, owners)
    forward = mesh.timer.sent["logits"]
    weight = torch.arange(1, len(counts) + 1)
    (found.sin() * weight[owners.index]).sum().backward()
    total = parts.sum(0)
    expected = total.split(counts)[owners.index]
    gradient = total.cos() * weight.repeat_interleave(torch.tensor(counts))[:, None]
    right = torch.allclose(found, expected, rtol=0, atol=1e-14)
    right_gradient = torch.allclose(own.grad, gradient, rtol=0, atol=1e-13)
    sent = [n / (4 * 8) for n in (forward, mesh.timer.sent["logits"] - forward)]
    return right, right_gradient, found.is_contiguous(), sent, set(mesh.timer.sent)


HYBRIDS = {
    "2 ranks": ((1, 2), (2, 1)),
    "3 ranks": ((1, 3), (3, 1)),
    "4 ranks": ((1, 4), (4, 1)),
    "2 groups of 2 ranks": ((1, 4), (2, 2)),
    "2 replicas of 2 shards": ((2, 2), (4, 1)),
}
"""(shards, replicas) of the features and of the classifier."""
hybrids = pytest.mark.parametrize(("features", "classifier"), HYBRIDS.values(), ids=list(HYBRIDS))


@shares_of_ranks
@hybrids
def test_owners_get_the_sum_of_their_images_and_give_every_part_its_gradient(
    request, features, classifier, shares
):
    pool = request.getfixturevalue(POOLS[features[0] * features[1]])
    feeds = classifier[0] // features[0]
    counts = shares[:feeds]
    results = pool.run(_owned, features, classifier, shares)
    for rank, (right, right_gradient, contiguous, sent, boundaries) in enumerate(results):
        own = counts[rank // features[0] % feeds]
        assert right
        assert right_gradient
        assert contiguous
        assert sent == [features[0] * sum(counts) - own, (feeds - 1) * own]
        assert boundaries == {"logits"}


def _gradcheck_owners(features, classifier, shares):
    mesh = _mesh(features, classifier)
    ranks, owners = mesh.classifier.slices, mesh.feeders
    counts = shares[: mesh.plan.feeds]
    whole = _whole(mesh.plan.world_size, sum(counts), 2)
    return _gradcheck(
        lambda x: sum_to_owners(x[0], counts, ranks, owners),
        whole,
        slice(mesh.rank, mesh.rank + 1),
        owners,
    )


@hybrids
def test_owners_losses_count_once_for_each_replica(request, features, classifier):
    """A classifier's ranks see the losses of its own replicas only."""
    pool = request.getfixturevalue(POOLS[features[0] * features[1]])
    if classifier[1] > 1:
        pytest.skip("gradcheck moves the inputs of all groups, and sees the loss of one")
    assert all(pool.run(_gradcheck_owners, features, classifier, [2, 0, 1, 3]))


def _owners_in_bf16():
    mesh = _mesh((1, dist.get_world_size()), (dist.get_world_size(), 1))
    counts = SHARES["unequal"][: dist.get_world_size()]
    own = torch.randn(sum(counts), 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        partial = own @ torch.eye(4)
        out = sum_to_owners(partial, counts, mesh.classifier.slices.at("here"), mesh.feeders)
    forward = mesh.timer.sent["here"]
    out.float().sin().sum().backward()
    return out.dtype, _gradient(own).dtype, forward / 4


def test_the_parts_of_owners_travel_as_they_were_computed(several):
    counts = SHARES["unequal"][: len(several.pipes)]
    for rank, (out, grad, sent) in enumerate(several.run(_owners_in_bf16)):
        assert (out, grad) == (torch.bfloat16, torch.float32)
        assert sent == 2 * (sum(counts) - counts[rank])


# --- Time -----------------------------------------------------------------------------------------


def _waits():
    """Parts of the time that one of each collective books."""
    n, ranks = dist.get_world_size(), _ranks()
    _, own = _layers("linear")
    x = torch.ones(n, 3, dtype=torch.float64, requires_grad=True)
    counts = [n] * n
    maps = x[:, :, None, None]
    outputs = [
        lambda: gather(x, ranks),
        lambda: gather_and_apply(own, x, ranks),
        lambda: all_reduce(x, ranks),
        lambda: exchange_borders(maps, 1, ranks),
        lambda: gather_images(x, counts, ranks),
        lambda: sum_to_owners(x, [1] * n, ranks, ranks),
    ]
    booked = []
    for run in outputs:
        run().sin().sum().backward()
        parts = ranks.timer.take().cost().parts
        booked.append({name for name, seconds in parts.items() if seconds})
    return booked


def test_waiting_is_booked_as_communication_of_activations(two_ranks):
    for booked in two_ranks.run(_waits):
        assert booked == [{"activation_communication"}] * 6
