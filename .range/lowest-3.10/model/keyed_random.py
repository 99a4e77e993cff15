"""Random numbers as a function of keys.

A generator's next number depends on how many were drawn before, so two placements that divide the
work differently would draw differently. Here every image of every epoch has a key, and each number
is a hash of (key, stream, position): any rank can compute any of them, in any order, on any device,
and a resumed run needs no generator state.
"""

import math

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def hash32(values: Tensor) -> Tensor:
    """Mix each integer of ``values`` (int64, any shape) into a uniform one in [0, 2**32).

    The mixer is the two-round xor-shift-multiply of C. Wellons' "hash prospector" (lowbias32).
    Products overflow int64 harmlessly: only their low 32 bits are kept.
    """
    values = values & _MASK32
    values = values ^ (values >> 16)
    values = (values * 0x7FEB352D) & _MASK32
    values = values ^ (values >> 15)
    values = (values * 0x846CA68B) & _MASK32
    return values ^ (values >> 16)


def image_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Make one key per image and epoch, (B,) int64 in [0, 2**32), from the run's seed.

    ``indices`` (B,) are positions in the data set.
    """
    epoch_key = int(hash32(hash32(torch.tensor(seed)) + epoch))  # on the CPU, whatever the device
    return hash32(hash32(indices) ^ epoch_key)


def random_bits(keys: Tensor, stream: int, positions: Tensor) -> Tensor:
    """Uniform 32-bit integers, (B, N) int64, for keys (B,) and positions (N,).

    Each use (a dropout layer, the crops) has a ``stream`` of its own, so that no two uses share
    their numbers.
    """
    streams = hash32(keys ^ (0x9E3779B9 * (stream + 1) & _MASK32))
    return hash32(streams[:, None] ^ hash32(positions)[None, :])


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """``count`` float32 numbers in [0, 1) for each key: (B, count)."""
    bits = random_bits(keys, stream, torch.arange(count, device=keys.device))
    return (bits >> 8).float() * 2.0**-24


def normal(keys: Tensor, stream: int, count: int) -> Tensor:
    """``count`` float32 numbers for each key, (B, count), of mean 0 and variance 1 (Box-Muller)."""
    radius, angle = uniform(keys, stream, 2 * count).unflatten(1, (2, count)).unbind(1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
