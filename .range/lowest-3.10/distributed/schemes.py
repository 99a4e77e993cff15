"""The schemes by which a hybrid's classifier takes turns on the images: Krizhevsky 2014's three."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise


def _whole(shares: Sequence[int]) -> list[list[slice]]:
    return [[slice(0, share) for share in shares]]


def _replica_by_replica(shares: Sequence[int]) -> list[list[slice]]:
    return [
        [slice(0, share if turn == replica else 0) for replica, share in enumerate(shares)]
        for turn in range(len(shares))
    ]


def _part_of_each(shares: Sequence[int]) -> list[list[slice]]:
    cuts = [_even_parts(share, len(shares)) for share in shares]
    return [list(turn) for turn in zip(*cuts, strict=True)]


def _even_parts(count: int, number: int) -> list[slice]:
    """``number`` slices of ``count`` rows, as ``Tensor.tensor_split`` cuts them."""
    each, more = divmod(count, number)
    ends = accumulate((each + (part < more) for part in range(number)), initial=0)
    return [slice(*pair) for pair in pairwise(ends)]


SCHEMES: dict[str, Callable[[Sequence[int]], list[list[slice]]]] = {
    "a": _whole,
    "b": _replica_by_replica,
    "c": _part_of_each,
}
"""(a) all images at once; (b) the images of one replica in each turn; (c) in each turn an equal
part of every replica's. Each gives, for every turn and replica, the replica's images, from the
numbers of images that the replicas have."""
