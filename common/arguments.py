"""Types of command-line arguments: whole numbers, and lists."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def whole(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """A parser of whole numbers; it raises ArgumentTypeError for one outside of the limits."""

    def parse(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not (is_number and least <= int(text) <= most):
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def listed(parse: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """A parser of A,B,…, each part of which ``parse`` reads."""
    return lambda text: [parse(part) for part in text.split(",")]
