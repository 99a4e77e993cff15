"""Quantities with units, as a person writes them on a command line."""

import re
from argparse import ArgumentTypeError

PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}

LONGEST = 1e3
"""Seconds."""

_QUANTITY = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?) ?(.*)")


def rate(text: str) -> float:
    """Bytes/s from 12.5GB/s, 100Gbit/s or 100gbit; raises ArgumentTypeError for others."""
    number, unit = _split(text, "a rate, such as 12.5GB/s or 100Gbit/s")
    unit = unit.removesuffix("/s").removesuffix("ps")
    for name, size in (("bit", 1 / 8), ("B", 1.0), ("b", 1 / 8)):
        if unit.endswith(name):
            prefix = unit.removesuffix(name)
            prefix = {"g": "G", "m": "M"}.get(prefix, prefix) if name == "bit" else prefix
            if prefix in (table := PREFIXES | BINARY):
                return _positive(number * table[prefix] * size, text)
    raise ArgumentTypeError(f"{text!r} is no rate, such as 12.5GB/s or 100Gbit/s")


def duration(text: str) -> float:
    """Seconds from 20us, 5ms or 0.1s; raises ArgumentTypeError for others."""
    number, unit = _split(text, "a time, such as 20us or 5ms")
    if unit not in TIMES:
        raise ArgumentTypeError(f"{text!r} is no time, such as 20us or 5ms")
    if number * TIMES[unit] > LONGEST:
        raise ArgumentTypeError(f"{text!r} is longer than {LONGEST:.0f} s")
    return number * TIMES[unit]


def size(text: str) -> float:
    """Bytes from 80GB or 80GiB; raises ArgumentTypeError for others."""
    number, unit = _split(text, "a size, such as 80GiB")
    prefix = unit.removesuffix("B")
    if not unit.endswith("B") or prefix not in PREFIXES | BINARY:
        raise ArgumentTypeError(f"{text!r} is no size, such as 80GiB")
    return _positive(number * (PREFIXES | BINARY)[prefix], text)


def _split(text: str, what: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if not match:
        raise ArgumentTypeError(f"{text!r} is not {what}")
    return float(match[1]), match[2]


def _positive(number: float, text: str) -> float:
    if not 1 <= number < 1e18:
        raise ArgumentTypeError(f"{text!r} must be at least a byte, and below 1e18 bytes")
    return number
